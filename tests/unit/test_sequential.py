"""Boundaries and intervals: against published values, and against the mixtures that they close."""

from __future__ import annotations

import json
from math import lgamma, log, pi, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.sequential import boundary, bounded_mean_interval, mean_interval, mixture_scale


@pytest.fixture(scope="module")
def known(realdata: Path) -> dict[str, dict[str, Any]]:
    cases = json.loads((realdata / "ab" / "known_values.json").read_text(encoding="utf-8"))
    return {case["name"]: case for case in cases}


def test_the_boundary_is_the_published_one(known: dict[str, dict[str, Any]]) -> None:
    case = known["normal_mixture_two_sided"]
    inputs, expected = case["inputs"], case["expected"]
    assert mixture_scale(inputs["v_opt"], inputs["alpha_opt"]) == pytest.approx(expected["rho"], abs=case["tolerance"])
    found = boundary(inputs["v"], inputs["alpha"], inputs["v_opt"])
    assert found == pytest.approx(expected["bound"], abs=case["tolerance"])


def test_a_mean_of_zeros_and_ones_has_the_published_intervals(known: dict[str, dict[str, Any]]) -> None:
    cases = [case for name, case in known.items() if name.startswith("bernoulli_confidence_sequence")]
    assert len(cases) == 6
    for case in cases:
        inputs, expected = case["inputs"], case["expected"]
        found = bounded_mean_interval(inputs["successes"], inputs["n"], inputs["alpha"], inputs["t_opt"])
        assert (found.low, found.high) == pytest.approx((expected["lo"], expected["hi"]), abs=case["tolerance"])


@pytest.mark.parametrize(
    "name", ["sequential_ttest_relative_tuning_1000", "sequential_proportions_relative_tuning_5000"]
)
def test_standard_errors_widen_to_growthbooks_sequential_intervals(known: dict[str, dict[str, Any]], name: str) -> None:
    inputs, expected = known[name]["inputs"], known[name]["expected"]
    (mean_a, variance_a), (mean_b, variance_b) = (moments(inputs[arm]) for arm in "ab")
    units = inputs["a"]["n"] + inputs["b"]["n"]
    relative = variance_b / mean_a**2 + variance_a * mean_b**2 / mean_a**4
    reach = sqrt(units * relative) * boundary(units, inputs["alpha"], inputs["tuning_n"]) / units
    centre = mean_b / mean_a - 1
    expected_ends = (expected["lo"], expected["hi"])
    assert (centre - reach, centre + reach) == pytest.approx(expected_ends, abs=known[name]["tolerance"])


def moments(arm: dict[str, float]) -> tuple[float, float]:
    """Return an arm's mean and the variance of that mean."""
    n = arm["n"]
    if "successes" in arm:
        rate = arm["successes"] / n
        return rate, rate * (1 - rate) / n
    mean = arm["sum"] / n
    return mean, (arm["sum_squares"] - arm["sum"] ** 2 / n) / (n - 1) / n


@pytest.mark.parametrize("alpha", [0.05, 0.04, 0.001])
@pytest.mark.parametrize("variance", [0.5, 30.0, 4000.0])
def test_at_the_boundary_the_mixture_is_one_over_alpha(alpha: float, variance: float) -> None:
    # The definition: likelihood ratios exp(λS − λ²V/2), averaged over λ ~ N(0, ρ²), numerically.
    tightest_at = 200.0
    rho = 1 / sqrt(mixture_scale(tightest_at, alpha))
    reach = boundary(variance, alpha, tightest_at)
    lambdas = np.linspace(-12 * rho, 12 * rho, 400_001)
    density = np.exp(-0.5 * (lambdas / rho) ** 2) / (rho * sqrt(2 * pi))
    mixture = np.trapezoid(np.exp(lambdas * reach - lambdas**2 * variance / 2) * density, lambdas)
    assert mixture == pytest.approx(1 / alpha, rel=1e-6)


def test_the_boundary_is_tightest_where_it_was_asked_to_be() -> None:
    variances = np.geomspace(2, 20_000, 2001)
    heights = np.array([boundary(v, 0.05, 200.0) / sqrt(v) for v in variances])
    # The closed form for ρ is an approximation; its height at V* is within 1 % of the least there is.
    assert boundary(200, 0.05, 200.0) / sqrt(200) < 1.01 * heights.min()
    assert heights[0] > 1.1 * heights.min()
    assert heights[-1] > 1.1 * heights.min()


def test_a_gaussian_walk_crosses_at_most_as_often_as_declared() -> None:
    steps = np.random.default_rng(0).normal(size=(4000, 1500))
    walks = np.abs(np.cumsum(steps, axis=1))
    bounds = np.array([boundary(v, 0.1, 100.0) for v in range(1, 1501)])
    crossed = float((walks > bounds).any(axis=1).mean())
    # 10 % over an infinite time; within 1,500 steps most of it is spent. Standard error 0.5 %.
    assert 0.04 < crossed <= 0.1 + 3 * 0.005


@pytest.mark.parametrize(("total", "units"), [(0, 30), (30, 30), (7, 40), (12.5, 40)])
def test_the_ends_of_a_bounded_mean_are_where_the_beta_mixture_is_one_over_alpha(total: float, units: int) -> None:
    alpha, tightest_at = 0.05, 100.0
    pseudo = tightest_at / (-2 * log(alpha) + log(1 - 2 * log(alpha))) - 1
    found = bounded_mean_interval(total, units, alpha, tightest_at)
    for end in (found.low, found.high):
        if end in (0.0, 1.0):
            assert found.value == end
            continue
        shape = (pseudo * end, pseudo * (1 - end))
        # The midpoint rule in t, where the rate is the logistic function of t: the ends of 0..1 need no care.
        logits = np.linspace(-60, 60, 600_001)
        log_rate, log_rest = -np.logaddexp(0, -logits), -np.logaddexp(0, logits)
        log_prior = shape[0] * log_rate + shape[1] * log_rest - lgamma(shape[0]) - lgamma(shape[1]) + lgamma(pseudo)
        log_ratio = total * (log_rate - log(end)) + (units - total) * (log_rest - log(1 - end))
        mixture = float(np.exp(log_prior + log_ratio).sum() * (logits[1] - logits[0]))
        assert mixture == pytest.approx(1 / alpha, rel=1e-6)


def test_other_values_get_an_asymptotic_interval_or_none() -> None:
    stars = np.random.default_rng(0).integers(1, 6, size=500).astype(np.float64)
    found = mean_interval(stars, 0.05, 1000)
    assert found is not None
    reach = stars.std() * boundary(500, 0.05, 1000) / 500
    assert (found.low, found.high) == pytest.approx((stars.mean() - reach, stars.mean() + reach))
    assert mean_interval(stars[:19], 0.05, 1000) is None
    assert mean_interval(np.full(100, 3.0), 0.05, 1000) is None
    assert mean_interval(np.zeros(0), 0.05, 1000) is None
