"""A child comes as challenger beside the arm that has the traffic, in an experiment of its own."""

from __future__ import annotations

import pytest

from cluster.errors import UsageError
from cluster.retrain_spec import RetrainSpec
from cluster.serve_spec import ExperimentSpec
from serving.challenger import challenged, refuse_undecided
from tests.endpoints import arm, endpoint


def test_the_champion_keeps_its_traffic_but_for_the_configured_share() -> None:
    served = endpoint(main=1.0).model_copy(update={"retrain": RetrainSpec(weight=20, horizon_h=2, promote="auto")})
    spec, name = challenged(served, "m@7")
    assert name == "v7"
    assert {one: (a.release, a.weight) for one, a in spec.arms.items()} == {"main": ("m@1", 80), "v7": ("m@7", 20)}
    assert spec.experiment == ExperimentSpec(name="m-v7", control="main", horizon_h=2, promote="auto")
    assert spec.retrain == served.retrain


def test_after_a_promotion_the_winner_is_the_control_and_the_loser_makes_room() -> None:
    served = endpoint(old=0.0, won=100.0)
    assert served.experiment is not None
    served = served.model_copy(update={"experiment": served.experiment.model_copy(update={"outcome": "solved"})})
    served = served.model_copy(update={"arms": served.arms | {"watcher": arm(0.0, shadow=20.0)}})
    spec, _ = challenged(served, "m@3")
    assert set(spec.arms) == {"won", "watcher", "v3"}
    assert spec.experiment is not None
    assert (spec.experiment.name, spec.experiment.control, spec.experiment.outcome) == ("m-v3", "won", "solved")


def test_an_arm_that_has_the_childs_name_already_is_not_replaced() -> None:
    spec, name = challenged(endpoint(v7=1.0), "m@7")
    assert (name, set(spec.arms)) == ("child-v7", {"v7", "child-v7"})


def test_an_undecided_experiment_is_not_disturbed() -> None:
    refuse_undecided(endpoint(old=0.0, won=100.0))
    with pytest.raises(UsageError, match="runs") as refused:
        refuse_undecided(endpoint(old=50.0, new=50.0))
    assert "hone promote" in refused.value.remedy
