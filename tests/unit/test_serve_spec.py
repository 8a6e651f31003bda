"""The serve block: the design's example, and rules between arms and experiment."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from pydantic import ValidationError

from cluster.serve_spec import ServeSpec

DESIGN: dict[str, Any] = {
    "endpoint": "support",
    "arms": {
        "control": {"release": "support-router@champion", "weight": 90},
        "candidate": {"release": "support-router@4", "weight": 10, "generation": {"temperature": 0.0}},
    },
    "experiment": {
        "name": "router-v4",
        "control": "control",
        "outcome": "success",
        "unit": "user",
        "horizon_h": 24,
        "missing": "exclude",
        "guardrails": {"error_rate": 0.01, "slow": {"latency_s": 2.0, "rate": 0.05}},
        "ramp": [1, 10, 50],
        "promote": "manual",
    },
    "log": "features",
}


def changed(path: str, value: Any) -> dict[str, Any]:
    block = copy.deepcopy(DESIGN)
    *parents, last = path.split(".")
    here = block
    for part in parents:
        here = here[part]
    here[last] = value
    return block


def test_the_designs_example_is_taken_as_it_stands():
    spec = ServeSpec.model_validate(DESIGN)
    assert [arm.weight for arm in spec.arms.values()] == [90, 10]
    assert spec.experiment is not None
    assert spec.experiment.guardrails.slow is not None
    assert ServeSpec.model_validate(spec.model_dump()) == spec


@pytest.mark.parametrize(
    "release", ["m@1", "m@champion", "m@challenger", "./runs/x", "/abs/dir@2", "base:org/model", "base:./m"]
)
def test_every_way_to_name_a_release_is_taken(release: str):
    ServeSpec.model_validate(changed("arms.control.release", release))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("endpoint", "Support"),
        ("arms", {}),
        ("arms.control.release", ""),
        ("arms.control.release", "m@0"),
        ("arms.control.release", "M@1"),
        ("arms.control.release", "m@latest"),
        ("arms.control.weight", -1),
        ("arms.control.wieght", 1),
        ("arms.Bad Name", {"release": "m@1", "weight": 1}),
        ("arms.candidate.generation.temperature", 3),
        ("arms.candidate.generation.top_p", 0),
        ("experiment.control", "nobody"),
        ("experiment.missing", "guess"),
        ("experiment.horizon_h", 0),
        ("experiment.ramp", [10, 5]),
        ("experiment.ramp", [0, 5]),
        ("experiment.ramp", [50, 101]),
        ("experiment.guardrails.error_rate", 1.0),
        ("experiment.guardrails.slow.latency_s", 0),
        ("experiment.promote", "maybe"),
        ("log", False),
    ],
)
def test_a_wrong_value_is_refused(path: str, value: Any):
    with pytest.raises(ValidationError):
        ServeSpec.model_validate(changed(path, value))


def test_traffic_needs_an_arm_to_go_to():
    with pytest.raises(ValidationError, match="weight 0"):
        ServeSpec.model_validate({"endpoint": "e", "arms": {"a": {"release": "m@1"}}})


def test_an_experiment_needs_two_arms():
    one = {"a": {"release": "m@1", "weight": 1}}
    with pytest.raises(ValidationError, match="two arms"):
        ServeSpec.model_validate({"endpoint": "e", "arms": one, "experiment": {"name": "x", "control": "a"}})


def test_two_arms_may_hold_the_same_release():
    arms = {"a": {"release": "m@1", "weight": 1}, "b": {"release": "m@1", "weight": 1}}
    ServeSpec.model_validate({"endpoint": "e", "arms": arms, "experiment": {"name": "x", "control": "a"}})
