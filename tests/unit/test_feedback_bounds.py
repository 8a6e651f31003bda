"""No single user decides what a child learns, and nobody is believed against others."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from serving.feedback_bounds import bounded, most_of_one
from serving.feedback_rows import FeedbackRow


def row(n: int, unit: str, answer: str = "a", prompt: str | None = None, *, has_unit: bool = True) -> FeedbackRow:
    turns = (("user", prompt or f"question {n}"),)
    return FeedbackRow(f"r{n}", unit, float(n), turns, answer, "correction", has_unit)


def test_a_flooding_user_has_few_rows_and_a_small_share() -> None:
    honest = [row(n, f"u{n}") for n in range(60)]
    flood = [row(1000 + n, "flooder", "poison") for n in range(500)]
    kept, left_out = bounded([*honest, *flood], max_rows_per_unit=20, max_unit_frac=0.1)
    poisoned = sum(one.answer == "poison" for one in kept)
    assert len(kept) - poisoned == 60
    assert 0 < poisoned <= 0.1 * len(kept)
    assert left_out == Counter({"over_unit": 480, "over_share": 20 - poisoned})


def test_those_who_name_no_unit_are_bounded_together() -> None:
    rows = [row(n, f"u{n}") for n in range(60)] + [row(100 + n, f"random{n}", has_unit=False) for n in range(300)]
    kept, _ = bounded(rows, max_rows_per_unit=20, max_unit_frac=0.1)
    assert sum(not one.has_unit for one in kept) <= 6


def test_most_units_decide_what_is_right_and_a_tie_decides_nothing() -> None:
    vote = [row(1, "u1", "shipping", "where?"), row(2, "u2", " shipping", "Where? "), row(3, "liar", "bugs", "where?")]
    tie = [row(4, "u1", "x", "who?"), row(5, "u2", "y", "who?")]
    kept, left_out = bounded([*vote, *tie], 20, 1.0)
    assert [(one.answer, one.voices) for one in kept] == [("shipping", 2)]
    assert left_out == Counter({"conflicting_answers": 3, "repeated": 1})


def test_one_user_has_one_voice_however_often_it_speaks() -> None:
    rows = [*(row(n, "liar", "bugs", "where?") for n in range(50)), row(90, "u1", "shipping", "where?"),
            row(91, "u2", "shipping", "where?")]  # fmt: skip
    kept, left_out = bounded(rows, 20, 1.0)
    assert [one.answer for one in kept] == ["shipping"]
    assert left_out == Counter({"superseded": 49, "conflicting_answers": 1, "repeated": 1})


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.floats(0.01, 1.0))
def test_nobody_has_more_than_the_share_unless_it_is_one_row(sizes: list[int], frac: float) -> None:
    most = most_of_one(sizes, frac)
    kept = [min(size, most) for size in sizes]
    assert most == 1 or most <= frac * sum(kept)
