"""A sketch and live prompts → the same blocks of features for both, as the tests between them take them.

Hashed n-grams always, the model's own embeddings where the sketch has them: each direction centred and scaled by the
sketch's prompts, so that a row's length is about 1 as that of its n-grams.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cluster.prompt_features import Sparse, matrix_of
from cluster.sketch import Sketch
from cluster.token_features import TokenFeatures
from serving.drift_judge import Rows
from serving.drift_test import Reference
from serving.live_prompts import LivePrompt

LEAST_SPREAD = 1e-6
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Sides:
    """The sketch as rows of features, and the same features of live prompts."""

    reference: Reference
    names: tuple[str, ...]
    center_E: Floats
    scale_E: Floats

    @classmethod
    def of(cls, sketch: Sketch) -> Self:
        """Return a sketch's side."""
        marks = [row.key for row in sketch.prompts]
        blocks = [matrix_of([row.buckets for row in sketch.prompts])]
        center_E = scale_E = np.zeros(0, np.float32)
        names = ("n_grams",)
        if sketch.tokens is not None:
            vectors_NE = np.array([row.embedding for row in sketch.tokens])
            center_E, scale_E = vectors_NE.mean(axis=0), vectors_NE.std(axis=0) + LEAST_SPREAD
            blocks.append(_embedded(sketch.tokens, center_E, scale_E))
            names = ("n_grams", "embeddings")
        return cls(Reference(sketch.id, Rows(marks, blocks)), names, center_E, scale_E)

    def rows_of(self, prompts: Sequence[LivePrompt]) -> Rows:
        """Return live prompts' side."""
        blocks = [matrix_of([one.features.buckets for one in prompts])]
        if len(self.names) > 1:
            blocks.append(_embedded([one.tokens for one in prompts], self.center_E, self.scale_E))
        return Rows([one.features.key for one in prompts], blocks)

    def distinct(self) -> Rows:
        """Return the sketch's rows without the prompts that repeat an earlier one."""
        first = {mark: place for place, mark in reversed(list(enumerate(self.reference.rows.marks)))}
        return self.reference.rows.picked(sorted(first.values()))


def _embedded(rows: Sequence[TokenFeatures | None], center_E: Floats, scale_E: Floats) -> Sparse:
    """Return mean embeddings as rows of about length 1; a row that has none is all zeros."""
    from scipy.sparse import csr_matrix

    dense_NE = np.zeros((len(rows), len(center_E)), np.float32)
    for place, row in enumerate(rows):
        if row is not None:
            dense_NE[place] = (row.embedding - center_E) / scale_E / np.sqrt(len(center_E))
    return csr_matrix(dense_NE)
