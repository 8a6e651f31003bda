"""The task is judged by the rows that have an answer, and given files must ask for the same."""

from __future__ import annotations

import pytest

from cluster.errors import DataError
from tests.audited_rows import chat, labelled
from trainers.rows import Row
from trainers.tasks import is_answered, refuse_other_tasks, task_of


def plain(text: str) -> Row:
    return Row(({"role": "assistant", "content": text},), where="plain.jsonl:1")


LABELLED = [labelled("some text", "a"), labelled("other text", "b")]
ASKED = [chat("a question", "an answer"), chat("another", "one more")]
PLAIN = [plain("Once upon a time."), plain("The end.")]


def test_a_row_of_white_space_has_no_answer():
    assert [is_answered(chat("x", answer)) for answer in ("", " \n", "y")] == [False, False, True]


@pytest.mark.parametrize(
    ("rows", "task"), [(LABELLED, "classification"), (ASKED, "generation"), (PLAIN, "text"), ([], None)]
)
def test_rows_without_an_answer_do_not_change_the_task(rows: list[Row], task: str | None):
    nothing = Row(({"role": "user", "content": "no label"}, {"role": "assistant", "content": ""}))
    assert task_of(rows) == task
    assert task_of([nothing, *rows, nothing]) == task


@pytest.mark.parametrize(
    ("train", "test"), [(LABELLED, PLAIN), (LABELLED, ASKED), (ASKED, PLAIN), (ASKED, LABELLED), (PLAIN, ASKED)]
)
def test_a_given_file_of_another_task_is_refused_with_both_names(train: list[Row], test: list[Row]):
    with pytest.raises(DataError, match=rf"test holds .*\({task_of(test)}\).*\({task_of(train)}\)"):
        refuse_other_tasks(train, {"validation": train, "test": test})


def test_labels_alone_go_with_training_rows_that_mostly_are_labels():
    refuse_other_tasks([*LABELLED, *ASKED], {"test": LABELLED})
