"""Values in 0..1 of two arms → exact evidence that one arm is better, at any number of units.

The test for the few: where the candidate fails always, or outcomes are rare, the interval of serving/contrast.py must
wait for units of both kinds. This one needs none, and no approximation.

It is the 2×2 E-variable of Turner, Ly and Grünwald (arXiv 2106.02693, theorem 1), likelihood of the alternative over
that of the mixture, p_arm(y) / (q_a p_a(y) + q_b p_b(y)), with one randomised unit as a block: the exposure
probabilities stand where their balanced blocks have n_a/n and n_b/n. Whatever the rate p is at that moment, without an
effect its expectation is Σ_y p(y) Σ_arm q_arm p_arm(y) / Σ_arm q_arm p_arm(y) = 1; so ramps and a drifting base rate
are allowed, where blocks of several units would need an unchanged rate within each. A value between 0 and 1 takes the
factors of 1 and 0 in proportion, which keeps the expectation. An arm's rate in the alternative is that of its units
before, under the paper's Beta(0.18, 0.18) prior.

Each direction bets only while the units before point that way, and stands still otherwise: then the expectation is at
most 1 also when the effect is against it, so a crossing says which arm is better.

Legend: N units of the two arms in order; rows of (2, N) are control and challenger.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
PRIOR = 0.18
SMALLEST_RATE = 1e-12  # only reached by values outside 0..1, whose evidence nobody uses


def log_factors(
    value_N: Floats, is_challenger_N: NDArray[np.bool_], probability_N: Floats, units_2N: Floats, total_2N: Floats
) -> tuple[Floats, Floats]:
    """Return what each unit adds to the log evidence that the challenger is better, and that it is worse.

    ``probability_N`` is the challenger's; ``units_2N`` and ``total_2N`` count each arm's units *before* this one, and
    sum their values. Values lie in 0..1.
    """
    rate_2N = np.clip((total_2N + PRIOR) / (units_2N + 2 * PRIOR), SMALLEST_RATE, 1 - SMALLEST_RATE)
    control_N, challenger_N = rate_2N
    own_N = np.where(is_challenger_N, challenger_N, control_N)
    mixed_N = (1 - probability_N) * control_N + probability_N * challenger_N
    log_factor_N = np.log(value_N * own_N / mixed_N + (1 - value_N) * (1 - own_N) / (1 - mixed_N))
    points_up_N = challenger_N > control_N
    points_down_N = challenger_N < control_N
    return np.where(points_up_N, log_factor_N, 0.0), np.where(points_down_N, log_factor_N, 0.0)
