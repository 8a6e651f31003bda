"""Arms and probabilities of units → evidence that units are not split as the probabilities say.

A split that is not what was recorded (lost exposures, an arm that crashes before it is logged, bots that are filtered
in one arm) makes any difference between the arms meaningless, so its evidence voids the effect.

It is a prequential multinomial test: before each unit a forecast p̂ of its arm is made from the units before, and the
evidence is multiplied by p̂_arm/q_arm. Without a mismatch that has expectation Σ q p̂/q = 1 for any q that was fixed
before, so the evidence exceeds 1/α at any time with probability at most α (Ville), however the weights moved. The
forecast tilts the current q by each arm's observed over expected units so far, (c·q + n)/(c·q + e); with unchanged
weights that is the posterior of a Dirichlet(c·q), and the evidence the Bayes factor of Lindon and Malek (arXiv
2011.03567). Tilting q instead of forecasting counts keeps what was learnt when the weights move.

The highest evidence so far decides: units that were dealt wrongly stay in the data when the fault is mended.

Legend: N units in order, A arms.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import numpy as np
from numpy.typing import NDArray

from serving.units import Units

Floats = NDArray[np.float64]
CONCENTRATION = 100.0
"""c: units that the recorded probabilities weigh in the forecast. Few of them catch a broken split sooner (half of 60
experiments that lost 90 % of an arm after 47 units; 136 with 1,000), many one that is slightly wrong (5 % lost: found
within 20,000 units in 53 %; 62 % with 1,000)."""


@dataclass(frozen=True)
class Ratio:
    """Observed and expected units by arm, and the log evidence against the split: now, and at its highest."""

    observed: tuple[float, ...]
    expected: tuple[float, ...]
    log_evidence: float = 0.0
    peak: float = 0.0

    def is_fine(self, alpha: float) -> bool:
        """Return whether the evidence has stayed below 1/alpha."""
        return self.peak < -log(alpha)


def ratio_of(units: Units, counted_only: bool = False) -> Ratio:
    """Return the check over all units, or over those with a value that counts."""
    chosen_N = units.counted if counted_only else np.ones(len(units.arm_N), dtype=np.bool_)
    nobody = (0.0,) * len(units.arms)
    return ratio_after(Ratio(nobody, nobody), units.arm_N[chosen_N], units.probability_NA[chosen_N])


def ratio_after(before: Ratio, arm_N: NDArray[np.intp], probability_NA: Floats) -> Ratio:
    """Return the check over the units of ``before`` and these."""
    if len(arm_N) == 0:
        return before
    path_N = before.log_evidence + np.cumsum(_log_factors(before, arm_N, probability_NA))
    num_arms = len(before.observed)
    return Ratio(
        observed=tuple((np.bincount(arm_N, minlength=num_arms) + before.observed).tolist()),
        expected=tuple((probability_NA.sum(axis=0) + before.expected).tolist()),
        log_evidence=float(path_N[-1]),
        peak=max(before.peak, float(path_N.max())),
    )


def _log_factors(before: Ratio, arm_N: NDArray[np.intp], probability_NA: Floats) -> Floats:
    drawn_NA = (arm_N[:, None] == np.arange(len(before.observed))).astype(np.float64)
    observed_NA = np.cumsum(drawn_NA, axis=0) - drawn_NA + before.observed
    expected_NA = np.cumsum(probability_NA, axis=0) - probability_NA + before.expected
    prior_NA = CONCENTRATION * probability_NA
    is_possible_NA = probability_NA > 0
    tilt_NA = np.where(is_possible_NA, prior_NA + observed_NA, 1) / np.where(is_possible_NA, prior_NA + expected_NA, 1)
    own_N = np.take_along_axis(tilt_NA, arm_N[:, None], axis=1)[:, 0]
    return np.log(own_N) - np.log((probability_NA * tilt_NA).sum(axis=1))
