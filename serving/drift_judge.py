"""Rows that were seen → a judge of rows that were not: how far a live and a reference row together speak for drift.

A judge is fitted to earlier rows only: classifiers of blocks of features, and the scores of reference rows that they
have not seen, among which a new row's score has its place. Its payoffs lie in -1..1 and are fair where live and
reference rows are drawn alike, whatever it was fitted to: ``serving.drift_test`` bets on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cluster.prompt_features import Sparse
from serving.two_sample import classifier

TAILS = (0.8, 0.95)
"""Places above which a row counts as one of the highest: few foreign rows show only there."""
PAYOFFS = 1 + len(TAILS)
FEW_ROWS, MANY_ROWS = 250, 1000
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rows:
    """Prompts as the test sees them: a mark each for the prompt, and one matrix a block of features.

    A block that is not known of a row is all zeros there: nothing is won or lost by it.
    """

    marks: Sequence[int]
    blocks: Sequence[Sparse]

    def picked(self, places: Sequence[int]) -> Self:
        """Return some of the rows, in this order."""
        return type(self)([self.marks[place] for place in places], [block[list(places)] for block in self.blocks])

    def followed_by(self, others: Self, most: int) -> Self:
        """Return the last ``most`` of these rows and then the others."""
        from scipy.sparse import vstack

        blocks = [vstack(pair).tocsr()[-most:] for pair in zip(self.blocks, others.blocks, strict=True)]
        return type(self)([*self.marks, *others.marks][-most:], blocks)


def scores_of(num_blocks: int) -> list[tuple[int, int]]:
    """Return what a judge scores by: a block of features, and how many of the newest live rows it is fitted to.

    Few rows soon know what is new, many know it better; the first block (n-grams) has both.
    """
    return [(0, FEW_ROWS), *((block, MANY_ROWS) for block in range(num_blocks))]


@dataclass(frozen=True)
class Judge:
    """Of every score its block, its classifier and the sorted scores of reference rows; None: nothing was to fit to."""

    scores: Sequence[tuple[int, tuple[Any, Floats] | None]]

    @classmethod
    def of(cls, reference: Rows, live: Rows, ranking: Rows) -> Self:
        """Return the judge that is fitted to ``reference`` and ``live``; ``ranking`` are further reference rows."""
        fitted = {
            (block, rows): _fitted(
                reference.blocks[block],
                live.blocks[block][-rows:] if rows else live.blocks[block],
                ranking.blocks[block],
            )
            for block, rows in {(block, min(rows, len(live.marks))) for block, rows in scores_of(len(live.blocks))}
        }
        return cls([(block, fitted[block, min(rows, len(live.marks))]) for block, rows in scores_of(len(live.blocks))])

    def gains(self, reference: Rows, live: Rows) -> list[Floats]:
        """Return every score's payoffs on each pair of a reference and a live row: differences of places and tails."""
        found: list[Floats] = []
        for block, score in self.scores:
            found += _gains(score, reference.blocks[block], live.blocks[block])
        return found


def _fitted(reference: Sparse, live: Sparse, ranking: Sparse) -> tuple[Any, Floats] | None:
    from scipy.sparse import vstack

    if not live.nnz or not reference.nnz:
        return None
    is_live = np.repeat([False, True], [reference.shape[0], live.shape[0]])
    told = classifier(vstack([reference, live]).tocsr(), is_live)
    return told, np.sort(told.decision_function(ranking))


def _gains(score: tuple[Any, Floats] | None, reference: Sparse, live: Sparse) -> list[Floats]:
    if score is None:
        return [np.zeros(live.shape[0])] * PAYOFFS
    told, ranks = score
    theirs, ours = (_places(told.decision_function(rows), ranks) for rows in (reference, live))
    is_known = np.diff(live.indptr) > 0
    found = [ours - theirs, *((ours > tail) * 1.0 - (theirs > tail) * 1.0 for tail in TAILS)]
    return [np.where(is_known, gain, 0.0) for gain in found]


def _places(scores: Floats, ranks: Floats) -> Floats:
    """Return which share of the ranks lies below each score, equal ones half."""
    both = np.searchsorted(ranks, scores, "left") + np.searchsorted(ranks, scores, "right")
    return both / (2 * len(ranks))
