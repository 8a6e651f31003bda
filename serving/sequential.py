"""Sums over units → intervals that hold at all looks at once.

Both come from a mixture: average the likelihood ratios of many alternatives, and by Ville's inequality the average
exceeds 1/α at any time with probability at most α while the null holds. Where it does not, the parameter stays in.

- `boundary`: how far a sum of martingale differences may stray when the squares of its terms sum to V. Robbins'
  two-sided normal mixture (Howard et al. 2021, arXiv 1810.08240, proposition 5); used with the observed squares it is
  asymptotic (Waudby-Smith et al. 2024, arXiv 2103.06476): whoever decides by it waits for enough units first.
- `mean_interval`: one arm's own mean, for display. Values in 0..1 by the beta-binomial mixture (Howard et al.,
  proposition 7), exact at any number; others by the boundary. The difference of two of them is no interval of the
  effect: it would be wider, and knows nothing of moving weights.

Left out: choosing V* from the data, which would not be valid; boundaries of the law of the iterated logarithm, which
are tighter only far beyond the sizes of such experiments.
"""

from __future__ import annotations

from collections.abc import Callable
from math import lgamma, log, log1p, sqrt

import numpy as np
from numpy.typing import NDArray

from cluster.records import Interval

BISECTIONS = 60
ENOUGH = 20  # values before an asymptotic interval of a mean is shown


def mixture_scale(tightest_at: float, alpha: float) -> float:
    """Return 1/ρ² for which boundary/√V is least at V = ``tightest_at``, by the closed approximation."""
    spent = -2 * log(alpha)
    return tightest_at / (spent + log1p(spent))


def boundary(variance: float, alpha: float, tightest_at: float) -> float:
    """Return the distance that |S| exceeds at any time with probability at most ``alpha`` without an effect.

    √(2(Vρ²+1)/ρ² · ln(√(Vρ²+1)/α)) with V = ``variance``.
    """
    scale = mixture_scale(tightest_at, alpha)
    return sqrt((variance + scale) * (log1p(variance / scale) - 2 * log(alpha)))


def mean_interval(value_N: NDArray[np.float64], alpha: float, tightest_at: float) -> Interval | None:
    """Return the mean of the values, narrowest at ``tightest_at`` of them; None where there are too few to say."""
    units = len(value_N)
    if units == 0:
        return None
    if value_N.min() >= 0 and value_N.max() <= 1:
        return bounded_mean_interval(float(value_N.sum()), units, alpha, tightest_at)
    mean, spread = float(value_N.mean()), float(value_N.std())
    if units < ENOUGH or spread == 0:
        return None
    reach = spread * boundary(units, alpha, tightest_at) / units
    return Interval(value=mean, low=mean - reach, high=mean + reach)


def bounded_mean_interval(total: float, units: int, alpha: float, tightest_at: float) -> Interval:
    """Return the mean of ``units`` values in 0..1 that sum to ``total``, narrowest at ``tightest_at`` units."""
    mean = total / units
    spent = -2 * log(alpha)
    pseudo_units = max(tightest_at / (spent + log1p(spent)) - 1, 1e-3)

    def is_out(candidate: float) -> bool:
        return _log_beta_mixture(total, units, candidate, pseudo_units) >= -log(alpha)

    return Interval(value=mean, low=_edge(mean, 0.0, is_out), high=_edge(mean, 1.0, is_out))


def _edge(inside: float, end: float, is_out: Callable[[float], bool]) -> float:
    """Return where the interval around ``inside`` ends on its way to ``end``."""
    outside = end
    for _ in range(BISECTIONS):
        middle = (inside + outside) / 2
        if middle in (inside, outside):
            break
        if is_out(middle):
            outside = middle
        else:
            inside = middle
    return outside


def _log_beta_mixture(total: float, units: int, mean: float, pseudo_units: float) -> float:
    """Return ln of the average likelihood ratio against ``mean``, over a Beta with that mean."""
    hits, misses = pseudo_units * mean, pseudo_units * (1 - mean)
    ratio = _log_beta(hits + total, misses + units - total) - _log_beta(hits, misses)
    return ratio - total * log(mean) - (units - total) * log1p(-mean)


def _log_beta(left: float, right: float) -> float:
    return lgamma(left) + lgamma(right) - lgamma(left + right)
