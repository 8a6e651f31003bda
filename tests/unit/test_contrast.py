"""The effect's sums: against a slow loop and against every possible course of small experiments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple
from math import exp, log, sqrt

import numpy as np
import pytest
from numpy.typing import NDArray

from serving import contrast
from serving.contrast import COLUMNS, Contrast, contrast_after, contrast_of, contrast_path
from serving.sequential import boundary
from serving.units import Units

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def drawn(seed: int, num: int, effect: float = 0.0) -> tuple[Floats, Bools, Floats]:
    """Return values, arms and probabilities of units under a ramp."""
    generator = np.random.default_rng(seed)
    probability_N = np.repeat([0.01, 0.1, 0.5], [num // 4, num // 4, num - 2 * (num // 4)])
    arm_N = generator.random(num) < probability_N
    value_N = (generator.random(num) < 0.3 + effect * arm_N).astype(np.float64)
    return value_N, arm_N, probability_N


def stretch(data: tuple[Floats, Bools, Floats], start: int, end: int) -> tuple[Floats, Bools, Floats]:
    value_N, arm_N, probability_N = data
    return value_N[start:end], arm_N[start:end], probability_N[start:end]


def slowly(value_N: Floats, arm_N: Bools, probability_N: Floats) -> dict[str, float]:
    """Compute the sums unit by unit, as the formulas are written."""
    sums = dict.fromkeys(COLUMNS, 0.0)
    seen: list[tuple[bool, float]] = []
    for y, is_b, q_b in zip(value_N.tolist(), arm_N.tolist(), probability_N.tolist(), strict=True):
        q_a = 1 - q_b
        side = "challenger" if is_b else "control"
        if seen:
            m = sum(value for _, value in seen) / len(seen)
            x = q_a * (y - m) if is_b else -q_b * (y - m)
            sums["score"] += x
            sums["variance"] += x * x
            sums["overlap"] += q_a * q_b
            sums[f"{side}_above"] += y > m
            sums[f"{side}_below"] += y < m
        rates = [
            (sum(v for b, v in seen if b == arm) + 0.18) / (sum(b == arm for b, _ in seen) + 0.36)
            for arm in (False, True)
        ]
        likelihoods = [y * rate + (1 - y) * (1 - rate) for rate in rates]  # of a binary y
        factor = log(likelihoods[is_b] / (q_a * likelihoods[0] + q_b * likelihoods[1]))
        sums["log_better"] += factor if rates[1] > rates[0] else 0
        sums["log_worse"] += factor if rates[1] < rates[0] else 0
        for name, worth in (("units", 1), ("total", y), ("zeros", y == 0), ("ones", y == 1)):
            sums[f"{side}_{name}"] += worth
        seen.append((is_b, y))
    return sums


def test_the_sums_are_those_of_a_slow_loop() -> None:
    data = drawn(0, 400, effect=0.1)
    path_NC = contrast_path(*data, Contrast())
    expected = slowly(*data)
    # Sums of 400 terms of size 1 in another order: rounding stays below 1e-12.
    assert path_NC[-1] == pytest.approx(np.array([expected[name] for name in COLUMNS]), abs=1e-10)
    earlier = slowly(*stretch(data, 0, 123))
    assert path_NC[122] == pytest.approx(np.array([earlier[name] for name in COLUMNS]), abs=1e-10)


def test_stretches_add_up_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    data = drawn(1, 300)
    whole = Contrast(*contrast_path(*data, Contrast())[-1].tolist())
    parts = Contrast()
    for start, end in ((0, 1), (1, 90), (90, 90), (90, 300)):
        parts = contrast_after(parts, *stretch(data, start, end))
    assert astuple(parts) == pytest.approx(astuple(whole), abs=1e-10)
    monkeypatch.setattr(contrast, "BLOCK_UNITS", 7)
    assert astuple(contrast_after(Contrast(), *data)) == pytest.approx(astuple(whole), abs=1e-10)


def test_with_even_weights_it_agrees_with_the_classic_comparison_of_means() -> None:
    generator = np.random.default_rng(0)
    num = 40_000
    arm_N = generator.random(num) < 0.5
    value_N = generator.normal(loc=3 + 0.02 * arm_N, scale=1.5)
    found = Contrast(*contrast_path(value_N, arm_N, np.full(num, 0.5), Contrast())[-1].tolist())
    a, b = value_N[~arm_N], value_N[arm_N]
    error = sqrt(a.var() / len(a) + b.var() / len(b))
    interval = found.interval(0.05, 200.0)
    assert interval is not None
    # The two estimators differ by (baseline − mean)·imbalance, far below their standard error, here 0.015.
    assert interval.value == pytest.approx(b.mean() - a.mean(), abs=0.1 * error)
    assert sqrt(found.variance) / found.overlap == pytest.approx(error, rel=0.01)
    reach = boundary(found.variance, 0.05, 200.0) / found.overlap
    assert (interval.low, interval.high) == pytest.approx((interval.value - reach, interval.value + reach))


def test_the_verdict_does_not_depend_on_where_an_outcomes_zero_lies() -> None:
    value_N, arm_N, probability_N = drawn(2, 500)
    here = Contrast(*contrast_path(value_N, arm_N, probability_N, Contrast())[-1].tolist())
    there = Contrast(*contrast_path(value_N + 1000, arm_N, probability_N, Contrast())[-1].tolist())
    assert (there.score, there.variance, there.overlap) == pytest.approx((here.score, here.variance, here.overlap))
    assert there.outside == 500


def test_units_without_a_choice_and_of_other_arms_are_left_out() -> None:
    probability_NA = np.array([[0.2, 0.3, 0.5], [0.5, 0.0, 0.5], [0.4, 0.4, 0.2], [0.4, 0.4, 0.2], [0.1, 0.3, 0.6]])
    arm_N = np.array([0, 0, 1, 2, 1], dtype=np.intp)
    value_N = np.array([1.0, 5.0, 0.0, 7.0, 1.0])
    found = contrast_of(Units(("a", "b", "c"), arm_N, probability_NA, value_N, 5), "a", "b")
    # Left are a: 1, b: 0 and b: 1, at b's probabilities 0.6, 0.5 and 0.75 of the pair; the first only gives a mean.
    assert found.score == pytest.approx(0.5 * (0 - 1) + 0.25 * (1 - 0.5))
    assert found.overlap == pytest.approx(0.25 + 0.1875)
    assert (found.control_units, found.challenger_units) == (1, 2)
    waiting = contrast_of(Units(("a", "b", "c"), arm_N, probability_NA, value_N, 2), "a", "b")
    assert (waiting.control_units, waiting.challenger_units) == (1, 0)
    assert contrast_of(Units(("a", "b", "c"), arm_N, probability_NA, value_N, 0), "a", "c") == Contrast()


def test_no_interval_without_overlap() -> None:
    assert Contrast().interval(0.05, 200.0) is None
    path_NC = contrast_path(np.ones(3), np.ones(3, dtype=bool), np.ones(3), Contrast())
    assert len(path_NC) == 0


def test_the_least_count_is_of_binary_values_where_they_are_binary() -> None:
    value_N = np.array([0, 0, 1, 0, 1, 1, 0, 0, 1.0])
    arm_N = np.array([0, 0, 0, 1, 1, 1, 1, 1, 1], dtype=bool)
    path_NC = contrast_path(value_N, arm_N, np.full(9, 0.5), Contrast())
    assert Contrast(*path_NC[-1].tolist()).least == 1
    graded = Contrast(*contrast_path(value_N * 0.5, arm_N, np.full(9, 0.5), Contrast())[-1].tolist())
    assert not graded.is_binary
    # a: 0 (no mean yet), 0 (at the mean), 0.5 above; so none of a lies below.
    assert graded.least == 0


def test_without_an_effect_sixty_looks_under_a_ramp_seldom_leave_zero_out() -> None:
    generator = np.random.default_rng(0)
    num, experiments = 3000, 300
    share_N = np.repeat([0.1, 0.5], num // 2)
    rate_N = np.linspace(0.2, 0.4, num)
    wrong = naively_wrong = 0
    for _ in range(experiments):
        arm_N = generator.random(num) < share_N
        value_N = (generator.random(num) < rate_N).astype(np.float64)
        path_NC = contrast_path(value_N, arm_N, share_N, Contrast())
        looks = [Contrast(*row) for row in path_NC[49::50].tolist()]
        wrong += any(one.least >= 10 and abs(one.score) > boundary(one.variance, 0.05, 50.0) for one in looks)
        last = looks[-1]
        a, b = last.control_total / last.control_units, last.challenger_total / last.challenger_units
        error = sqrt(a * (1 - a) / last.control_units + b * (1 - b) / last.challenger_units)
        naively_wrong += abs(b - a) > 1.96 * error
    # 5 % and three standard errors of 300 experiments; one look at pooled shares is mostly wrong, so the ramp bites.
    assert wrong / experiments <= 0.05 + 3 * 0.0126
    assert naively_wrong / experiments > 0.5


# Every course of a small experiment, with weights that react to what has been seen and rates that drift.

COURSE = 5


def reacting_weight(arms: list[bool], values: list[float]) -> float:
    return [0.1, 0.5, 0.8][(len(arms) + int(sum(values)) + sum(arms)) % 3]


def drifting_rate(values: list[float]) -> float:
    return 0.2 + 0.1 * len(values) + 0.15 * (sum(values) % 2)


def expectation(of: Callable[[Contrast], float], effect: float) -> float:
    """Return the exact expectation over all courses where the challenger's rate is the drifting one plus ``effect``."""

    def below(arms: list[bool], values: list[float], weights: list[float], probability: float) -> float:
        if len(arms) == COURSE:
            path_NC = contrast_path(np.array(values), np.array(arms), np.array(weights), Contrast())
            return probability * of(Contrast(*path_NC[-1].tolist()))
        weight, rate = reacting_weight(arms, values), drifting_rate(values)
        total = 0.0
        for is_b in (False, True):
            for value in (0.0, 1.0):
                own = rate + effect * is_b
                chance = (weight if is_b else 1 - weight) * (own if value else 1 - own)
                total += below([*arms, is_b], [*values, value], [*weights, weight], probability * chance)
        return total

    return below([], [], [], 1.0)


@pytest.mark.parametrize("effect", [0.0, 0.13])
def test_the_score_minus_the_effects_overlap_is_a_martingale(effect: float) -> None:
    # 1,024 courses of rounding: 1e-12.
    assert expectation(lambda found: found.score - effect * found.overlap, effect) == pytest.approx(0, abs=1e-12)
    assert abs(expectation(lambda found: found.score - (effect + 0.1) * found.overlap, effect)) > 0.01


def test_exact_evidence_is_a_martingale_without_an_effect() -> None:
    for evidence in (lambda found: exp(found.log_better), lambda found: exp(found.log_worse)):
        assert expectation(evidence, 0.0) == pytest.approx(1, abs=1e-12)


def test_exact_evidence_says_which_arm_is_better() -> None:
    assert (
        expectation(lambda found: exp(found.log_better), -0.15)
        < 1
        < expectation(lambda found: exp(found.log_better), 0.15)
    )
    assert (
        expectation(lambda found: exp(found.log_worse), 0.15)
        < 1
        < expectation(lambda found: exp(found.log_worse), -0.15)
    )


def test_values_between_zero_and_one_keep_exact_evidence_a_martingale() -> None:
    # A sharp null: each unit's value is the same in either arm, whatever it is.
    values = np.array([0.3, 1.0, 0.0, 0.75, 0.5, 0.9])
    weights = np.array([0.5, 0.1, 0.5, 0.7, 0.2, 0.5])
    total = 0.0
    for course in range(2 ** len(values)):
        arms = np.array([course >> place & 1 for place in range(len(values))], dtype=bool)
        found = Contrast(*contrast_path(values, arms, weights, Contrast())[-1].tolist())
        total += float(np.where(arms, weights, 1 - weights).prod()) * exp(found.log_better)
    assert total == pytest.approx(1, abs=1e-12)
