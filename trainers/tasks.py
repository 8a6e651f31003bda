"""Rows → what they ask of a model: a label, an answer, or nothing but more text.

The task is judged by the training file's rows that have an answer; one row without a label does not make a
classification something else. A file given for validation or test has to ask for the same: scored as another task, its
numbers would speak of something that was not trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from cluster.errors import DataError

if TYPE_CHECKING:
    from trainers.metrics import Task
    from trainers.rows import Row

WRITTEN: dict[Task, str] = {
    "classification": "texts with labels (classification)",
    "generation": "prompts with answers (generation)",
    "text": "plain text without prompts (text)",
}


def is_answered(row: Row) -> bool:
    """Say whether the row has an answer to learn or to be compared with."""
    return bool(row.completion.strip())


def task_of(rows: Iterable[Row]) -> Task | None:
    """Return the task of the rows that have an answer: classification where it is always the label; None without."""
    prompted: bool | None = None
    for row in rows:
        if not is_answered(row):
            continue
        prompted = bool(row.prompt) if prompted is None else prompted
        if row.label is None or row.label != row.completion:
            return "generation" if prompted else "text"
    return None if prompted is None else "classification"


def refuse_other_tasks(train: Sequence[Row], given: Mapping[str, Sequence[Row]]) -> None:
    """Raise DataError where a file given for validation or test asks for another task than the training rows.

    Training rows that only mostly are labels generate them, so a file of nothing but labels goes with those.
    """
    task = task_of(train)
    for name, rows in given.items():
        own = task_of(rows)
        if task is None or own in (task, None):
            continue
        if own == "classification" and task == "generation" and any(row.label is not None for row in train):
            continue
        first = next(row for row in rows if is_answered(row))
        raise DataError(
            f"{name} holds {WRITTEN[own]}, and the training rows are {WRITTEN[task]}",
            "write it like the training rows, with the same columns, or leave it out: it is split off then",
            first.where,
        )
