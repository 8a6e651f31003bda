"""New rows are divided so that no user and no prompt is on two sides."""

from __future__ import annotations

from serving.feedback_rows import FeedbackRow
from serving.feedback_split import divided


def row(n: int, unit: str, prompt: str) -> FeedbackRow:
    return FeedbackRow(f"r{n}", unit, float(n), (("user", prompt),), "a", "correction")


def test_units_and_prompts_lie_on_one_side() -> None:
    rows = [row(n, f"u{n // 3}", f"q{n if n % 7 else 0}") for n in range(200)]
    parts = divided(rows, 0.25, 0.1)
    sides = (parts.train, parts.validation, parts.test)
    assert sum(map(len, sides)) == 200
    for key in (lambda one: one.unit, lambda one: one.prompt):
        seen = [{key(one) for one in side} for side in sides]
        assert sum(map(len, seen)) == len(set.union(*seen))


def test_the_same_rows_fall_the_same_way_in_about_the_shares_asked_for() -> None:
    rows = [row(n, f"u{n}", f"q{n}") for n in range(200)]
    parts = divided(rows, 0.25, 0.1)
    assert (len(parts.test), len(parts.validation)) == (50, 20)
    again = divided(rows[::-1], 0.25, 0.1)
    assert {one.request for one in again.test} == {one.request for one in parts.test}


def test_rows_that_hang_together_all_go_to_training() -> None:
    parts = divided([row(n, "one", f"q{n}") for n in range(20)], 0.25, 0.1)
    assert (len(parts.train), parts.test) == (20, [])
