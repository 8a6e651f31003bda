"""Two sets of prompts as rows of features → a classifier that tells them apart, and how well it can.

The classifier two-sample test (Lopez-Paz and Oquab 2017, arXiv 1610.06545) with the area under the ROC curve: 0.5 where
nothing tells the sets apart, 1 where everything does. Scores are cross-fitted, so no row is judged by a classifier that
has seen it, and the interval is DeLong's (1988) over the folds, or that of the folds' spread where this is wider: the
first knows nothing of how classifiers differ. It is an interval of one look: whoever decides after
many looks uses ``serving.drift_test``.

Classifier: logistic regression on prompts of length 1 (liblinear, 15 ms for 3,000 sparse rows), the two
sets weighing the same. Embeddings are scaled by the training set's spread first.

Legend: N rows, 1 live, 0 reference.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.prompt_features import Sparse
from cluster.records import Interval

FOLDS = 5
NORMAL_95, STUDENT_95 = 1.959964, 2.776445
"""Of Student with four degrees of freedom: FOLDS - 1."""
STRENGTH, TOLERANCE = 0.3, 0.01
Floats = NDArray[np.float64]


def classifier(rows_NF: Sparse, is_live_N: NDArray[np.bool_], seed: int = 0) -> Any:
    """Return a classifier fitted to tell live rows from reference rows."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    made = LogisticRegression(C=STRENGTH, solver="liblinear", tol=TOLERANCE, class_weight="balanced", random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return made.fit(rows_NF, is_live_N)


def cross_fitted_auc(rows_NF: Sparse, is_live_N: NDArray[np.bool_], seed: int = 0) -> Interval:
    """Return the AUC of a classifier between live and reference rows, with its 95 % interval for one look."""
    fold_N = _folds(is_live_N, seed)
    values: list[float] = []
    variances: list[float] = []
    for fold in range(FOLDS):
        inside = fold_N == fold
        fitted = classifier(rows_NF[~inside], is_live_N[~inside], seed)
        scores = fitted.decision_function(rows_NF[inside])
        area = auc(scores[is_live_N[inside]], scores[~is_live_N[inside]])
        values.append(area.value)
        variances.append(area.variance)
    value = float(np.mean(values))
    reach = max(NORMAL_95 * sqrt(sum(variances)) / FOLDS, STUDENT_95 * float(np.std(values, ddof=1)) / sqrt(FOLDS))
    return Interval(value=value, low=max(0.0, value - reach), high=min(1.0, value + reach))


def _folds(is_live_N: NDArray[np.bool_], seed: int) -> NDArray[np.intp]:
    """Return every row's fold, the live rows and the others dealt evenly."""
    draw = np.random.default_rng(seed)
    fold_N = np.empty(len(is_live_N), np.intp)
    for side in (True, False):
        places = np.flatnonzero(is_live_N == side)
        fold_N[draw.permutation(places)] = np.arange(len(places)) % FOLDS
    return fold_N


@dataclass(frozen=True, slots=True)
class Area:
    """An AUC and its variance."""

    value: float
    variance: float


def auc(live_N: Floats, reference_N: Floats) -> Area:
    """Return how often a live score exceeds a reference score, ties half, and DeLong's variance of that."""
    above_live = _share_below(reference_N, live_N)
    above_reference = 1 - _share_below(live_N, reference_N)
    spread = [
        float(np.var(part, ddof=1)) / len(part) if len(part) > 1 else 0.25 for part in (above_live, above_reference)
    ]
    return Area(float(above_live.mean()), sum(spread))


def _share_below(of_N: Floats, values_M: Floats) -> Floats:
    """Return which share of ``of_N`` lies below each value, equal ones half."""
    ordered = np.sort(of_N)
    below = np.searchsorted(ordered, values_M, "left") + np.searchsorted(ordered, values_M, "right")
    return below / (2 * len(ordered))
