"""Ratings of items by several people → how far they agree beyond chance.

Krippendorff's alpha takes any number of raters and gaps; on the interval scale, since ratings are numbers a step apart
(Krippendorff 2011, *Computing Krippendorff's Alpha-Reliability*, section E). Cohen's kappa, with quadratic weights, is
there for exactly two raters over the items that both rated. Both are 1 for agreement, about 0 for chance, and undefined
where nothing varies: then there is no number.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np

from cluster.compare_records import Agreement

Ratings = Mapping[str, Mapping[str, float]]
"""By item, then by rater."""


def agreement(ratings: Ratings) -> Agreement:
    """Return how far the raters agree."""
    shared = {item: by for item, by in ratings.items() if len(by) > 1}
    return Agreement(
        items=len(shared), krippendorff_alpha=krippendorff_alpha(ratings), cohen_kappa=_cohen_kappa(shared)
    )


def krippendorff_alpha(ratings: Ratings) -> float | None:
    """Return alpha on the interval scale; None without two ratings of one item, or where all are equal."""
    units = [np.array(list(by.values()), dtype=np.float64) for by in ratings.values() if len(by) > 1]
    if not units:
        return None
    every = np.concatenate(units)
    observed = sum(_pair_distance(unit) / (len(unit) - 1) for unit in units) / len(every)
    expected = _pair_distance(every) / (len(every) * (len(every) - 1))
    return None if expected == 0 else float(1 - observed / expected)


def _pair_distance(values: np.ndarray) -> float:
    """Return the squared differences of all ordered pairs, summed."""
    return float(2 * (len(values) * (values**2).sum() - values.sum() ** 2))


def _cohen_kappa(shared: Ratings) -> float | None:
    from sklearn.metrics import cohen_kappa_score

    raters = sorted({rater for by in shared.values() for rater in by})
    if len(raters) != 2:
        return None
    pairs = np.array([[by[rater] for rater in raters] for by in shared.values()])
    if len(np.unique(pairs)) < 2:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # sklearn weighs places among the classes: all of them, half points doubled to whole numbers.
        a, b = np.round(pairs * 2).astype(int).T
        found = cohen_kappa_score(a, b, labels=np.arange(2, 11), weights="quadratic")
    return float(found) if np.isfinite(found) else None
