"""Validation metrics made beside the training workers choose what those made by the workers would have chosen."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cluster.cli import main
from cluster.jobfile import load_job
from cluster.progress import Progress
from cluster.records import Metrics, Plan, TrainedWeights
from cluster.session import Settings
from cluster.store import Store
from tests.integration.ranks import on_ranks
from trainers.loop import Silent, run_loop
from trainers.loop_state import LoopState, StepRecord
from trainers.planning import plan_run
from trainers.prepare import prepare
from trainers.prepared import Prepared
from trainers.ranks import Ranks
from trainers.recorder import read_history
from trainers.train_worker import loop_inputs
from trainers.validation import EvaluationRecord
from trainers.validation_scores import score_weights


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HONE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def job_path(tmp_path: Path, tiny_base: Path, tickets: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(
        f"name: tickets\nbase: {tiny_base}\ndata: {{train: {tickets}, split: {{test: 0.0}}}}\n"
        "train: {method: full, epochs: 3, learning_rate: 3.0e-3, batch_size: 16, eval_every: 15, best_by: accuracy,\n"
        "        early_stopping: null}\ncluster: {cpus_per_worker: 1}\nevaluate: {max_new_tokens: 8}\n"
    )
    return path


def evaluations(home: Path) -> list[dict[str, float]]:
    (run,) = (home / "runs").iterdir()
    return [point for point in read_history(run / "train") if "validation_accuracy" in point]


@pytest.mark.usefixtures("ray_cluster")
def test_where_there_is_room_beside_the_workers_a_ray_task_finds_what_they_would(
    job_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found: list[list[dict[str, float]]] = []
    for name, cpus in (("aside", 1), ("workers", 2)):
        monkeypatch.setenv("HONE_HOME", str(home / name))
        assert main(["train", str(job_path), "--json", "--set", f"cluster.cpus_per_worker={cpus}"]) == 0
        result = json.loads(capsys.readouterr().out.splitlines()[-1])
        data = json.loads((home / name / "runs" / result["run"] / "data.json").read_text())
        assert data["check"]["plan"]["scores_aside"] == (name == "aside")
        found.append(evaluations(home / name))
    aside, workers = found
    assert [point["step"] for point in aside] == [point["step"] for point in workers]
    assert len(aside) >= 4
    assert max(point["validation_accuracy"] for point in aside) > 0.5, "it learns"
    for one, other in zip(aside, workers, strict=True):
        assert one["validation_accuracy"] == pytest.approx(other["validation_accuracy"], abs=0.05), "1 or 2 threads"


class Here:
    """Scores when it is asked for the result, in this process."""

    def __init__(self, job: Any, plan: Plan, prepared: str) -> None:
        self._asked = (job, plan, prepared)

    def begin(self, weights: Path) -> None:
        self._weights = weights

    def result(self) -> Metrics:
        return score_weights(*self._asked, str(self._weights))


@dataclass
class Told(Silent):
    """Notes evaluations, and asks to stop after a step."""

    stop_at: int | None = None
    step: int = 0

    def __post_init__(self) -> None:
        self.evaluations: dict[int, Metrics] = {}

    def on_start(self, state: LoopState, warnings: list[str]) -> None:
        self.step = state.step

    def on_step(self, record: StepRecord) -> None:
        self.step = record.step

    def on_evaluation(self, record: EvaluationRecord) -> None:
        self.evaluations[record.step] = record.metrics

    def wants_stop(self) -> bool:
        return self.stop_at is not None and self.step + 1 >= self.stop_at


def trained(
    ranks: Ranks, job_path: Path, home: Path, plan: Plan, key: str, runs: list[tuple[str, bool, int | None]]
) -> list[tuple[dict[int, Metrics], TrainedWeights | None]]:
    """Run the loop in a directory, scoring aside or not, until a step or the end."""
    job, path = load_job(job_path), str(Store(str(home)).reading("data", key))
    found: list[tuple[dict[int, Metrics], TrainedWeights | None]] = []
    for name, aside, stop_at in runs:
        (home / name).mkdir(exist_ok=True)
        inputs = loop_inputs(job, plan, Prepared(Path(path)), home / name)
        told = Told(stop_at)
        chosen = replace(inputs, score=None, aside=Here(job, plan, path)) if aside else inputs
        outcome = run_loop(chosen, ranks, told)
        found.append((told.evaluations, outcome))
    return found


def test_what_was_not_taken_in_before_a_stop_is_asked_for_again(job_path: Path, home: Path) -> None:
    job, store = load_job(job_path), Store(str(home))
    key = prepare(job, store, Progress(sys.stderr))
    plan = plan_run(job, Prepared(store.reading("data", key)), Settings.from_env({"HONE_HOME": str(home)}, home))
    assert plan.scores_aside
    runs = [("plain", False, None), ("aside", True, None), ("stopped", True, 33), ("stopped", True, None)]
    plain, aside, first, rest = on_ranks(trained, 1, job_path, home, plan, key, runs)
    assert aside[0] == plain[0], "the same metrics of the same steps"
    assert aside[1].best_step == plain[1].best_step
    assert list(first[0]) == [15], "the evaluation of step 30 was under way"
    assert first[0] | rest[0] == aside[0]
    assert rest[1].best_step == aside[1].best_step
    assert rest[1].validation == aside[1].validation
