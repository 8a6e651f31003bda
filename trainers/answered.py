"""Two models' answers to one test → which of its examples show what tuning did; pure, and the same every time.

A label is right or wrong, so examples fall into fixed, broken, still wrong and still right. Answers and plain text have
a score each (ROUGE-L against the best reference, likelihood per token); they fall into better, worse and about the
same, and are drawn evenly from the largest change to the smallest, so that no group shows its extremes alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cluster.pages import Tone
from trainers.bootstrap import Floats
from trainers.metrics import Predictions, Task
from trainers.splits import EvaluationExample
from trainers.text_metrics import rouge_of_each

MAX_SHOWN = 12
MAX_LOOKED_AT = 2000
"""Examples of a test whose texts are compared: ROUGE-L of two models takes about a millisecond each."""
MARGIN = 0.05
"""Change of ROUGE-L, or of nats per token, below which an answer counts as about the same."""

Item = TypeVar("Item")
Members = tuple[str, Tone, NDArray[np.integer]]
"""A group's name and tone, and the places of its members in the arrays of scores."""


@dataclass(frozen=True)
class Answered:
    """A test's examples and what the tuned model and (where it was scored) its base answered, in the same order."""

    test: str
    examples: list[EvaluationExample]
    tuned: Predictions
    base: Predictions | None = None
    is_slice: bool = False

    @property
    def task(self) -> Task:
        """What the test asks for."""
        if not self.tuned.texts:
            return "text"
        return "generation" if self.tuned.labels is None else "classification"


@dataclass(frozen=True)
class Measured:
    """Scores of the examples at ``places`` of a test, higher is better, each of shape (P,)."""

    places: NDArray[np.int64]
    after: Floats
    before: Floats | None


@dataclass(frozen=True)
class Group:
    """Examples that tuning did the same to: how many there are, and the places of those to be shown."""

    name: str
    tone: Tone
    count: int
    places: list[int]


def measured(answered: Answered) -> Measured:
    """Return the scores before and after of a test's examples, of an even share of them where there are too many."""
    every = list(range(len(answered.examples)))
    places = np.array(every if answered.task == "classification" else spread(every, MAX_LOOKED_AT), dtype=np.int64)
    before = None if answered.base is None else _scores(answered.base, places)
    return Measured(places, _scores(answered.tuned, places), before)


def _scores(predictions: Predictions, places: NDArray[np.int64]) -> Floats:
    classes = predictions.classes()
    if classes is not None:
        return (classes[0] == classes[1])[places].astype(np.float64)
    if predictions.texts:
        texts = [predictions.texts[place] for place in places]
        return rouge_of_each(texts, [predictions.references[place] for place in places], "rougeL")
    assert predictions.nll is not None, "plain text is scored by its likelihood"
    assert predictions.target_tokens is not None, "likelihoods have their numbers of tokens"
    return -predictions.nll[places] / np.maximum(predictions.target_tokens[places], 1)


def grouped(scores: Measured, task: Task) -> list[Group]:
    """Return the groups that a test's examples fall into, each with its share of ``MAX_SHOWN`` examples."""
    if task == "classification":
        found = _right_and_wrong(scores.after > 0, None if scores.before is None else scores.before > 0)
    else:
        found = _better_and_worse(scores.after, scores.before)
    rooms = _rooms([len(members) for _, _, members in found])
    return [
        Group(name, tone, len(members), [int(scores.places[at]) for at in spread(members.tolist(), room)])
        for (name, tone, members), room in zip(found, rooms, strict=True)
    ]


def _better_and_worse(after: Floats, before: Floats | None) -> list[Members]:
    if before is None:
        return [("lowest score first", "note", np.argsort(after, kind="stable"))]
    with np.errstate(invalid="ignore"):  # two infinite losses have no difference, and belong to no group
        gain = after - before
    order = np.argsort(-np.abs(gain), kind="stable")
    return [
        ("better", "good", order[gain[order] > MARGIN]),
        ("worse", "error", order[gain[order] < -MARGIN]),
        ("about the same", "note", np.flatnonzero(np.abs(gain) <= MARGIN)),
    ]


def _right_and_wrong(after: NDArray[np.bool_], before: NDArray[np.bool_] | None) -> list[Members]:
    if before is None:
        return [("wrong", "error", np.flatnonzero(~after)), ("right", "good", np.flatnonzero(after))]
    return [
        ("fixed", "good", np.flatnonzero(after & ~before)),
        ("broken", "error", np.flatnonzero(before & ~after)),
        ("still wrong", "warning", np.flatnonzero(~after & ~before)),
        ("right before and after", "note", np.flatnonzero(after & before)),
    ]


def _rooms(counts: Sequence[int]) -> list[int]:
    """Divide ``MAX_SHOWN`` among groups evenly; what a small group leaves goes to the first ones with more."""
    rooms = [0] * len(counts)
    while sum(rooms) < min(MAX_SHOWN, sum(counts)):
        for place, count in enumerate(counts):
            if rooms[place] < count and sum(rooms) < MAX_SHOWN:
                rooms[place] += 1
    return rooms


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """Return at most ``most`` of the items, evenly spaced, the first and (of two or more) the last among them."""
    if len(items) <= most:
        return list(items)
    last = len(items) - 1
    return [items[round(place * last / max(1, most - 1))] for place in range(most)]
