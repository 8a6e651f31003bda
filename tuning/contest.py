"""The finalists' values over the same seeds → who wins, how sure that is, and whether it beats the job's own values.

Every contender is trained with every seed, so seeds are blocks of a randomised block design: a seed's luck, which it
shares over contenders through the order of the rows and new weights, cancels in differences. The error is what neither
contender nor seed explains, pooled over all contenders, because two seeds alone say next to nothing about a spread
(Montgomery, Design and Analysis of Experiments, eq. 4.9 to 4.12). Values of the search itself are left out: the best
of many is the best partly by luck, and trained again it falls back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

CONFIDENCE = 0.95
SLACK = 1e-9
"""Differences of values in decimal notation are off by their last bits: 0.71 − 0.70 is above 0.01."""


@dataclass(frozen=True)
class Contender:
    """One set of values, by the number of its trial, what it reached with each seed (all of them), what it pays."""

    number: int
    by_seed: Mapping[int, float]
    pays: float = 0.0

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return float(np.mean(list(self.by_seed.values())))


@dataclass(frozen=True)
class Verdict:
    """Who won; ``half_width`` of a mean's interval (None where one seed gives none), and the lead over another one."""

    winner: int
    half_width: float | None
    lead: tuple[float, float, float] | None

    @property
    def beats_other(self) -> bool | None:
        """Whether the lead's interval excludes zero; None where there is none."""
        return None if self.lead is None else self.lead[1] > 0


def decide(contenders: Sequence[Contender], mode: str, other: int | None, give_up: float | None = None) -> Verdict:
    """Return the winner by its mean, and its lead over the contender ``other`` (positive where the winner is better).

    Under a tradeoff the winner is the one that pays least of those at most ``give_up`` worse than the best. There is no
    lead where ``other`` won, is not among the contenders, or fewer than two seeds were trained.
    """
    sign = 1.0 if mode == "max" else -1.0
    best = max(contenders, key=lambda contender: sign * contender.mean)
    if give_up is not None:
        near = [contender for contender in contenders if sign * (best.mean - contender.mean) <= give_up + SLACK]
        best = min(near, key=lambda contender: (contender.pays, -sign * contender.mean))
    error = _error(contenders)
    half_width = None if error is None else error[1] * error[0] / sqrt(len(best.by_seed))
    rival = next((contender for contender in contenders if contender.number == other), None)
    if rival is None or rival is best or error is None:
        return Verdict(best.number, half_width, None)
    difference = sign * (best.mean - rival.mean)
    spread = error[1] * error[0] * sqrt(2 / len(best.by_seed))
    return Verdict(best.number, half_width, (difference, difference - spread, difference + spread))


def _error(contenders: Sequence[Contender]) -> tuple[float, float] | None:
    """Return the error's standard deviation and the factor of Student's t; None without a degree of freedom."""
    from scipy.stats import t

    seeds = sorted(contenders[0].by_seed)
    values_CS = np.array([[contender.by_seed[seed] for seed in seeds] for contender in contenders])
    freedom = (values_CS.shape[0] - 1) * (values_CS.shape[1] - 1)
    if freedom < 1:
        return None
    residual_CS = values_CS - values_CS.mean(1, keepdims=True) - values_CS.mean(0, keepdims=True) + values_CS.mean()
    return float(sqrt((residual_CS**2).sum() / freedom)), float(t.ppf(0.5 + CONFIDENCE / 2, freedom))
