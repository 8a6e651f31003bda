"""Ramps and automatic promotion: what happens to traffic by itself, and when nothing does."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.serve_spec import GuardrailSpec
from serving.endpoint import Endpoint
from serving.guardrails import Bound
from serving.judgement import Effect, Ruling
from serving.steering import Move, is_steered, move_of
from serving.verdict import SampleRatio, Verdict
from tests.endpoints import endpoint

HOUR_S = 3600.0


def steered(share: float = 1.0, **experiment: Any) -> Endpoint:
    made = endpoint(a=100 - share, b=share)
    assert made.experiment is not None
    return made.model_copy(update={"experiment": made.experiment.model_copy(update=experiment)})


def verdict(decision: Any = "continue", *, srm: bool = True, bound: bool = True) -> Verdict:
    ruling = Ruling(decision=decision, reason="because", effect=Effect())
    return Verdict(
        experiment="v2", arm="b", arms={}, effect=Effect(), effects={"b": ruling},
        srm=SampleRatio(ok=srm, evidence=1.0), waiting=0, decision=decision, reason="because",
        guardrails={"b": {"error_rate": Bound(rate=0.1, bound=0.01, requests=9, evidence=1.0, ok=bound)}},
    )  # fmt: skip


def test_a_ramp_goes_up_when_its_hours_have_passed():
    ramp = steered(1, ramp=[1.0, 10.0, 50.0], ramp_every_h=2.0)
    assert move_of(ramp, verdict(), 1.0 + 1.9 * HOUR_S) is None
    move = move_of(ramp, verdict(), 1.0 + 2 * HOUR_S)
    assert move is not None
    assert (move.kind, dict(move.weights)) == ("ramp", {"a": 90.0, "b": 10.0})
    assert move_of(steered(50, ramp=[1.0, 10.0, 50.0], ramp_every_h=2.0), verdict(), 9 * HOUR_S) is None


@pytest.mark.parametrize("seen", [verdict(srm=False), verdict(bound=False), verdict("rollback"), verdict("invalid")])
def test_a_ramp_waits_where_something_speaks_against_it(seen: Verdict):
    assert move_of(steered(1, ramp=[10.0]), seen, 99 * HOUR_S) is None


def test_an_arm_that_breaks_a_bound_loses_its_traffic_whoever_decides_the_rest():
    broken = verdict("rollback", bound=False)
    assert is_steered(steered(50, guardrails=GuardrailSpec(error_rate=0.01)))
    assert move_of(steered(50), broken, 2.0) == Move("take off", "because", "b")
    assert move_of(steered(0), broken, 2.0) is None, "it has none any more"
    assert move_of(steered(50), verdict("rollback"), 2.0) is None, "to be worse breaks no bound"
    promoted = steered(50).weighted({"a": 0, "b": 1}, "promote", 3.0)
    assert move_of(promoted, broken, 4.0) is None, "a person's word stands"


def test_a_ramp_begins_from_nothing():
    move = move_of(steered(0, ramp=[5.0]), verdict(), 99 * HOUR_S)
    assert move is not None
    assert dict(move.weights) == {"a": 95.0, "b": 5.0}


def test_decisions_are_acted_on_only_where_the_experiment_says_so():
    assert move_of(steered(50), verdict("promote"), 2.0) is None
    assert move_of(steered(50, promote="auto"), verdict("promote"), 2.0) == Move("promote", "because", "b")
    assert move_of(steered(50, promote="auto"), verdict("rollback"), 2.0) == Move("take off", "because", "b")
    assert move_of(steered(100, promote="auto"), verdict("promote"), 2.0) is None, "it has all traffic already"
    assert move_of(steered(0, promote="auto"), verdict("rollback"), 2.0) is None, "it has no traffic any more"


@pytest.mark.parametrize(("what", "weights"), [("rollback", {}), ("promote", {"b": 0}), ("split", {"b": 0})])
def test_what_a_person_took_from_an_arm_nothing_gives_back(what: Any, weights: dict[str, float]):
    for made in (steered(50, promote="auto"), steered(50, ramp=[10.0, 80.0])):
        moved = made.weighted(weights, what, 2.0)
        assert move_of(moved, verdict("promote"), 99 * HOUR_S) is None
        assert move_of(made.weighted(weights, what, 2.0, by="keeper"), verdict("promote"), 99 * HOUR_S) is not None


def test_a_person_who_only_moves_weights_leaves_the_verdict_in_charge():
    made = steered(10, promote="auto").weighted({"b": 30}, "split", 2.0)
    assert move_of(made, verdict("promote"), 3.0) == Move("promote", "because", "b")


def test_only_ramps_and_automatic_experiments_are_steered():
    assert [is_steered(e) for e in (endpoint(a=1), steered(1), steered(1, promote="auto"), steered(1, ramp=[5.0]))] == [
        False, False, True, True,
    ]  # fmt: skip
