"""The rows of all parts of a job → which split each is in; a mixture's sources are drawn and divided like the rest.

Given files keep their rows, the training file's rows are divided for what was not given. How rows are divided so that
nothing close straddles is ``trainers.splits``'s work.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainers.duplicates import RowHashes
from trainers.prepared import TRAIN, VALIDATION
from trainers.row_file import PickedRows
from trainers.split_evidence import TEST, num_wanted
from trainers.splits import assign_splits, inseparable_groups

if TYPE_CHECKING:
    from cluster.spec import DataSpec, SplitSpec
    from trainers.minhash import NearPairs
    from trainers.rows import Row

Indices = NDArray[np.int64]


def split_names(data: DataSpec) -> list[str]:
    """Return the names of all splits: train and validation, the tests, and what each further source holds out."""
    return [TRAIN, VALIDATION, *(data.test or [TEST]), *mix_names(data)]


def mix_names(data: DataSpec) -> list[str]:
    """Return the names of the further sources."""
    return [source.name for source in data.mix or []]


def divide(data: DataSpec, rows: Sequence[Row], hashes: RowHashes, near: NearPairs, given_for: list[str]) -> Indices:
    """Return each row's place in ``split_names``, shape (N,); ``given_for`` names the file that each row is of.

    The rows of the training file are divided for what was not given. Those of a further source are divided alike, and
    what falls out of training is held out under the source's own name: it judges neither the checkpoint nor the task.
    """
    names = split_names(data)
    split_of = np.asarray([names.index(name) for name in given_for])
    absent = {"validation": 0.0} if data.validation else {}
    absent |= {"test": 0.0} if data.test else {}
    groups = inseparable_groups(rows, hashes, near)

    def drawn(own: Indices, spec: SplitSpec) -> Indices:
        own_hashes = RowHashes(hashes.exact[own], hashes.input[own])
        return assign_splits(PickedRows(rows, own), own_hashes, groups[own], spec)

    main = np.flatnonzero(split_of == names.index(TRAIN))
    split_of[main] = drawn(main, data.split.model_copy(update=absent))
    for name in mix_names(data):
        own = np.flatnonzero(split_of == names.index(name))
        trained_on = drawn(own, data.split.model_copy(update={"stratify": "auto"})) == names.index(TRAIN)
        tied = np.isin(groups[own], groups[main])
        with_train = np.isin(groups[own], groups[main[split_of[main] == names.index(TRAIN)]])
        split_of[own[np.where(tied, with_train, trained_on)]] = names.index(TRAIN)
    return split_of


def drawn_rows(data: DataSpec, num_train: int, mixed: Mapping[str, Sequence[Row]]) -> dict[str, PickedRows]:
    """Draw ``weight`` rows of each further source per row read for training, at most all it has; by its name."""
    drawn: dict[str, PickedRows] = {}
    for source in data.mix or []:
        rows = mixed[source.name]
        count = min(len(rows), num_wanted(source.weight, num_train))
        places = random.Random(f"{data.split.seed} {source.name}").sample(range(len(rows)), count)
        drawn[source.name] = PickedRows(rows, np.asarray(places, np.int64))
    return drawn
