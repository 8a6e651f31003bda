"""New rows → those that are trained on, those that pick the checkpoint, and those that judge the child.

Rows of one unit, or with one prompt, are connected, and a whole connected group lies on one side: a child must not be
judged by users whose rows it was trained on. Groups fall by a hash of what they ask, so that the same rows fall the
same way. Near-duplicates across sides are the data stage's to find, which drops them from training (``leakage_near``).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from serving.feedback_rows import FeedbackRow


@dataclass(frozen=True)
class Divided:
    """The new rows by what they are for."""

    train: list[FeedbackRow]
    validation: list[FeedbackRow]
    test: list[FeedbackRow]


def divided(rows: Sequence[FeedbackRow], test_frac: float, validation_frac: float) -> Divided:
    """Return the rows divided; shares are met to within a group's size, and a group too large goes to training."""
    groups = sorted(connected(rows), key=_place)
    room = {"test": round(test_frac * len(rows)), "validation": round(validation_frac * len(rows))}
    sides: dict[str, list[FeedbackRow]] = {"train": [], "validation": [], "test": []}
    for group in groups:
        side = next((side for side, left in room.items() if len(group) <= left), "train")
        sides[side] += group
        if side in room:
            room[side] -= len(group)
    return Divided(sides["train"], sides["validation"], sides["test"])


def connected(rows: Sequence[FeedbackRow]) -> list[list[FeedbackRow]]:
    """Return the rows in groups that share no unit and no prompt with each other."""
    leader = list(range(len(rows)))

    def root(place: int) -> int:
        while leader[place] != place:
            leader[place] = place = leader[leader[place]]
        return place

    first: dict[tuple[str, str], int] = {}
    for place, row in enumerate(rows):
        for key in (("unit", row.unit), ("prompt", row.prompt)):
            leader[root(place)] = root(first.setdefault(key, place))
    groups: defaultdict[int, list[FeedbackRow]] = defaultdict(list)
    for place, row in enumerate(rows):
        groups[root(place)].append(row)
    return list(groups.values())


def _place(group: Sequence[FeedbackRow]) -> str:
    return min(hashlib.sha256(row.prompt.encode("utf-8", "surrogatepass")).hexdigest() for row in group)
