"""Rows → train, validation and test, so that nothing close to a test row is trained on.

Rows that are equal, near-duplicates, share their input or their ``columns.group`` are connected, and a whole
connected group lies on one side. Groups are placed in the order of a hash of their content and the seed: the same
rows fall the same way on every machine, and a few more rows move few. With labels every class is divided on its own.
A group too large for what a split still lacks goes to train.

In evaluation, rows with one input are one example with several references (``evaluation_examples``).
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import floor
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cluster.errors import DataError
from trainers.duplicates import RowHashes, connected_groups, general_inputs, same_key_pairs
from trainers.folded_text import text_hashes
from trainers.minhash import NearPairs

if TYPE_CHECKING:
    from cluster.spec import SplitSpec
    from trainers.rows import Row
    from trainers.turns import Message

TRAIN, VALIDATION, TEST = 0, 1, 2
SplitOf = NDArray[np.int64]


@dataclass(frozen=True)
class EvaluationExample:
    """One input with all its right answers, in the order of its rows.

    ``label`` is the class that most of the rows give it, the first of equals; ``where`` is the first row's place and
    ``rows`` are the places of all in the rows that were grouped.
    """

    prompt: tuple[Message, ...]
    references: tuple[str, ...]
    label: str | None
    where: str
    rows: tuple[int, ...] = ()


def inseparable_groups(rows: Sequence[Row], hashes: RowHashes, near: NearPairs) -> NDArray[np.int64]:
    """Return each row's group number, shape (N,): rows of one group must lie on one side of every split.

    A general instruction ties no rows: the audit does not take it for an input either.
    """
    own = np.flatnonzero(~general_inputs(hashes.input))
    i, j = same_key_pairs(hashes.input[own])
    pairs = [same_key_pairs(hashes.exact), (own[i], own[j]), (near.i, near.j)]
    named = np.flatnonzero([row.group is not None for row in rows])
    if len(named):
        i, j = same_key_pairs(text_hashes(str(rows[index].group) for index in named.tolist()))
        pairs.append((named[i], named[j]))
    return connected_groups(len(rows), *pairs)


def assign_splits(rows: Sequence[Row], hashes: RowHashes, groups: NDArray[np.int64], spec: SplitSpec) -> SplitOf:
    """Return TRAIN, VALIDATION or TEST for every row, shape (N,); fractions are met to within a group's size.

    A class too small for its share is rounded so that the shares over all classes hold. Raises DataError where
    ``stratify`` is asked for and no row has a label, and where no row would be left to train on.
    """
    order = np.argsort(groups, kind="stable")
    begins = np.flatnonzero(np.concatenate([[True], np.diff(groups[order]) != 0])) if len(rows) else order
    sizes = np.diff(np.append(begins, len(rows)))
    smallest = np.minimum.reduceat(hashes.exact[order], begins) if len(rows) else hashes.exact
    placing = np.argsort(text_hashes(f"{spec.seed}:{value}" for value in smallest.tolist()), kind="stable").tolist()
    of_group = np.full(len(sizes), TRAIN, np.int64)
    most_carried = float(np.median(sizes)) if len(sizes) else 0.0
    carried = {TEST: 0.0, VALIDATION: 0.0}
    for stratum in _strata(rows, np.split(order, begins[1:]), placing, spec):
        num_rows = int(sizes[stratum].sum())
        wanted = {
            TEST: spec.test * num_rows + carried[TEST],
            VALIDATION: spec.validation * num_rows + carried[VALIDATION],
        }
        left = _place(stratum, sizes, {split: floor(share + 0.5) for split, share in wanted.items()}, of_group)
        for split, share in wanted.items():
            # Rounding is made up for by the next class; a group too large to be placed is not.
            carried[split] = min(share - floor(share + 0.5) + left[split], most_carried)
    split_of = np.empty(len(rows), np.int64)
    split_of[order] = np.repeat(of_group, sizes)
    if len(rows) and not (split_of == TRAIN).any():
        raise DataError(
            f"{len(rows)} rows leave none to train on (validation {spec.validation:g}, test {spec.test:g})",
            "Add rows, or lower data.split.validation and data.split.test.",
            "data.split",
        )
    return split_of


def _place(stratum: list[int], sizes: NDArray[np.int64], room: dict[int, int], of_group: SplitOf) -> dict[int, int]:
    """Give each group to the first split that has room for all of it, else to train; return the room left."""
    left = dict(room)
    for group, size in zip(stratum, sizes[stratum].tolist(), strict=True):
        for split in left:
            if size <= left[split]:
                of_group[group] = split
                left[split] -= size
                break
    return left


def _strata(
    rows: Sequence[Row], members: Sequence[NDArray[np.int64]], placing: list[int], spec: SplitSpec
) -> Iterator[list[int]]:
    """Yield groups to be divided together, in placing order: one list a class, by the class most of its rows have."""
    labelled = any(row.label is not None for row in rows)
    if spec.stratify is True and not labelled:
        raise DataError(
            "data.split.stratify is true, but no row has a label",
            "Name the column: columns: {label: YOUR COLUMN}, or leave stratify out.",
            "data.split.stratify",
        )
    if spec.stratify is False or not labelled:
        yield placing
        return
    strata: defaultdict[str, list[int]] = defaultdict(list)
    for group in placing:
        labels = Counter(str(rows[index].label) for index in members[group].tolist())
        strata[max(sorted(labels), key=lambda label: labels[label])].append(group)
    for label in sorted(strata):
        yield strata[label]


def evaluation_examples(rows: Sequence[Row]) -> list[EvaluationExample]:
    """Group rows by their input, in order of first appearance; plain text is not grouped."""
    found: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        key = json.dumps(row.prompt, ensure_ascii=False) if row.prompt else f"text {place}"
        found.setdefault(key, []).append(place)
    return [_example(rows, tuple(places)) for places in found.values()]


def _example(rows: Sequence[Row], places: tuple[int, ...]) -> EvaluationExample:
    same = [rows[place] for place in places]
    answers = [answer for row in same for answer in (row.completion, *row.references) if answer]
    labels = Counter(row.label for row in same if row.label is not None)
    label = labels.most_common(1)[0][0] if labels else None
    return EvaluationExample(same[0].prompt, tuple(dict.fromkeys(answers)), label, same[0].where, places)
