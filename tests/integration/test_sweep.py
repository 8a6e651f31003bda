"""`hone sweep` end to end on a tiny base, through the command line's own entry; nothing is left on the cluster."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
import ray
from mlflow import MlflowClient
from ray.util.placement_group import placement_group_table

from cluster.cli import main
from cluster.jobfile import load_job
from cluster.records import Plan, TrainedWeights
from tests.tiny import write_base, write_diverging_base
from trainers.checkpoint import best_directory
from tuning.latency import latency_s
from tuning.study import counted

pytestmark = pytest.mark.usefixtures("ray_cluster")

TRAIN_KEYS = {"run", "release", "version", "steps", "examples", "metrics", "intervals", "throughput", "gate"}
SPACE = {"train.learning_rate": "loguniform(1e-5, 1e-2)", "train.batch_size": "choice(16, 32)"}
PRIOR = 5e-5 * (2000 / 48) ** 0.781
"""The published learning rate of full tuning for a Llama as wide as the tiny base."""
CLEAR = {"train.learning_rate": [3e-3, 1e-5, 2e-5, 4e-5], "train.batch_size": [16]}
"""A space in which nobody keeps up with the job's own values, whatever the order of the reports."""
SETTLES_S = 20
ACTORS = ("ray::ImplicitFunc", "ray::RayTrainWorker", "ray::TrainController")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HONE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(autouse=True)
def everything_returned() -> Iterator[None]:
    """After a test every processor is free again, and no actor, no process of one and no placement group is left."""
    before = set(placement_group_table())
    yield
    deadline = time.monotonic() + SETTLES_S
    while ray.available_resources().get("CPU", 0) < 2 or actor_processes():
        assert time.monotonic() < deadline, (ray.available_resources(), actor_processes())
        time.sleep(0.2)
    left = {name: group for name, group in placement_group_table().items() if name not in before}
    assert {group["state"] for group in left.values()} <= {"REMOVED"}


def actor_processes() -> list[str]:
    """What Ray's processes that run an actor call themselves: trials, worker groups and their controllers."""
    found: list[str] = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            found.append(" ".join(process.cmdline()))
    return [line for line in found if line.startswith(ACTORS)]


def job_file(directory: Path, base: Path, data: Path, sweep: dict[str, Any], workers: int = 1, **train: Any) -> Path:
    settings = {"method": "full", "epochs": 4, "learning_rate": 3e-3, "batch_size": 16, "eval_every": 0.5} | train
    job = {
        "name": "tickets",
        "base": str(base),
        "data": str(data),
        "train": settings,
        "cluster": {"workers": workers},
        "evaluate": {"max_new_tokens": 8, "batch_size": 64},
        "gate": ["accuracy >= 0.5"],
        "sweep": {"space": SPACE, "trials": 4, **sweep},
    }
    path = directory / "job.yaml"
    path.write_text(json.dumps(job))
    return path


def swept(capsys: pytest.CaptureFixture[str], job: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    code = main(["sweep", str(job), "--json", *arguments])
    shown = capsys.readouterr()
    last = shown.out.splitlines()[-1] if shown.out.strip() else "{}"
    return code, json.loads(last) if code in (0, 3) else {}, shown.err


def test_a_sweep_prunes_and_its_best_trial_is_released(
    tmp_path: Path, home: Path, tiny_base: Path, tickets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = job_file(tmp_path, tiny_base, tickets, {"finalists": 1, "grace": 0.2, "space": CLEAR})
    code, result, err = swept(capsys, job)
    assert code == 0, err
    assert set(result) == TRAIN_KEYS | {"study", "trials", "pruned", "failed", "best", "comparison", "lead"}
    assert (result["study"], result["trials"], result["failed"]) == (result["run"], 4, 0)
    assert result["pruned"] >= 1, "2e-5 cannot keep up with 3e-3"
    assert set(result["best"]["params"]) == set(SPACE)
    assert result["version"] == "tickets@1"
    run = home / "runs" / result["run"]
    winner = load_job(run / "winner.yaml")
    assert winner.train.learning_rate == result["best"]["params"]["train.learning_rate"]
    assert winner.train.batch_size == result["best"]["params"]["train.batch_size"]
    assert winner.sweep is None
    assert result["metrics"]["validation"]["loss"] == pytest.approx(result["best"]["value"])
    release = json.loads((Path(result["release"]) / "release.json").read_text())
    assert release["job"]["train"]["learning_rate"] == winner.train.learning_rate
    assert "<h2>Slices</h2>" in (run / "sweep.html").read_text()
    assert not list(run.glob("trials/*/step-*")), "checkpoints of trials are gone"
    assert not list(run.glob("trials/*/best-*")), "the weights lie in the release"
    study_agrees(home, result)
    children_are_tracked(home, result)


def study_agrees(home: Path, result: dict[str, Any]) -> None:
    """Anyone can open the study: optuna-dashboard needs no more than its URL."""
    study = optuna.load_study(study_name=result["study"], storage=f"sqlite:///{home}/optuna.db")
    states = [trial.state.name for trial in counted(study)]
    assert (len(states), states.count("PRUNED")) == (4, result["pruned"])
    assert len({str(trial.params) for trial in counted(study)}) == 4, "nothing is tried twice"
    assert study.trials[0].params == {"train.learning_rate": 3e-3, "train.batch_size": 16}, "the prior is the job's own"
    assert study.best_value == result["best"]["value"]


def children_are_tracked(home: Path, result: dict[str, Any]) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{home}/mlflow.db")
    experiment = client.get_experiment_by_name("tickets")
    assert experiment is not None
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    parent = runs.pop(result["run"])
    study = optuna.load_study(study_name=result["study"], storage=f"sqlite:///{home}/optuna.db")
    assert set(runs) == {f"trials/{trial.number}" for trial in counted(study)}
    for child in runs.values():
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert "train.learning_rate" in child.data.params
        assert "validation_loss" in child.data.metrics


def test_finalists_are_trained_with_other_seeds(
    tmp_path: Path, home: Path, tiny_base: Path, tickets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = job_file(tmp_path, tiny_base, tickets, {"finalists": 2, "seeds": 2, "trials": 3, "prune": "none"}, epochs=2)
    code, result, err = swept(capsys, job)
    assert code in (0, 3), err
    run = home / "runs" / result["run"]
    finals = json.loads((run / "finals.json").read_text())
    assert {(record["number"], record["seed"]) for record in finals["runs"]} == {
        (number, seed) for number in {record["number"] for record in finals["runs"]} for seed in (1, 2)
    }
    study = optuna.load_study(study_name=result["study"], storage=f"sqlite:///{home}/optuna.db")
    assert study.trials[0].params == {"train.learning_rate": pytest.approx(PRIOR), "train.batch_size": 16}
    assert study.trials[2].params == {"train.learning_rate": 3e-3, "train.batch_size": 16}, "the job's own values"
    assert finals["own"] == 2
    assert 2 in {record["number"] for record in finals["runs"]}, "they are compared with"
    means: dict[int, list[float]] = {}
    for record in finals["runs"]:
        means.setdefault(record["number"], []).append(record["value"])
    assert finals["winner"] == min(means, key=lambda number: sum(means[number]))
    assert load_job(run / "winner.yaml").train.seed in (1, 2)
    assert "Finals" in (run / "sweep.html").read_text()


def test_trials_of_two_workers_fill_the_cluster_to_the_last_processor_and_end(
    tmp_path: Path, home: Path, tiny_base: Path, tickets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a dashboard; with one: tests/faults/test_sweep_faults.py."""
    sweep = {"finalists": 1, "trials": 3, "grace": 0.2, "reduction": 2, "space": CLEAR}
    job = job_file(tmp_path, tiny_base, tickets, sweep, workers=2, zero_stage=2)
    code, result, err = swept(capsys, job)
    assert code == 0, err
    assert result["trials"] == 3
    assert result["pruned"] >= 1
    assert "1 at once" in err


def test_where_every_trial_diverges_nothing_is_registered(
    tmp_path: Path, home: Path, tickets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = write_diverging_base(tmp_path / "base")
    code, _, err = swept(capsys, job_file(tmp_path, base, tickets, {"trials": 3}))
    assert code == 1
    assert "3 trials 3 diverged" in err
    assert "Traceback" not in err
    (run,) = (home / "runs").iterdir()
    assert json.loads((run / "status.json").read_text())["state"] == "failed"
    assert not (run / "release").exists()
    assert main(["evaluate", "tickets@1", "--data", str(tickets)]) == 2
    study = optuna.load_study(study_name=run.name, storage=f"sqlite:///{home}/optuna.db")
    assert all(trial.value is not None and 5 < trial.value < 50 for trial in study.trials), "a finite penalty"
    client = MlflowClient(tracking_uri=f"sqlite:///{home}/mlflow.db")
    experiment = client.get_experiment_by_name("tickets")
    assert experiment is not None
    children = client.search_runs([experiment.experiment_id], "tags.`hone.state` = 'diverged'")
    assert {child.info.run_name for child in children} == {"trials/0", "trials/1", "trials/2"}
    assert {child.info.status for child in children} == {"FAILED"}
    assert all(child.data.tags["hone.why"] for child in children)


def test_a_space_over_bases_and_methods_trains_each_on_its_own_data(
    tmp_path: Path, home: Path, tiny_base: Path, tickets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_base(tmp_path / "other", seed=1)
    space = {
        "base": [str(tiny_base), str(other)],
        "train.method": "choice(full, lora)",
        "train.max_length": "choice(48, 96)",
        "train.lora.rank": "choice(2, 4)",
    }
    traded = {"against": "latency", "give_up": 100.0}
    sweep = {"space": space, "search": "random", "tradeoff": traded, "finalists": 1, "trials": 4, "seed": 3}
    code, result, err = swept(capsys, job_file(tmp_path, tiny_base, tickets, sweep, epochs=1, max_length=96))
    assert code in (0, 3), err
    study = optuna.load_study(study_name=result["study"], storage=f"sqlite:///{home}/optuna.db")
    assert {trial.params["base"] for trial in study.trials} == {str(tiny_base), str(other)}
    assert all(("train.lora.rank" in t.params) == (t.params["train.method"] == "lora") for t in study.trials)
    release = json.loads((Path(result["release"]) / "release.json").read_text())
    assert release["base"] == result["best"]["params"]["base"]
    assert len([path for path in (home / "data").iterdir() if not path.name.startswith(".")]) == 2, "one a length"
    the_front_is_told(home, result, study)
    latency_is_measured_on_a_worker_where_the_trial_has_no_processor(tmp_path, home, result)


def the_front_is_told(home: Path, result: dict[str, Any], study: optuna.Study) -> None:
    """Latency is held down with the loss, and so much may be given up that the fastest model wins."""
    assert [direction.name for direction in study.directions] == ["MINIMIZE", "MINIMIZE"]
    assert all(len(trial.values) == 2 and 0 < trial.values[1] < 1 for trial in study.trials)
    points = [(point["latency_s"], point["value"]) for point in result["pareto"]]
    assert points == sorted(points)
    assert [value for _, value in points] == sorted((value for _, value in points), reverse=True)
    assert points[0][0] == min(trial.values[1] for trial in study.trials)
    assert result["best"] == {key: result["pareto"][0][key] for key in ("params", "value")}
    assert "<h2>Trade-off</h2>" in (home / "runs" / result["run"] / "sweep.html").read_text()
    client = MlflowClient(tracking_uri=f"sqlite:///{home}/mlflow.db")
    experiment = client.get_experiment_by_name("tickets")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`hone.state` = 'complete'")
    assert len([run for run in runs if run.data.metrics["latency_s"] > 0]) == 4


def latency_is_measured_on_a_worker_where_the_trial_has_no_processor(
    tmp_path: Path, home: Path, result: dict[str, Any]
) -> None:
    run = home / "runs" / result["run"]
    job, told = load_job(run / "winner.yaml"), json.loads((run / "winner.json").read_text())
    trained = TrainedWeights.model_validate_json((run / "train" / "trained.json").read_text())
    (tmp_path / "trial").mkdir()
    best_directory(tmp_path / "trial", trained.best_step).symlink_to(run / "train")
    plan = Plan.model_validate(told["check"]["plan"]).model_copy(update={"workers": 2, "cpus_per_worker": 1})
    found = latency_s(job, plan, str(home / "data" / told["prepared"]), str(tmp_path / "trial"), trained)
    assert found == pytest.approx(result["pareto"][0]["latency_s"], rel=3.0), "of the same order on a shared machine"


def test_what_cannot_work_is_refused_before_a_run_exists(
    tmp_path: Path, home: Path, tiny_base: Path, tickets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for sweep, workers, code, said in (
        ({"at_once": 3}, 1, 4, "room for 2"),
        ({}, 3, 4, "room for 2"),
        ({"space": {"train.max_length": "int(16, 64)"}}, 1, 2, "choice"),
        ({"space": {"base": [str(tiny_base), "./nowhere"]}}, 1, 2, "nowhere"),
    ):
        found, _, err = swept(capsys, job_file(tmp_path, tiny_base, tickets, sweep, workers))
        assert found == code, err
        assert said in err
    job = job_file(tmp_path, tiny_base, tickets, {})
    assert main(["sweep", str(job), "--set", "data.split.validation=0.0"]) == 2
    assert "validation rows" in capsys.readouterr().err
    plain = tmp_path / "plain.yaml"
    plain.write_text(f"name: a\nbase: {tiny_base}\ndata: {tickets}\n")
    assert main(["sweep", str(plain)]) == 2
    assert "no sweep block" in capsys.readouterr().err
    assert not (home / "runs").exists()


def test_trials_on_a_share_of_the_data_and_one_worker_find_a_winner_that_two_train_on_all_of_it(
    tmp_path: Path, home: Path, tiny_base: Path, tickets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = {"finalists": 1, "trials": 2, "prune": "none", "workers": 1, "proxy": 0.5}
    code, result, err = swept(capsys, job_file(tmp_path, tiny_base, tickets, sweep, workers=2, zero_stage=2))
    assert code == 0, err
    run = home / "runs" / result["run"]
    trials = [json.loads(path.read_text()) for path in sorted(run.glob("trials/*/trial.json"))]
    assert [trial["trained"]["world_size"] for trial in trials] == [1, 1]
    assert [trial["steps"] < result["steps"] for trial in trials] == [True, True]
    winner = load_job(run / "winner.yaml")
    assert (winner.cluster.workers, winner.train.subset, winner.train.zero_stage) == (2, 1.0, 2)
    final = json.loads(next(run.glob("finals/*/trial.json")).read_text())
    assert final["trained"]["world_size"] == 2
    assert final["values"] == result["best"]["params"]
