"""What happens to a sweep when its driver or a trial is killed or stopped: nothing is tried twice, nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from mlflow import MlflowClient

from cluster.database import database_url, postgres_url
from tests.faults.conftest import Command, Job
from tests.postgres import PostgresServer
from tests.tiny import ticket_rows, write_base, write_jsonl
from tuning.trials import TrialRecord, read_trials

slow = pytest.mark.slow
TRIALS = 4


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("sweeps")
    write_base(folder / "base")
    write_jsonl(folder / "tickets.jsonl", ticket_rows(300))
    job = {
        "name": "tickets",
        "base": "./base",
        "data": {"train": "tickets.jsonl", "split": {"test": 0.0}},
        "train": {
            "method": "full", "epochs": 24, "learning_rate": 1e-4, "batch_size": 16, "max_length": 64,
            "eval_every": 2.0, "early_stopping": None,
        },
        "sweep": {
            "trials": TRIALS, "finalists": 1, "prune": "none",
            "space": {"train.learning_rate": "loguniform(1e-5, 1e-3)"},
        },
    }  # fmt: skip
    path = folder / "job.yaml"
    path.write_text(json.dumps(job))
    return Job(path, folder)


def start(sweep: Job, home: str, *arguments: str) -> Command:
    return sweep.start(home, *arguments, command="sweep")


def resume(sweep: Job, home: str, run: str) -> Command:
    return sweep.start(home, run, "--json", command="resume")


def trials(command: Command) -> list[TrialRecord]:
    from cluster.store import Store

    runs = command.home / "runs"
    return read_trials(Store(str(command.home)), command.run) if runs.exists() and any(runs.iterdir()) else []


def evaluated(command: Command) -> list[Path]:
    """The curves of trials that were scored at least once."""
    return [
        path for path in command.home.glob("runs/*/trials/*/history.jsonl") if "validation_loss" in path.read_text()
    ]


def study(command: Command) -> optuna.Study:
    return optuna.load_study(study_name=command.run, storage=f"sqlite:///{command.home}/optuna.db")


def tracked(command: Command) -> dict[str, Any]:
    """What MLflow has of the job, by the runs' names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SQLAlchemy's about MLflow
        client = MlflowClient(tracking_uri=f"sqlite:///{command.home}/mlflow.db")
        experiment = client.get_experiment_by_name("tickets")
        assert experiment is not None
        return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


def result(command: Command) -> dict[str, Any]:
    return json.loads(command.out.read_text().splitlines()[-1])


@slow
def test_a_killed_driver_is_gone_on_with_and_exactly_the_missing_trials_are_run(sweep: Job) -> None:
    command = start(sweep, "driver")
    command.until(lambda: len(trials(command)) >= 2 and len(evaluated(command)) >= 3)
    left = psutil.Process(command.process.pid).children(recursive=True)
    command.process.kill()
    command.process.wait()
    psutil.wait_procs(left, timeout=30)
    done = {trial.name: trial.model_dump() for trial in trials(command)}
    values = [trial.params for trial in study(command).trials]
    again = resume(sweep, "driver", command.run)
    assert again.ends() == 0, again.said
    found = result(again)
    assert (found["trials"], found["failed"], found["version"]) == (TRIALS, 0, "tickets@1")
    after = {trial.name: trial.model_dump() for trial in trials(again)}
    assert len(after) == TRIALS
    assert {name: after[name] for name in done} == done, "what had ended is as it was"
    counted = [t for t in study(again).trials if not t.user_attrs.get("superseded")]
    assert len(counted) == TRIALS
    assert len({str(t.params) for t in counted}) == TRIALS, "no values twice"
    assert all(any(t.params == before for t in counted) for before in values), "and none of those begun is lost"


def test_a_killed_trial_is_tried_once_more(sweep: Job) -> None:
    command = start(sweep, "killed", "--json")
    command.until(lambda: evaluated(command))
    command.processes("ray::ImplicitFunc")[0].kill()
    assert command.ends() == 0, command.said
    found = result(command)
    assert (found["trials"], found["failed"]) == (TRIALS, 0)
    assert len(study(command).trials) == TRIALS


@slow
def test_a_trial_of_two_workers_of_which_one_is_killed_goes_on(sweep: Job) -> None:
    settings = ("--set", "cluster.workers=2", "--set", "sweep.trials=2")
    command = start(sweep, "worker", "--json", *settings)
    command.until(lambda: evaluated(command) and command.workers())
    command.workers()[-1].kill()
    assert command.ends(300) == 0, command.said
    found = result(command)
    assert (found["trials"], found["failed"]) == (2, 0)
    assert len(study(command).trials) == 2
    assert all(trial.trained and trial.trained.world_size == 2 for trial in trials(command))


@slow
def test_a_trial_that_is_killed_every_time_is_counted_as_failed_with_its_cause(sweep: Job) -> None:
    command = start(sweep, "doomed", "--json", "--set", "sweep.at_once=1", "--set", "sweep.trials=2")
    for _ in range(2):
        command.until(lambda: evaluated(command))
        for curve in evaluated(command):
            curve.unlink()
        command.processes("ray::ImplicitFunc")[-1].kill()
    assert command.ends() == 0, command.said
    found = result(command)
    assert (found["trials"], found["failed"]) == (2, 1)
    (failed,) = (trial for trial in trials(command) if trial.state == "failed")
    assert failed.why
    assert failed.why in command.said
    assert "Traceback" not in command.said
    assert "ERROR" not in command.said, "Tune's own words"
    runs = tracked(command)
    for trial in trials(command):
        assert runs[trial.name].info.status == ("FAILED" if trial.name == failed.name else "FINISHED")
        assert runs[trial.name].data.tags["hone.state"] == trial.state
    assert runs[failed.name].data.tags["hone.why"] == failed.why


@slow
def test_terminated_it_stops_its_trials_and_goes_on_with_them_where_they_were(sweep: Job) -> None:
    command = start(sweep, "terminated")
    command.until(lambda: evaluated(command))
    command.process.send_signal(signal.SIGTERM)
    assert command.ends() == 130, command.said
    assert "hone resume" in command.said
    assert command.status()["state"] == "stopped"
    begun = [path.parent for path in evaluated(command)]
    steps = {path.name: max(int(p.name[5:]) for p in path.glob("step-*")) for path in begun if any(path.glob("step-*"))}
    assert steps, "a trial that was stopped left a checkpoint"
    again = resume(sweep, "terminated", command.run)
    assert again.ends() == 0, again.said
    assert result(again)["trials"] == TRIALS
    counted = [t for t in study(again).trials if not t.user_attrs.get("superseded")]
    assert len(counted) == TRIALS
    for name, step in steps.items():
        (record,) = (trial for trial in trials(again) if trial.name == f"trials/{name}")
        assert record.trained is not None
        history = (again.home / "runs" / again.run / record.name / "history.jsonl").read_text().splitlines()
        seen = [json.loads(line)["step"] for line in history if '"loss"' in line]
        assert seen == list(range(1, record.trained.steps + 1)), f"no step twice, none left out after {step}"


@slow
def test_a_sweep_whose_database_is_stopped_says_how_to_go_on_and_does(sweep: Job, postgres: PostgresServer) -> None:
    url = postgres.new_database()
    command = sweep.start("database", command="sweep", HONE_DB=url)
    command.until(lambda: len(trials(command)) >= 1 and len(evaluated(command)) >= 2)
    postgres.stop()
    try:
        assert command.ends() == 1, command.said
    finally:
        postgres.start()
    assert f"hone resume {command.run}" in command.said
    assert "Traceback" not in command.said
    assert command.status()["state"] == "failed"
    done = {trial.name for trial in trials(command)}
    assert len(done) < TRIALS
    again = sweep.start("database", command.run, "--json", command="resume", HONE_DB=url)
    assert again.ends() == 0, again.said
    found = result(again)
    assert (found["trials"], found["failed"]) == (TRIALS, 0)
    assert done <= {trial.name for trial in trials(again)}
    storage = optuna.storages.RDBStorage(database_url("", postgres_url(url), "optuna"))
    told = optuna.load_study(study_name=command.run, storage=storage)
    counted = [t for t in told.trials if not t.user_attrs.get("superseded")]
    storage.remove_session()
    storage.engine.dispose()
    assert [t.state.name for t in counted] == ["COMPLETE"] * TRIALS
    assert len({str(t.params) for t in counted}) == TRIALS, "no values twice"


UNDER_A_RAY = """
import sys, time, ray
from ray.util.placement_group import placement_group_table
from cluster.cli import main
ray.init("local", num_cpus=2, include_dashboard=True, log_to_driver=False, logging_level="ERROR")
code = main(sys.argv[1:])
deadline = time.monotonic() + 20
def left():
    groups = [group["state"] for group in placement_group_table().values() if group["state"] != "REMOVED"]
    taken = 2 - ray.available_resources().get("CPU", 0)
    return [*groups, f"{taken:g} CPUs"] if taken else groups
while left() and time.monotonic() < deadline:
    time.sleep(0.2)
assert not left(), left()
ray.shutdown()
sys.exit(code)
"""


@slow
def test_trials_of_two_workers_on_two_processors_end_with_a_dashboard(sweep: Job) -> None:
    """What hung for ever when pruned trials were killed (ray#54305): every processor is taken by a pruned trial.

    Without a dashboard: tests/integration/test_sweep.py.
    """
    home = sweep.folder / "dashboard"
    asha = ["sweep.prune=asha", "sweep.trials=3", "sweep.grace=0.4", "sweep.reduction=2"]
    rates = "sweep.space={train.learning_rate: [3.0e-3, 1.0e-5, 2.0e-5]}"
    # Of the job's 24 epochs more than half lie behind the first rung: time to read the verdict and return.
    settings = ["cluster.workers=2", "train.learning_rate=3.0e-3", rates, *asha]
    arguments = ["sweep", str(sweep.path), "--json", *(part for text in settings for part in ("--set", text))]
    done = subprocess.run(
        [sys.executable, "-c", UNDER_A_RAY, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"HONE_HOME": str(home), "RAY_TRAIN_V2_ENABLED": "1"},
        timeout=420,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["trials"], found["failed"]) == (3, 0)
    assert found["pruned"] >= 1, "1e-5 and 2e-5 cannot keep up with 3e-3"
