"""The study's bookkeeping on a real SQLite storage: what is missing after a kill, and what the sampler is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from cluster.session import Settings
from tests.studies import TRADED, Opened, job, opening, search
from tuning.readiness import fewer_points
from tuning.space import wanted
from tuning.study import (
    Ending,
    StudySearch,
    counted,
    directory_of,
    has_converged,
    sampler_of,
)
from tuning.warm_start import warm_starts


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    with opening(Settings.from_env({"HONE_HOME": str(tmp_path)}, tmp_path)) as found:
        yield found


def test_every_point_of_a_space_of_choices_is_tried_once(opened: Opened) -> None:
    space = {"train.method": "choice(full, lora)", "train.lora.rank": "choice(4, 8)", "train.dropout": [0.0, 0.1]}
    of = job(space=space, trials=20)
    assert wanted(of) == 6, "a rank means nothing under full tuning"
    study = opened(of)
    searcher = search(study, of, starts=warm_starts(of))
    tried = [json.dumps(searcher.suggest(str(number))["values"], sort_keys=True) for number in range(3)]
    for number in range(3):
        searcher.on_trial_complete(str(number), {})
    tried += [json.dumps(searcher.suggest(str(number))["values"], sort_keys=True) for number in range(3, 6)]
    assert len(set(tried)) == 6
    assert len(counted(study)) == 3, "suggestions that were passed over count for nothing"


@pytest.mark.parametrize("name", ["tpe", "random", "gp"])
def test_every_whole_number_of_a_small_space_is_tried_before_one_is_tried_again(opened: Opened, name: str) -> None:
    of = job(search=name, space={"train.batch_size": "int(15, 17)", "train.dropout": "fixed(0.1)"}, trials=8)
    assert wanted(of) == 3
    searcher = search(opened(of), of, starts=warm_starts(of))
    tried = []
    for number in range(wanted(of)):
        tried.append(searcher.suggest(str(number))["values"]["train.batch_size"])
        searcher.on_trial_complete(str(number), {})
    assert sorted(tried) == [15, 16, 17]


def test_a_grid_has_as_many_trials_as_distinct_points(opened: Opened) -> None:
    space = {"train.method": "choice(full, lora)", "train.lora.rank": "choice(4, 8)"}
    of = job(search="grid", space=space)
    assert wanted(of) == 3, "a rank means nothing under full tuning"
    searcher = search(opened(of), of)
    tried = []
    for number in range(wanted(of)):
        tried.append(json.dumps(searcher.suggest(str(number))["values"], sort_keys=True))
        searcher.on_trial_complete(str(number), {})
    assert len(set(tried)) == 3


def test_a_space_without_an_end_is_no_bound_on_the_trials() -> None:
    for space in ({"train.batch_size": "int(1, 1000000000)"}, {"train.dropout": "uniform(0.0, 0.1)"}):
        assert wanted(job(space=space)) == 6
        assert fewer_points(job(space=space)) == ""
    assert fewer_points(job(space={"train.batch_size": "int(1, 6)"})) == ""
    said = fewer_points(job(space={"train.batch_size": "int(15, 17)"}))
    assert said == "search: sweep.space has 3 distinct points, so it is 3 trials and not 6"


def test_a_searcher_whose_search_is_over_suggests_nothing(opened: Opened) -> None:
    study = opened(job())
    searcher = StudySearch(study, job(), "min", lambda _, __: None, lambda: True, {})
    assert searcher.suggest("a") == Searcher.FINISHED
    assert study.trials == []


def test_a_search_that_goes_on_does_not_repeat_its_first_draws(opened: Opened) -> None:
    of = job(search="random")
    study = opened(of)
    searcher = search(study, of)
    first = [searcher.suggest(name)["values"] for name in ("a", "b", "c")]
    for name in ("a", "b", "c"):
        searcher.on_trial_complete(name, {})
    later = search(opened(of), of)
    assert not any(later.suggest(name)["values"] in first for name in ("d", "e", "f"))


@pytest.mark.parametrize(
    ("name", "kind"), [("tpe", "TPESampler"), ("gp", "GPSampler"), ("random", "RandomSampler"), ("grid", "WholeGrid")]
)
def test_each_search_has_its_sampler_and_suggests_points_of_the_space(opened: Opened, name: str, kind: str) -> None:
    space = {"train.learning_rate": [1e-4, 1e-3], "train.batch_size": "choice(8, 16, 32)"}
    of = job(search=name, space=space)
    assert type(sampler_of(of, 0)).__name__ == kind
    study = opened(of, f"{name}-20260101-000000-abcd")
    searcher = search(study, of)
    seen = []
    for place in range(6):
        seen.append(tuple(searcher.suggest(str(place))["values"].values()))
        searcher.on_trial_complete(str(place), {})
    assert {rate for rate, _ in seen} <= {1e-4, 1e-3}
    if name == "grid":
        assert len(set(seen)) == 6, "every point once"


@pytest.mark.parametrize("name", ["tpe", "gp", "random", "grid"])
def test_each_search_models_two_values_also_while_other_trials_run(opened: Opened, name: str) -> None:
    space = {"train.learning_rate": [1e-4, 1e-3, 3e-3], "train.batch_size": "choice(2, 4, 8, 16)"}
    of = job(search=name, **TRADED, **({"space": space} if name == "grid" else {}))
    study = opened(of)
    endings = {
        f"trials/{number}": Ending(TrialState.COMPLETE, 1.0 / (1 + number), 10.0 + number % 3) for number in range(60)
    }
    searcher = search(study, of, endings | {"trials/3": Ending(TrialState.FAIL), "trials/4": Ending(TrialState.PRUNED)})
    for number in range(9):
        assert searcher.suggest(str(number))["values"]
        if number > 0:
            searcher.on_trial_complete(str(number - 1), {})
    assert [trial.values for trial in study.trials[:2]] == [[1.0, 10.0], [0.5, 11.0]]


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
