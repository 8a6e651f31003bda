"""Units of two arms → the sums from which their difference is judged, whatever the weights did meanwhile.

With q the challenger's probability at the unit's first exposure, normalised over the two arms, and m the mean of the
units before it, a unit adds x = (1−q)(Y−m) if it is in the challenger and −q(Y−m) if in the control. Then

    S = Σ x,   V = Σ x²,   H = Σ q(1−q),   estimate S/H,   interval (S ± boundary(V))/H.

Given everything before it, x has the expectation q(1−q)·δ for an effect δ, since m and q are known before the arm is
drawn: S − δH is a martingale whatever ramps, drift and looks do. The overlap weights q(1−q) (Li, Morgan and Zaslavsky
2018, doi 10.1080/01621459.2016.1260466) cancel the 1/q that makes the inverse-probability form heavy-tailed: at 1 % of
traffic that one gave up to 70 % false positives under a ramp. When the effect itself drifts, the estimate is its
mean weighted by q(1−q).

Units with q of 0 or 1 had no choice and are left out; so are units of other arms. The first unit has no mean before it
and only gives one to the second; a verdict thus does not depend on where an outcome's zero lies.

The sums of a stretch of units and of the next one add up (`+`), if the second is computed `after` the first: what is
counted once need not be read again. Legend: N units in order, C sums.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields

import numpy as np
from numpy.typing import NDArray

from cluster.records import Interval
from serving.sequential import boundary
from serving.two_by_two import log_factors
from serving.units import Units

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Contrast:
    """Sums over the units of a control and a challenger; the fields' order is that of `contrast_path`'s columns."""

    score: float = 0.0
    variance: float = 0.0
    overlap: float = 0.0
    log_better: float = 0.0
    log_worse: float = 0.0
    control_units: float = 0.0
    control_total: float = 0.0
    control_zeros: float = 0.0
    control_ones: float = 0.0
    control_above: float = 0.0
    control_below: float = 0.0
    challenger_units: float = 0.0
    challenger_total: float = 0.0
    challenger_zeros: float = 0.0
    challenger_ones: float = 0.0
    challenger_above: float = 0.0
    challenger_below: float = 0.0
    outside: float = 0.0
    """Values below 0 or above 1, for which there is no exact test."""

    def __add__(self, later: Contrast) -> Contrast:
        return Contrast(*(mine + its for mine, its in zip(astuple(self), astuple(later), strict=True)))

    @property
    def is_binary(self) -> bool:
        """Whether every value is 0 or 1."""
        ones_and_zeros = self.control_zeros + self.control_ones + self.challenger_zeros + self.challenger_ones
        return ones_and_zeros == self.control_units + self.challenger_units

    @property
    def least(self) -> int:
        """How many units the rarer value has in the arm that has fewest; above or below the mean if not binary."""
        if self.is_binary:
            counts = (self.control_zeros, self.control_ones, self.challenger_zeros, self.challenger_ones)
        else:
            counts = (self.control_above, self.control_below, self.challenger_above, self.challenger_below)
        return int(min(counts))

    def interval(self, alpha: float, tightest_at: float) -> Interval | None:
        """Return the challenger's mean minus the control's; None while no unit could have been in either."""
        if self.overlap == 0:
            return None
        reach = boundary(self.variance, alpha, tightest_at)
        low, high = (self.score - reach) / self.overlap, (self.score + reach) / self.overlap
        return Interval(value=self.score / self.overlap, low=low, high=high)


BLOCK_UNITS = 65_536  # summed at a time: about 20 MB
COLUMNS = tuple(field.name for field in fields(Contrast))


def contrast_of(units: Units, control: str, challenger: str) -> Contrast:
    """Return the sums over the counted units of the two arms."""
    pair = [units.arms.index(control), units.arms.index(challenger)]
    counted_N = units.counted & np.isin(units.arm_N, pair)
    probability_N2 = units.probability_NA[counted_N][:, pair]
    return contrast_after(
        Contrast(),
        units.value_N[counted_N],
        units.arm_N[counted_N] == pair[1],
        probability_N2[:, 1] / probability_N2.sum(axis=1),
    )


def contrast_after(
    before: Contrast, value_N: Floats, is_challenger_N: NDArray[np.bool_], probability_N: Floats
) -> Contrast:
    """Return the sums over the units of ``before`` and these, which come after them."""
    for start in range(0, len(value_N), BLOCK_UNITS):
        block = slice(start, start + BLOCK_UNITS)
        path_NC = contrast_path(value_N[block], is_challenger_N[block], probability_N[block], before)
        if len(path_NC):
            before += Contrast(*path_NC[-1].tolist())
    return before


def contrast_path(
    value_N: Floats, is_challenger_N: NDArray[np.bool_], probability_N: Floats, after: Contrast
) -> Floats:
    """Return (N', C) running sums over those of the units that had a choice; the sums of ``after`` are not in them."""
    chosen_N = (probability_N > 0) & (probability_N < 1)
    value_N, is_challenger_N, probability_N = value_N[chosen_N], is_challenger_N[chosen_N], probability_N[chosen_N]
    side_2N = np.stack([~is_challenger_N, is_challenger_N], dtype=np.float64)
    units_2N = _before(side_2N, after.control_units, after.challenger_units)
    total_2N = _before(side_2N * value_N, after.control_total, after.challenger_total)
    before_N = units_2N[0] + units_2N[1]
    has_mean_N = before_N > 0
    off_N = np.where(has_mean_N, value_N - (total_2N[0] + total_2N[1]) / np.maximum(before_N, 1), 0.0)
    score_N = np.where(is_challenger_N, 1 - probability_N, -probability_N) * off_N
    overlap_N = probability_N * (1 - probability_N) * has_mean_N
    is_outside_N = (value_N < 0) | (value_N > 1)
    inside_N = np.where(is_outside_N, 0.5, value_N)
    evidence_2N = log_factors(inside_N, is_challenger_N, probability_N, units_2N, total_2N)
    kinds = [np.ones_like(value_N), value_N, value_N == 0, value_N == 1, off_N > 0, off_N < 0]
    kinds_6N = np.stack(kinds, dtype=np.float64)
    sums_CN = np.concatenate(
        [
            np.stack([score_N, score_N**2, overlap_N, *evidence_2N]),
            kinds_6N * side_2N[0],
            kinds_6N * side_2N[1],
            np.stack([is_outside_N], dtype=np.float64),
        ]
    )
    return np.cumsum(sums_CN, axis=1).T


def _before(added_2N: Floats, control: float, challenger: float) -> Floats:
    """Return each row's sum before every unit, on top of what came before the first."""
    return np.cumsum(added_2N, axis=1) - added_2N + np.array([[control], [challenger]])
