"""Bounds on rates: evidence that is worth its word, one-sided, and counts that are whose they should be."""

from __future__ import annotations

from dataclasses import replace
from math import comb, exp, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.serve_spec import GuardrailSpec, SlowSpec
from serving.design import Design
from serving.guardrails import ODDS_MULTIPLES, Tally, bound_of, bounds_of, log_evidence, tallies_of
from tests.experiment_rows import exposure

DESIGN = Design(
    "e", ("a", "b"), "a", guardrails=GuardrailSpec(error_rate=0.01, slow=SlowSpec(latency_s=2.0, rate=0.05))
)


def expected(rate: float, bound: float, requests: int) -> float:
    """Return the exact expectation of the evidence at a true rate."""
    return sum(
        comb(requests, bad) * rate**bad * (1 - rate) ** (requests - bad) * exp(log_evidence(bad, requests, bound))
        for bad in range(requests + 1)
    )


@pytest.mark.parametrize("bound", [0.01, 0.2, 0.9])
@pytest.mark.parametrize("requests", [1, 7, 60])
def test_evidence_is_worth_one_at_the_bound_less_below_and_more_above(bound: float, requests: int) -> None:
    assert expected(bound, bound, requests) == pytest.approx(1, abs=1e-9)
    assert expected(bound / 2, bound, requests) < 1
    assert expected((1 + bound) / 2, bound, requests) > 1


@given(st.integers(0, 400), st.integers(0, 400), st.floats(0.001, 0.999))
def test_evidence_is_the_mean_of_likelihood_ratios(bad: int, good: int, bound: float) -> None:
    logs = []
    for multiple in ODDS_MULTIPLES:
        odds = multiple * bound / (1 - bound)
        rate = odds / (1 + odds)
        logs.append(bad * log(rate / bound) + good * log((1 - rate) / (1 - bound)))
    top = max(logs)
    mean = top + log(sum(exp(one - top) for one in logs) / len(logs))
    assert log_evidence(bad, bad + good, bound) == pytest.approx(mean, rel=1e-9, abs=1e-7)


def test_a_rate_above_its_bound_is_found_and_one_below_never_is() -> None:
    assert not bound_of(bad=60, requests=2000, bound=0.01, alpha=0.0125).ok
    assert bound_of(bad=20, requests=2000, bound=0.01, alpha=0.0125).ok
    assert bound_of(bad=0, requests=2000, bound=0.01, alpha=0.0125).evidence < 1e-1
    broken = bound_of(bad=5, requests=5, bound=0.01, alpha=0.0125)
    assert not broken.ok
    assert broken.rate == 1.0


def test_no_requests_are_no_evidence() -> None:
    none = bound_of(0, 0, 0.01, 0.0125)
    assert (none.rate, none.evidence, none.ok) == (None, 1.0, True)


def test_evidence_stays_a_finite_number() -> None:
    assert bound_of(10**6, 10**6, 0.01, 0.01).evidence > 1e200


def test_each_request_is_counted_once_in_the_arm_that_answered_it() -> None:
    half = {"a": 0.5, "b": 0.5}
    rows = [
        exposure("1", "u", "a", half, 0, latency_s=1.0),
        exposure("2", "u", "b", half, 1, latency_s=2.5),
        exposure("2", "u", "b", half, 1, latency_s=2.5),
        exposure("3", "u", "b", half, 2, latency_s=9.0, status="failed"),
        exposure("4", "u", "b", half, 3),
        exposure("5", "v", "b", half, 3, latency_s=9.0, forced=True),
        exposure("6", "v", "b", half, 99, latency_s=9.0),
        exposure("7", "v", "aside", half, 3, latency_s=9.0),
    ]
    found = tallies_of(rows, DESIGN, as_of_s=50)
    assert found == {"a": Tally(1, 0, 1, 0), "b": Tally(3, 1, 1, 1)}
    assert Tally(1, 0, 1, 0) + Tally(3, 1, 1, 1) == Tally(4, 1, 2, 1)


def test_only_declared_bounds_are_judged_and_share_the_budget() -> None:
    tallies = {"a": Tally(100, 0, 100, 0), "b": Tally(100, 3, 97, 40)}
    bounds = bounds_of(tallies, DESIGN)
    assert {name: bound.ok for name, bound in bounds["b"].items()} == {"error_rate": True, "slow": False}
    assert DESIGN.bound_alpha == pytest.approx(0.05 / 4)
    assert bounds_of(tallies, replace(DESIGN, guardrails=GuardrailSpec())) == {"a": {}, "b": {}}


def test_a_request_without_room_is_no_failure_and_has_a_bound_of_its_own() -> None:
    design = replace(DESIGN, guardrails=GuardrailSpec(error_rate=0.01, overload_rate=0.1))
    statuses = ["ok"] * 50 + ["failed"] + ["overloaded"] * 49 + ["lost"] * 7
    rows = [exposure(f"r{n}", f"u{n}", "a", {"a": 1.0}, float(n), status=status) for n, status in enumerate(statuses)]
    tally = tallies_of(rows, design, 1000.0)["a"]
    assert (tally.requests, tally.failed, tally.overloaded) == (51, 1, 49)
    assert tally + tally == Tally(102, 2, 0, 0, 98)
    bounds = bounds_of({"a": tally}, design)["a"]
    assert bounds["error_rate"].rate == pytest.approx(1 / 51), "of those that it began on"
    assert bounds["overload_rate"].rate == pytest.approx(0.49)
    assert (bounds["error_rate"].ok, bounds["overload_rate"].ok) == (True, False)


def test_an_undeclared_bound_costs_the_others_nothing() -> None:
    both = replace(DESIGN, guardrails=GuardrailSpec(error_rate=0.01, overload_rate=0.1))
    one = replace(DESIGN, guardrails=GuardrailSpec(overload_rate=0.1))
    assert (both.bound_alpha, one.bound_alpha) == pytest.approx((0.0125, 0.025))
