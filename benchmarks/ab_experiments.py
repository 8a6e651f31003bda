"""Simulated experiments for ab_validity.py: units under schedules of weights, and the product's decision at every look.

Units of simple experiments are drawn as arrays and run through `contrast_path`; a look is a row of its sums, decided by
`judged`. Experiments with users who return are drawn as ledger rows and go through the split and the folding too. The
sample ratio and the bounds are left out of the decisions here (what they stop is no false positive), and have their own
tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.contrast import COLUMNS, Contrast, contrast_path
from serving.design import Design
from serving.guardrails import Bound
from serving.judgement import Decision, Evidence, judged
from serving.sample_ratio import Ratio
from serving.split import Split
from serving.units import Exposure, Outcome, folded

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
LOOKS = 60
RAMPS: Mapping[str, Sequence[float]] = {
    "50 %": (0.5,),
    "1→50 %": (0.01, 0.5),
    "10→50 %": (0.1, 0.5),
    "1→10→50 %": (0.01, 0.1, 0.5),
    "10→50→10 %": (0.1, 0.5, 0.1),
}
DESIGN = Design("simulated", ("control", "candidate"), "control", missing="zero", horizon_s=0.2)
NO_BOUNDS: Mapping[str, Mapping[str, Bound]] = {}


@dataclass(frozen=True)
class Course:
    """How one experiment went: the first decision that was not to continue, and the units it took."""

    decision: Decision
    units: int
    naive: bool
    """Whether a z-test at α = 0.05, repeated at every look, would have found a difference at any."""
    once: bool = False
    """Whether one z-test after a quarter of the units would have."""


def shares_of(ramp: str, num: int) -> Floats:
    """Return the candidate's probability for each of ``num`` units, the ramp's steps equally long."""
    steps = RAMPS[ramp]
    return np.asarray(steps)[np.arange(num) * len(steps) // num]


def looks_at(num: int) -> Ints:
    """Return how many units each look sees."""
    return np.linspace(num / LOOKS, num, LOOKS).astype(np.intp)


def drifting(rate: float, num: int, drift: float) -> Floats:
    """Return a rate that rises from ``drift`` below to ``drift`` above, relative to ``rate``."""
    return rate * np.linspace(1 - drift, 1 + drift, num)


def binary_course(generator: np.random.Generator, rate_N: Floats, share_N: Floats, effect: float = 0.0) -> Course:
    """Run one experiment with a binary outcome."""
    arm_N = generator.random(len(share_N)) < share_N
    value_N = (generator.random(len(share_N)) < rate_N + effect * arm_N).astype(np.float64)
    return course_of(value_N, arm_N, share_N)


def course_of(
    value_N: Floats, arm_N: NDArray[np.bool_], share_N: Floats, looks: Ints | None = None, design: Design = DESIGN
) -> Course:
    """Decide at every look until there is a decision; ``looks`` are numbers of units, none: 60 of equal distance."""
    path_NC = contrast_path(value_N, arm_N, share_N, Contrast())
    seen = looks_at(len(value_N)) if looks is None else looks[looks > 0]
    decision, units = first_decision({design.challengers[0]: path_NC}, seen, design)
    quarter = len(path_NC) // 4
    return Course(decision, units, naively_found(path_NC[seen - 1]), naively_found(path_NC[quarter - 1 : quarter]))


def first_decision(paths: Mapping[str, Floats], looks: Ints, design: Design) -> tuple[Decision, int]:
    """Return the first decision on any challenger that is not to continue, and the units seen by then."""
    nobody = (0.0,) * len(design.arms)
    fair = Ratio(nobody, nobody)
    for look in looks.tolist():
        contrasts = {arm: Contrast(*path_NC[look - 1].tolist()) for arm, path_NC in paths.items()}
        _, ruling, rulings = judged(Evidence(contrasts, fair, None, NO_BOUNDS), design)
        for one in (ruling, *rulings.values()):
            if one.decision != "continue":
                return one.decision, look
    return "continue", int(looks[-1])


def naively_found(path_LC: Floats) -> bool:
    """Return whether a pooled z-test of two shares exceeds 1.96 at any of the looks."""
    column = {name: path_LC[:, place] for place, name in enumerate(COLUMNS)}
    return bool((np.abs(z_of(*(column[name] for name in NAIVE))) > 1.96).any())


NAIVE = ("control_units", "control_total", "challenger_units", "challenger_total")


def z_of(units_a: Floats, total_a: Floats, units_b: Floats, total_b: Floats) -> Floats:
    """Return the two-sample z statistic with unpooled variance, 0 where an arm has no successes or no failures."""
    with np.errstate(divide="ignore", invalid="ignore"):
        rate_a, rate_b = total_a / units_a, total_b / units_b
        z = (rate_b - rate_a) / np.sqrt(rate_a * (1 - rate_a) / units_a + rate_b * (1 - rate_b) / units_b)
    known = (total_a > 0) & (total_a < units_a) & (total_b > 0) & (total_b < units_b)
    return np.where(known, z, 0.0)


def returning_course(generator: np.random.Generator, ramp: str, num_users: int, rate: float, salt: str) -> Course:
    """Run one experiment with users who return: the split deals them, the fold counts them, requests are only rows.

    A user comes at a uniform time in 0..1 and returns within 0.6 after; the number of requests is heavy-tailed,
    grows with the user's own rate of success, and three in ten requests get no feedback. Steps of the ramp move users
    between arms. The naive test compares requests by the arm that answered them.
    """
    began_N = np.sort(generator.random(num_users))
    own_N = generator.beta(2 * rate, 2 * (1 - rate), num_users)
    times = np.minimum(1 + generator.pareto(1.5, num_users) * (0.5 + own_N), 40).astype(np.intp)
    user_R = np.repeat(np.arange(num_users), times)
    is_first_R = np.r_[True, user_R[1:] != user_R[:-1]]
    time_R = began_N[user_R] + np.where(is_first_R, 0.0, 0.6 * generator.random(len(user_R)))
    value_R = (generator.random(len(user_R)) < own_N[user_R]).astype(np.float64)
    spoken_R = generator.random(len(user_R)) < 0.7
    steps = RAMPS[ramp]
    splits = [Split(salt, {"control": 1 - share, "candidate": share}) for share in steps]
    step_R = np.minimum((time_R * len(steps)).astype(np.intp), len(steps) - 1)
    rows = [
        Exposure(str(r), f"user-{user}", arm, split.probabilities, time)
        for r, (user, time, step) in enumerate(zip(user_R.tolist(), time_R.tolist(), step_R.tolist(), strict=True))
        if (split := splits[step]) and (arm := split.arm_of(f"user-{user}"))
    ]
    outcomes = [Outcome(str(r), "success", value_R[r], time_R[r]) for r in np.flatnonzero(spoken_R).tolist()]
    units = folded(rows, outcomes, DESIGN, as_of_s=10.0)
    look_times = np.linspace(1 / LOOKS, 1, LOOKS) * (1 + DESIGN.horizon_s)
    # Counted units are those whose horizon has ended, a prefix of all: a look needs no folding of its own.
    looks = np.searchsorted(began_N, look_times - DESIGN.horizon_s, side="right")
    course = course_of(units.value_N, units.arm_N == 1, units.probability_NA[:, 1], looks)
    in_candidate_R = np.array([row.arm == "candidate" for row in rows])
    return Course(course.decision, course.units, by_requests(in_candidate_R, value_R, time_R, look_times))


def by_requests(is_b_R: NDArray[np.bool_], value_R: Floats, time_R: Floats, look_times: Floats) -> bool:
    """Return whether a z-test over requests instead of units finds a difference at any look."""
    order = np.argsort(time_R)
    is_b_R, value_R = is_b_R[order], value_R[order]
    sums = np.cumsum(np.stack([~is_b_R, ~is_b_R * value_R, is_b_R, is_b_R * value_R], axis=1, dtype=np.float64), axis=0)
    seen = np.searchsorted(time_R[order], look_times, side="right")
    return bool((np.abs(z_of(*sums[seen[seen > 0] - 1].T)) > 1.96).any())
