"""A sweep block as a search space: real Optuna trials ask it, its points become jobs."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from cluster.errors import JobFileError
from cluster.spec import ClusterSpec, JobSpec
from tuning.space import (
    MOST_CORNERS,
    VAST,
    corners,
    grid,
    moved_rate,
    own_values,
    packed,
    points,
    suggestions,
    trial_job,
    unpacked,
)


def job(space: dict[str, Any], sweep: dict[str, Any] | None = None, **train: Any) -> JobSpec:
    return JobSpec.model_validate(
        {"name": "a", "base": "b", "data": "c", "train": train, "sweep": {"space": space, **(sweep or {})}}
    )


def asked(of: JobSpec, times: int) -> list[optuna.trial.FrozenTrial]:
    """What the space asks real trials for, with random values."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(times):
        trial = study.ask()
        suggestions(of)(trial)
        study.tell(trial, 0.0)
    return study.trials


def test_each_form_becomes_its_distribution() -> None:
    space = {
        "train.learning_rate": "loguniform(1e-5, 1e-3)",
        "train.dropout": "uniform(0.0, 0.2)",
        "train.lora.rank": "int(4, 64)",
        "train.batch_size": "choice(16, 32)",
        "train.epochs": "fixed(7.0)",
    }
    (trial,) = asked(job(space, method="lora"), 1)
    assert trial.distributions == {
        "train.learning_rate": optuna.distributions.FloatDistribution(1e-5, 1e-3, log=True),
        "train.dropout": optuna.distributions.FloatDistribution(0.0, 0.2),
        "train.lora.rank": optuna.distributions.IntDistribution(4, 64),
        "train.batch_size": optuna.distributions.CategoricalDistribution([16, 32]),
        "train.epochs": optuna.distributions.CategoricalDistribution([7.0]),
    }


def test_keys_of_an_adapter_are_asked_for_only_under_a_method_that_has_one() -> None:
    space = {"train.lora.rank": "choice(4, 8)", "train.method": "choice(full, lora)"}
    trials = asked(job(space, method="lora"), 30)
    assert {trial.params["train.method"] for trial in trials} == {"full", "lora"}
    assert all(("train.lora.rank" in trial.params) == (trial.params["train.method"] == "lora") for trial in trials)


def test_every_point_is_a_job_that_the_spec_accepts() -> None:
    space = {
        "train.method": "choice(full, lora)",
        "train.lora.dropout": "uniform(0.0, 0.5)",
        "train.lora.targets": ["all-linear", ["q_proj", "v_proj"]],
        "train.batch_size": "int(1, 64)",
        "base": "choice(small, large)",
    }
    of = job(space, method="lora", lora={"rank": 4})
    for trial in asked(of, 30):
        made = trial_job(of, trial.params)
        assert made.sweep is None
        assert made.base == trial.params["base"]
        assert made.train.batch_size == trial.params["train.batch_size"]
        if made.train.method == "lora":
            assert made.train.lora.targets == unpacked(trial.params["train.lora.targets"])
            assert made.train.lora.rank == 4


def test_a_list_travels_as_text_and_comes_back() -> None:
    for option in (["q_proj"], None, True, 3, 0.5, "all-linear"):
        assert unpacked(packed(option)) == option


def test_the_job_is_otherwise_the_users_and_paths_stay() -> None:
    of = job({"train.dropout": "uniform(0.0, 0.2)"}, method="full", epochs=5, learning_rate=1e-3)
    made = trial_job(of, {"train.dropout": 0.1}, seed=11)
    assert made.model_dump() | {"train": None, "sweep": None} == of.model_dump() | {"train": None, "sweep": None}
    assert (made.train.dropout, made.train.seed, made.train.epochs, made.train.learning_rate) == (0.1, 11, 5, 1e-3)


def test_a_length_that_the_user_did_not_ask_for_stays_bounded_by_the_base() -> None:
    of = job({"train.dropout": "uniform(0.0, 0.2)"})
    assert not trial_job(of, {"train.dropout": 0.1}).train.max_length_given
    assert trial_job(job({"train.max_length": "choice(64, 128)"}), {"train.max_length": 64}).train.max_length_given


def test_values_that_only_together_are_wrong_are_an_error_that_names_them() -> None:
    space = {"train.zero_stage": "choice(1, 3)", "train.offload": "choice(none, all)"}
    with pytest.raises(JobFileError) as error:
        trial_job(job(space, method="full"), {"train.zero_stage": 1, "train.offload": "all"})
    assert "offload all needs ZeRO stage 3" in str(error.value)


def test_the_jobs_own_values_stand_for_the_job_itself() -> None:
    space = {"train.learning_rate": "loguniform(1e-5, 1e-2)", "train.batch_size": "choice(16, 32)"}
    of = job(space, method="full", learning_rate=1e-3, batch_size=32)
    assert own_values(of) == {"train.learning_rate": 1e-3, "train.batch_size": 32}
    assert trial_job(of, own_values(of)) == of.model_copy(update={"sweep": None})


def test_a_rate_that_was_not_swept_moves_with_the_method() -> None:
    of = job({"train.method": "choice(full, lora)"}, method="full", learning_rate=3e-3)
    assert trial_job(of, {"train.method": "lora"}).train.learning_rate == pytest.approx(3e-2)
    assert trial_job(of, {"train.method": "full"}).train.learning_rate == pytest.approx(3e-3)
    assert moved_rate(0.5, "full", "lora") == 1.0


def test_a_grid_is_every_option_of_every_key() -> None:
    of = job({"train.batch_size": "choice(16, 32)", "train.dropout": [0.0, 0.1, 0.2]}, {"search": "grid"})
    assert grid(of) == {"train.batch_size": [16, 32], "train.dropout": [0.0, 0.1, 0.2]}
    assert len(points(of)) == 6


def test_corners_are_the_ends_of_what_a_plan_depends_on() -> None:
    space = {
        "train.batch_size": "choice(8, 2, 4)",
        "train.lora.rank": "int(4, 64)",
        "train.method": "choice(full, lora)",
        "train.learning_rate": "loguniform(1e-5, 1e-3)",
    }
    found = [tuple(corner.values()) for corner in corners(job(space))]
    assert found == [(2, "full"), (2, 4, "lora"), (2, 64, "lora"), (8, "full"), (8, 4, "lora"), (8, 64, "lora")]
    assert corners(job({"train.learning_rate": "loguniform(1e-5, 1e-3)"})) == []
    many = {
        "train.batch_size": "int(1, 9)",
        "train.epochs": "choice(1.0, 2.0)",
        "train.dropout": "uniform(0.0, 0.1)",
        "train.precision": "choice(auto, fp32)",
        "train.offload": "choice(none, optimizer)",
        "train.lora.rank": "int(4, 8)",
        "train.lora.dora": "choice(true, false)",
    }
    assert len(corners(job(many))) == MOST_CORNERS


def test_whole_numbers_are_points_and_ranges_are_not() -> None:
    of = job({"train.batch_size": "int(15, 17)", "train.dropout": [0.0, 0.1]})
    assert sorted((point["train.batch_size"], point["train.dropout"]) for point in points(of)) == [
        (batch_size, dropout) for batch_size in (15, 16, 17) for dropout in (0.0, 0.1)
    ]
    assert points(job({"train.batch_size": "int(15, 17)", "train.dropout": "uniform(0.0, 0.1)"})) == []
    assert points(job({"train.batch_size": f"int(1, {VAST + 1})"})) == []


def test_a_trial_of_a_range_of_workers_has_the_fewest() -> None:
    ranged = job({"train.dropout": "uniform(0.0, 0.2)"}).model_copy(
        update={"cluster": ClusterSpec.model_validate({"workers": {"min": 2, "max": 8}})}
    )
    assert ranged.of_trials().cluster.workers == 2
    assert trial_job(ranged.of_trials(), {"train.dropout": 0.1}).cluster.workers == 2
