"""A condition is read as it is written, or refused with the character that is wrong."""

from __future__ import annotations

import pytest

from cluster.errors import UsageError
from serving.conditions import cause_of, parse_when

WHEN = "drift > 0.6 or outcome < champion - 0.03 or new_rows >= 500 or every 30d"
CALM = {"drift": 0.5, "outcome": 0.7, "champion": 0.7, "new_rows": 0.0, "since_s": 0.0}


def holds(when: str, **facts: float | None) -> list[bool | None]:
    return [clause.holds(CALM | facts) for clause in parse_when(when)]


def test_each_clause_is_a_cause_of_its_own() -> None:
    assert [clause.text for clause in parse_when(WHEN)] == [
        "drift > 0.6", "outcome < champion - 0.03", "new_rows >= 500", "every 30d",
    ]  # fmt: skip
    assert holds(WHEN) == [False] * 4
    assert holds(WHEN, drift=0.61) == [True, False, False, False]
    assert holds(WHEN, outcome=0.66) == [False, True, False, False]
    assert holds(WHEN, new_rows=500.0, since_s=30 * 86400.0) == [False, False, True, True]


def test_and_binds_closer_than_or() -> None:
    when = "drift > 0.6 and new_rows >= 100 or every 12h"
    assert holds(when, drift=0.7) == [False, False]
    assert holds(when, drift=0.7, new_rows=100.0, since_s=43200.0) == [True, True]


def test_what_is_not_known_is_neither_true_nor_false() -> None:
    assert holds("drift > 0.6 and new_rows >= 1", drift=None, new_rows=5.0) == [None]
    assert holds("drift > 0.6 and new_rows >= 1", drift=None) == [False]


@pytest.mark.parametrize(
    ("text", "other", "cause"),
    [
        ("drift > 0.60", "  drift>.6", "drift > 0.6"),
        ("0.6 < drift", "drift > 0.600", "drift > 0.6"),
        ("champion-0.03>outcome", "outcome<champion  -.030", "outcome < champion - 0.03"),
        ("new_rows >= 500.0", "500 <= new_rows", "new_rows >= 500"),
        ("every 720h", "every 30.0d", "every 30d"),
        ("every 1.1h", "every 66m", "every 66m"),
        ("every 90s", "every 1.5m", "every 90s"),
        ("new_rows>=9 and drift>.6", "drift > .6 and new_rows>=9 and drift > 0.6", "drift > 0.6 and new_rows >= 9"),
        ("outcome < 1 - 2", "0 - 1 > outcome", "outcome < 0 - 1"),
        ("drift > 0.00001", "drift > .000010", "drift > 0.00001"),
    ],
)  # fmt: skip
def test_a_cause_is_one_however_it_is_written(text: str, other: str, cause: str) -> None:
    assert [cause_of(text), cause_of(other), cause_of(cause)] == [cause] * 3
    assert parse_when(text) == parse_when(other) == parse_when(f"{text} or {other}")


def test_what_differs_is_another_cause_and_what_is_none_stays_as_it_is() -> None:
    assert len({cause_of(text) for text in ("drift > 0.6", "drift >= 0.6", "drift > 0.6000001", "drift < 0.6")}) == 4
    assert [cause_of(text) for text in ("asked for", "unfinished", "")] == ["asked for", "unfinished", ""]


def test_a_clause_begins_again_where_clock_and_count_at_their_start_refute_it() -> None:
    when = "every 1s or new_rows >= 1 or drift > 0.6 and every 1d or drift > 0.6 or new_rows >= 0 or outcome < champion"
    assert [clause.begins_again for clause in parse_when(when)] == [True, True, True, False, False, False]


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ("", "character 1: expected a term or a number"),
        ("drfit > 0.6", "did you mean drift"),
        ("drift 0.6", "character 7: expected one of >= > <= <"),
        ("drift > 0.6 or", "expected a term or a number"),
        ("every 30", "expected a duration"),
        ("every", "expected a duration"),
        ("drift > 0.6 new_rows > 5", "character 13: expected or, and, or the end"),
        ("drift > 60%", "character 11"),
        ("1 > 0", "names no term"),
        ("outcome < champion - x", "expected a number after + or -"),
    ],
)
def test_a_condition_that_cannot_be_read_is_refused_with_its_place(when: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_when(when)
    assert said in refused.value.what
    assert refused.value.exit_code == 2
