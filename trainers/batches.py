"""(seed, epoch, step) → which examples; then on which rank and in which micro-batch.

Two questions kept apart. *Which* examples an optimizer step uses is logical: a pure function of (seed, epoch, step),
so a resumed run skips over nothing and another number of workers changes nothing. *Where* they are computed is
physical: rows go, longest first, to the rank with the fewest tokens, so ranks get almost equal work, and are strung
end to end into micro-batches without padding. Where a model cannot keep packed rows apart they are padded, and
micro-batches then hold rows of similar length: on 200 steps of E2E rows (batch size 32, 2 ranks, 2,048 tokens a
micro-batch) that adds 24 %, where one unsorted batch a step adds 53 %. An epoch's last step holds what is left when the
batch size does not divide the number of examples: every example is used exactly once an epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Layout = list[list[list[int]]]
Example = tuple[NDArray[np.int32], NDArray[np.bool_]]
SUBSET = 2**32
"""Tells the draw of a subset from an epoch's order, which is seeded by the epoch."""


class Examples(Protocol):
    """What the loop reads of a data set: the tokens and target tokens of N examples, int32 of shape (N,), and each."""

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Tokens of each example."""
        ...

    @property
    def target_counts(self) -> NDArray[np.int32]:
        """Target tokens of each example."""
        ...

    def __len__(self) -> int:
        """N, the number of examples."""
        ...

    def example(self, index: int) -> Example:
        """Return (ids_T int32, is_target_T bool) of one example."""
        ...


class Drawn:
    """A share of a data set's examples, in their order: the same ones for the same seed, and at least one."""

    def __init__(self, whole: Examples, share: float, seed: int) -> None:
        count = max(1, round(share * len(whole)))
        order = np.random.default_rng([seed, SUBSET]).permutation(len(whole))
        self._whole, self._chosen = whole, np.sort(order[:count])
        self.lengths = whole.lengths[self._chosen]
        self.target_counts = whole.target_counts[self._chosen]

    def __len__(self) -> int:
        """N, the number of examples."""
        return len(self._chosen)

    def example(self, index: int) -> Example:
        """Return (ids_T int32, is_target_T bool) of one example."""
        return self._whole.example(int(self._chosen[index]))


def drawn(whole: Examples, share: float, seed: int) -> Examples:
    """Return a share of the examples; all of them as they are."""
    return whole if share == 1 else Drawn(whole, share, seed)


@lru_cache(maxsize=2)
def epoch_order(num_examples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order of one epoch: a permutation of 0..num_examples-1, the same on every machine."""
    return np.random.default_rng([seed, epoch]).permutation(num_examples)


@dataclass(frozen=True)
class Schedule:
    """Which examples each optimizer step uses.

    ``epochs`` may be a fraction; the number of steps is rounded up, at least one.
    """

    num_examples: int
    batch_size: int
    epochs: float
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one epoch, the last of which may be smaller."""
        return ceil(self.num_examples / self.batch_size)

    @property
    def num_steps(self) -> int:
        """Optimizer steps in the whole run."""
        return max(1, ceil(self.epochs * self.steps_per_epoch - 1e-9))

    def examples(self, step: int) -> NDArray[np.int64]:
        """Return the example indices of 0-based ``step``: shape (batch_size,), fewer at an epoch's end."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = epoch_order(self.num_examples, self.seed, epoch)
        return order[position * self.batch_size : (position + 1) * self.batch_size]


def layout(
    lengths: Sequence[int],
    num_ranks: int,
    max_tokens: int,
    *,
    packed: bool = True,
    costs: Sequence[float] | None = None,
) -> Layout:
    """Deal rows to ranks and split each rank's share into micro-batches.

    ``lengths`` are tokens per row, shape (N,), ``costs`` what each costs (its tokens, if not said); ranks get shares
    that cost about the same (the costliest first, each to whoever has least). Returns
    ``[rank][micro_batch] → positions into lengths``. Every rank gets the same number of micro-batches (collectives need
    it; some may be empty) and every row occurs once. A micro-batch's size stays within ``max_tokens`` unless a single
    row is longer: the sum of its rows' lengths where they are ``packed``, rows × longest row where they are padded.
    """
    costs = lengths if costs is None else costs
    shares: list[list[int]] = [[] for _ in range(num_ranks)]
    load = [0.0] * num_ranks
    for row in np.argsort(-np.asarray(costs, dtype=np.float64), kind="stable").tolist():
        rank = min(range(num_ranks), key=load.__getitem__)
        shares[rank].append(row)
        load[rank] += costs[row]
    longest_first = [sorted(share, key=lambda row: -lengths[row]) for share in shares]
    runs = [_cut(share, lengths, max_tokens, packed) for share in longest_first]
    num_micro = max(1, *map(len, runs))
    return [run + [[] for _ in range(num_micro - len(run))] for run in runs]


def _cut(share: list[int], lengths: Sequence[int], max_tokens: int, packed: bool) -> list[list[int]]:
    """Cut a share, longest row first, into runs that fit the bound."""
    runs: list[list[int]] = []
    size = 0
    for row in share:
        grown = size + (lengths[row] if packed or not runs else lengths[runs[-1][0]])
        if runs and grown <= max_tokens:
            runs[-1].append(row)
            size = grown
        else:
            runs.append([row])
            size = lengths[row]
    return runs


@dataclass(frozen=True)
class MicroBatch:
    """One rank's rows for one forward pass: padded on the right, or packed end to end into one row.

    ``tokens_BT`` int64 token ids; ``is_target_BT`` bool, true where the token itself is predicted and carries loss;
    ``segment_lengths`` of the packed rows, None where they are padded. An empty share becomes one row of two tokens
    without a target, so that every rank runs the same collectives.
    """

    tokens_BT: NDArray[np.int64]
    is_target_BT: NDArray[np.bool_]
    segment_lengths: tuple[int, ...] | None = None


def pack(examples: Sequence[Example]) -> MicroBatch:
    """String examples of (ids (T,), is_target (T,)) end to end; no example's first token is a target."""
    if not examples:
        return MicroBatch(np.zeros((1, 2), np.int64), np.zeros((1, 2), np.bool_), (2,))
    lengths = tuple(len(ids) for ids, _ in examples)
    tokens_T = np.concatenate([ids for ids, _ in examples]).astype(np.int64)
    is_target_T = np.concatenate([is_target for _, is_target in examples])
    is_target_T[np.cumsum((0, *lengths[:-1]))] = False
    return MicroBatch(tokens_T[None], is_target_T[None], lengths)


def pad(examples: Sequence[Example]) -> MicroBatch:
    """Pad examples of (ids (T,), is_target (T,)) on the right; the pad id is 0, which causal attention never reads."""
    longest = max((len(ids) for ids, _ in examples), default=2)
    num_rows = max(1, len(examples))
    tokens_BT = np.zeros((num_rows, longest), dtype=np.int64)
    is_target_BT = np.zeros((num_rows, longest), dtype=np.bool_)
    for row, (ids, is_target) in enumerate(examples):
        tokens_BT[row, : len(ids)] = ids
        is_target_BT[row, : len(ids)] = is_target
    is_target_BT[:, 0] = False
    return MicroBatch(tokens_BT, is_target_BT)
