"""The study's bookkeeping on a real SQLite storage: what is missing after a kill, and what the sampler is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from cluster.session import Settings
from cluster.spec import JobSpec
from tuning.judge import PROGRESS, VALUE
from tuning.study import (
    Ending,
    StudySearch,
    counted,
    directory_of,
    has_converged,
    open_study,
    queue_warm_starts,
    sampler_of,
    take_back,
)
from tuning.sweep import wanted
from tuning.trials import Assigned

RUN = "a-20260101-000000-abcd"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.from_env({"HONE_HOME": str(tmp_path)}, tmp_path)


def job(**sweep: Any) -> JobSpec:
    space = {"train.learning_rate": "loguniform(1e-5, 1e-2)", "train.batch_size": "choice(8, 16, 32)"}
    train = {"method": "full", "learning_rate": 1e-3, "batch_size": 16}
    block = {"space": space, "trials": 6, **sweep}
    return JobSpec.model_validate({"name": "a", "base": "b", "data": "c", "train": train, "sweep": block})


def search(study: optuna.Study, of: JobSpec, endings: dict[str, Ending | None] | None = None) -> StudySearch:
    """A searcher whose trials complete with loss 1, unless ``endings`` says otherwise by their directory."""

    def ending(assigned: Assigned, result: Any) -> Ending | None:
        return (endings or {}).get(assigned.name, Ending(TrialState.COMPLETE, 1.0))

    return StudySearch(study, of, "min", ending, lambda: False)


def test_the_jobs_own_values_come_first_and_only_once(settings: Settings) -> None:
    study = open_study(job(), RUN, settings, "min")
    queue_warm_starts(study, job())
    queue_warm_starts(open_study(job(), RUN, settings, "min"), job())
    searcher = search(study, job())
    first, second = searcher.suggest("one"), searcher.suggest("two")
    assert first == {
        "name": "trials/0",
        "number": 0,
        "values": {"train.learning_rate": 1e-3, "train.batch_size": 16},
        "seed": None,
    }
    assert second["values"] == {"train.learning_rate": 2e-5, "train.batch_size": 16}, "the usual rate of the method"
    assert searcher.suggest("three")["values"] not in (first["values"], second["values"])


def test_after_a_kill_what_was_running_is_queued_again_in_its_own_directory(settings: Settings) -> None:
    study = open_study(job(), RUN, settings, "min")
    searcher = search(study, job())
    configs = [searcher.suggest(name) for name in ("a", "b", "c")]
    searcher.on_trial_complete("a", {})
    del searcher  # killed: b and c were running

    again = open_study(job(), RUN, settings, "min")
    assert take_back(again) == [1, 2]
    assert [trial.number for trial in counted(again)] == [0]
    searcher = search(again, job())
    for number, before in ((3, configs[1]), (4, configs[2])):
        config = searcher.suggest(f"again-{number}")
        assert config["number"] == number
        assert (config["name"], config["values"]) == (before["name"], before["values"])
        searcher.on_trial_complete(f"again-{number}", {})
    assert len(counted(again)) == 3
    assert take_back(again) == []
    assert searcher.suggest("new")["name"] == "trials/5"


def test_a_trial_taken_back_twice_still_goes_on_in_its_first_directory(settings: Settings) -> None:
    first = search(open_study(job(), RUN, settings, "min"), job()).suggest("a")
    for number in (1, 2):
        study = open_study(job(), RUN, settings, "min")
        take_back(study)
        config = search(study, job()).suggest("again")
        assert (config["number"], config["name"], config["values"]) == (number, first["name"], first["values"])


def test_an_interrupted_trial_stays_open_for_the_next_session(settings: Settings) -> None:
    study = open_study(job(), RUN, settings, "min")
    searcher = search(study, job(), {"trials/0": None})
    searcher.suggest("a")
    searcher.on_trial_complete("a", {})
    assert counted(study) == []
    assert take_back(study) == [0]


def test_the_study_is_told_each_ending(settings: Settings) -> None:
    study = open_study(job(), RUN, settings, "min")
    endings: dict[str, Ending | None] = {
        "trials/1": Ending(TrialState.PRUNED),
        "trials/2": Ending(TrialState.COMPLETE, 12.5),
        "trials/3": Ending(TrialState.FAIL),
    }
    searcher = search(study, job(), endings)
    for name in "abcde":
        searcher.suggest(name)
        searcher.on_trial_result(name, {PROGRESS: 167, VALUE: 3.0})
        searcher.on_trial_result(name, {PROGRESS: 167, VALUE: 4.0})  # a second attempt comes by again
        searcher.on_trial_result(name, {PROGRESS: 333, VALUE: 2.0})
    for name in "abcd":
        searcher.on_trial_complete(name, {})
    searcher.on_trial_complete("e", None, error=True)
    found = optuna.load_study(study_name=RUN, storage=f"sqlite:///{settings.home}/optuna.db").trials
    states = [trial.state.name for trial in found]
    assert states == ["COMPLETE", "PRUNED", "COMPLETE", "FAIL", "FAIL"]
    assert [trial.value for trial in found] == [1.0, 2.0, 12.5, None, None]
    assert found[1].intermediate_values == {167: 3.0, 333: 2.0}
    assert len(counted(study)) == 5


def test_every_point_of_a_space_of_choices_is_tried_once(settings: Settings) -> None:
    space = {"train.method": "choice(full, lora)", "train.lora.rank": "choice(4, 8)", "train.dropout": [0.0, 0.1]}
    of = job(space=space, trials=20)
    assert wanted(of) == 6, "a rank means nothing under full tuning"
    study = open_study(of, RUN, settings, "min")
    queue_warm_starts(study, of)
    searcher = search(study, of)
    tried = [json.dumps(searcher.suggest(str(number))["values"], sort_keys=True) for number in range(3)]
    for number in range(3):
        searcher.on_trial_complete(str(number), {})
    tried += [json.dumps(searcher.suggest(str(number))["values"], sort_keys=True) for number in range(3, 6)]
    assert len(set(tried)) == 6
    assert len(counted(study)) == 3, "suggestions that were passed over count for nothing"


def test_a_searcher_whose_search_is_over_suggests_nothing(settings: Settings) -> None:
    study = open_study(job(), RUN, settings, "min")
    searcher = StudySearch(study, job(), "min", lambda _, __: None, lambda: True)
    assert searcher.suggest("a") == Searcher.FINISHED
    assert study.trials == []


def test_a_search_that_goes_on_does_not_repeat_its_first_draws(settings: Settings) -> None:
    of = job(search="random")
    study = open_study(of, RUN, settings, "min")
    searcher = search(study, of)
    first = [searcher.suggest(name)["values"] for name in ("a", "b", "c")]
    for name in ("a", "b", "c"):
        searcher.on_trial_complete(name, {})
    later = search(open_study(of, RUN, settings, "min"), of)
    assert not any(later.suggest(name)["values"] in first for name in ("d", "e", "f"))


@pytest.mark.parametrize(
    ("name", "kind"), [("tpe", "TPESampler"), ("gp", "GPSampler"), ("random", "RandomSampler"), ("grid", "WholeGrid")]
)
def test_each_search_has_its_sampler_and_suggests_points_of_the_space(settings: Settings, name: str, kind: str) -> None:
    space = {"train.learning_rate": [1e-4, 1e-3], "train.batch_size": "choice(8, 16, 32)"}
    of = job(search=name, space=space)
    assert type(sampler_of(of, 0)).__name__ == kind
    study = open_study(of, f"{name}-20260101-000000-abcd", settings, "min")
    searcher = search(study, of)
    seen = []
    for place in range(6):
        seen.append(tuple(searcher.suggest(str(place))["values"].values()))
        searcher.on_trial_complete(str(place), {})
    assert {rate for rate, _ in seen} <= {1e-4, 1e-3}
    if name == "grid":
        assert len(set(seen)) == 6, "every point once"


def test_a_search_has_converged_when_its_model_expects_no_gain_and_not_before() -> None:
    def searched(trials: int) -> optuna.Study:
        """Random points of a smooth bowl, which a Gaussian process knows well after some tens of them."""
        rng, study = np.random.default_rng(0), optuna.create_study()
        space: dict[str, Any] = {key: optuna.distributions.FloatDistribution(0.0, 1.0) for key in "xy"}
        for _ in range(trials):
            x, y = rng.random(2).tolist()
            value = (x - 0.3) ** 2 + (y - 0.6) ** 2
            point = optuna.trial.create_trial(params={"x": x, "y": y}, distributions=space, value=value)
            study.add_trial(point)
        return study

    assert [bool(has_converged(searched(trials))) for trials in (5, 12, 40)] == [False, False, True]


def test_directories_are_named_by_number() -> None:
    trial = optuna.trial.create_trial(value=1.0, user_attrs={})
    assert directory_of(trial) == f"trials/{trial.number}"
