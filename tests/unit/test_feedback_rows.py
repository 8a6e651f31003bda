"""What users say becomes rows: only with consent, only where the prompt was kept, and only what was meant as one."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from serving.feedback_rows import feedback_rows
from tests.parents import exposure, said


def rows_of(*judged: Any, confirmed: bool = False):
    return feedback_rows(judged, "success", confirmed=confirmed)


def test_a_correction_replaces_the_answer() -> None:
    rows, left_out = rows_of((exposure("a", "where is it?", "u", answer="no idea"), said("a", correction="shipping")))
    (row,) = rows
    assert (row.turns, row.answer, row.kind, row.unit) == ((("user", "where is it?"),), "shipping", "correction", "u")
    assert left_out == Counter()


def test_a_conversation_is_asked_again_as_it_was() -> None:
    turns = [{"role": "system", "content": "be short"}, {"role": "user", "content": "hi"}]
    kept = {"prompt": "be short\nhi", "turns": 2, "messages": turns}
    rows, _ = rows_of((exposure("a", "", "u", kept=kept), said("a", correction="hello")))
    assert rows[0].turns == (("system", "be short"), ("user", "hi"))


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"consent": False}, "no_consent"),
        ({"kept": {"prompt_characters": 3, "turns": 1}}, "no_text"),
        ({"kept": {"prompt": "a\nb", "turns": 2}}, "no_text"),
        ({"request": "cmpl-a"}, "no_chat"),
    ],
)
def test_what_may_not_or_cannot_be_trained_on_is_counted(changed: dict[str, Any], why: str) -> None:
    rows, left_out = rows_of((exposure("a", "text", "u", **changed), said("a", correction="x")))
    assert (rows, left_out) == ([], Counter({why: 1}))


def test_an_empty_correction_is_counted() -> None:
    assert rows_of((exposure("a", "text", "u"), said("a", correction="  "))) == ([], Counter({"empty": 1}))


def test_a_right_answer_is_a_row_only_where_that_was_asked_for() -> None:
    judged = (exposure("a", "text", "u", answer="bugs"), said("a", value=1.0))
    assert rows_of(judged) == ([], Counter())
    (row,) = rows_of(judged, confirmed=True)[0]
    assert (row.answer, row.kind) == ("bugs", "confirmed")
    assert rows_of((exposure("a", "text", "u"), said("a", value=0.0)), confirmed=True)[0] == []


def test_several_answers_at_once_confirm_none_of_them() -> None:
    kept = {"prompt": "text", "turns": 1, "answer": "bugsaccess", "answers": 2}
    rows, left_out = rows_of((exposure("a", "text", "u", kept=kept), said("a", value=1.0)), confirmed=True)
    assert (rows, left_out) == ([], Counter({"empty": 1}))


def test_the_last_correction_of_a_request_counts_and_beats_its_confirmation() -> None:
    asked = exposure("a", "text", "u")
    judged = [(asked, said("a", correction="x", time_s=1)), (asked, said("a", correction="y", time_s=2)),
              (asked, said("a", value=1.0, time_s=3))]  # fmt: skip
    rows, left_out = rows_of(*judged, confirmed=True)
    assert [row.answer for row in rows] == ["y"]
    assert left_out == Counter({"superseded": 1})


def test_what_nobody_saw_is_no_row() -> None:
    shadow = exposure("a", "text", "u", kept={"prompt": "text", "turns": 1, "shadow_of": "chatcmpl-b"})
    assert rows_of((shadow, said("a", correction="x"))) == ([], Counter())
