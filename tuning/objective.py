"""One trial: suggested values → a derived job → training → what it was worth, reported at every evaluation.

A one-worker trial runs the training loop in the trial's own process, which Tune uses again for the next trial, so
nothing is started or imported twice. A trial of several workers puts Ray Train's worker group around the same loop
and follows its curve. Both lie in the trial's directory, end in the same outcome file, and stop at the first report
after the judge (or the user) said so. What would fail again is the trial's result; everything else is raised, and Tune
tries once more, from the trial's newest checkpoint.
"""

from __future__ import annotations

import gc
import json
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.capacity import Capacity
from cluster.errors import BudgetSpent, HoneError, RunFailed
from cluster.records import Metrics, Plan, TrainedWeights
from cluster.runs import write_status
from cluster.store import Store
from cluster.train_spec import is_lower_better
from trainers.loop import run_loop
from trainers.planning import plan_within
from trainers.prepared import Prepared
from trainers.recorder import Recorder
from trainers.train import Workers, in_thread, ray_directory
from trainers.train_worker import OUTCOME, Outcome, leave, loop_inputs, max_seconds, read_outcome
from trainers.validation import EvaluationRecord
from tuning.judge import EXPLODED, FULL, PROGRESS, VALUE, Verdicts
from tuning.space import trial_job
from tuning.tradeoff import LATENCY, training_cost
from tuning.trials import Assigned, trial_history, trial_place

if TYPE_CHECKING:
    import torch

    from cluster.spec import JobSpec
    from trainers.loop_state import StepRecord

FOLLOW_EVERY_S = 0.3
FOLLOW_REMOTE_EVERY_S = 2.0
RESULT = "result"


@dataclass(frozen=True)
class Arena:
    """What all trials of a run share; it travels to every trial. ``prepared`` has data sets' keys by ``shape_key``."""

    run: str
    home: str
    job: JobSpec
    prepared: Mapping[str, str]
    capacity: Capacity
    at_once: int
    explodes_at: float

    @property
    def verdicts(self) -> Verdicts:
        """Where trials read whether to go on."""
        return Verdicts(Store(self.home), self.run)

    def data(self, job: JobSpec) -> Path:
        """Return the prepared data set of a trial's job on this node, verified when the search began."""
        return Store(self.home).reading("data", self.prepared[shape_key(job)], verify=False)

    def data_place(self, job: JobSpec) -> str:
        """Return where any node opens the prepared data set of a trial's job."""
        return Store(self.home).path("data", self.prepared[shape_key(job)])

    def plan(self, job: JobSpec) -> Plan:
        """Return the plan of a trial's job."""
        return plan_within(job, Prepared(self.data(job)), Store(self.home), self.capacity, self.at_once)


def shape_key(job: JobSpec) -> str:
    """Return what decides which prepared data set a trial uses."""
    return json.dumps([job.base, job.train.max_length])


def run_trial(config: dict[str, Any], arena: Arena) -> None:
    """Train as assigned, and report values by progress; the last report holds what became of it (``result``)."""
    from ray import tune

    assigned = Assigned(**config)
    directory = trial_place(Store(arena.home), arena.run, assigned.name)
    try:
        job = trial_job(arena.job, assigned.values, assigned.seed)
        plan = arena.plan(job)
    except HoneError as error:
        tune.report({RESULT: json.dumps({"failure": error.what}), PROGRESS: 0})
        return
    before = read_outcome(directory)
    if before is None or before == Outcome():  # not begun, or stopped to go on
        Store(directory).remove(OUTCOME)
        arena.verdicts.clear(assigned.name)
        train = _train_here if plan.workers == 1 else _train_nested
        train(arena, assigned, job, plan, directory)
    tune.report(_last_report(arena, assigned, job, directory))


def _last_report(arena: Arena, assigned: Assigned, job: JobSpec, directory: str) -> dict[str, Any]:
    """Return a trial's result: a finished training, a failure that would repeat, or neither where it was stopped."""
    outcome = read_outcome(directory)
    assert outcome is not None, "a training leaves its outcome or raises"
    seen = evaluations(trial_history(Store(arena.home), arena.run, assigned.name), job.train.best_by)
    if outcome.trained is not None:
        told = {"trained": outcome.trained.model_dump(), "against": _paid(arena, job, outcome.trained, directory)}
        return _report(outcome.trained.best_value, FULL) | {RESULT: json.dumps(told)}
    error = outcome.error()
    steps = arena.plan(job).steps
    step, value = (seen[-1].step, seen[-1].best) if seen else (0, None)
    result: dict[str, Any] = {"step": step, "steps": steps}
    if isinstance(error, RunFailed):
        result["diverged"] = error.what
    elif error is not None:
        result["failure"] = error.what
    if error is None:
        Store(directory).remove(OUTCOME)  # stopped, perhaps to go on
    return _report(value, progress_of(step, steps)) | {RESULT: json.dumps(result)}


def _paid(arena: Arena, job: JobSpec, trained: TrainedWeights, directory: str) -> Metrics:
    """Return what a finished trial pays, under its name; nothing without a tradeoff."""
    tradeoff = arena.job.sweep.tradeoff if arena.job.sweep else None
    if tradeoff is None:
        return {}
    if tradeoff.against == "cost":
        return training_cost(job, arena.plan(job), trained)
    from tuning.latency import latency_s

    return {LATENCY: latency_s(job, arena.plan(job), arena.data_place(job), directory, trained)}


def _report(value: float | None, progress: int) -> dict[str, Any]:
    return {PROGRESS: progress} | ({} if value is None or not isfinite(value) else {VALUE: value})


def progress_of(step: int, steps: int) -> int:
    """Return how much of its own full budget a trial has done, in thousandths."""
    return round(FULL * step / steps) if steps else 0


@dataclass(frozen=True)
class Seen:
    """One evaluation of a trial: its value, and the best one so far."""

    step: int
    value: float
    best: float
    loss: float


def evaluations(history: list[dict[str, float]], metric: str) -> list[Seen]:
    """Return a curve's evaluations by step; values that are not finite count as none."""
    found: list[Seen] = []
    better = min if is_lower_better(metric) else max
    for row in history:
        value = row.get(f"validation_{metric}")
        if value is not None and isfinite(value):
            best = better(value, found[-1].best) if found else value
            found.append(Seen(int(row["step"]), value, best, row["validation_loss"]))
    return found


class _Stopped(Exception):
    """Leaves the loop of a one-worker trial at a report, without a checkpoint that nobody would go on from."""


class Reporter(Recorder):
    """A trial's curve and status on disk, its evaluations reported to Tune, and the verdict read after each."""

    def __init__(self, arena: Arena, assigned: Assigned, directory: str, metric: str, seconds: float) -> None:
        store, self._name = Store(arena.home), assigned.name
        self._verdicts = arena.verdicts
        super().__init__(
            f"{arena.run}/{assigned.name}",
            directory,
            partial(write_status, store),
            stop_asked=lambda: self._verdicts.read(self._name) in ("interrupted", "budget"),
            max_seconds=seconds,
        )
        self._metric, self._explodes_at = metric, arena.explodes_at
        self._value: float | None = None
        self._steps = 0

    def on_step(self, record: StepRecord) -> None:
        """Note a step."""
        self._steps = record.steps
        super().on_step(record)

    def on_evaluation(self, record: EvaluationRecord) -> None:
        """Report the best value so far; leave where the judge has ended the trial."""
        from ray import tune

        super().on_evaluation(record)
        self._value = _better(self._value, record.metrics, self._metric)
        exploded = not record.metrics["loss"] <= self._explodes_at
        report = _report(self._value, progress_of(record.step, self._steps)) | {EXPLODED: exploded}
        tune.report(report)
        if record.step < self._steps and self._verdicts.read(self._name) in ("pruned", "diverged"):
            raise _Stopped


def _better(best: float | None, metrics: Metrics, metric: str) -> float | None:
    value = metrics[metric]
    if not isfinite(value):
        return best
    if best is None:
        return value
    return min(best, value) if is_lower_better(metric) else max(best, value)


def _train_here(arena: Arena, assigned: Assigned, job: JobSpec, plan: Plan, directory: str) -> None:
    """Run the loop in this process, a world of one."""
    import torch

    from trainers.ranks import join_world

    ranks = join_world()
    if ranks.device.type == "cpu":
        torch.set_num_threads(max(1, int(plan.cpus_per_worker)))
    inputs = loop_inputs(job, plan, Prepared(arena.data(job)), directory)
    reporter = Reporter(arena, assigned, directory, job.train.best_by, max_seconds(job, plan))
    trained: TrainedWeights | None = None
    try:
        trained = run_loop(inputs, ranks, reporter)
    except _Stopped:
        pass
    except RunFailed as error:
        leave(Outcome.failed(error), directory)
        return
    finally:
        reporter.close()
        _free_memory(ranks.device)
    leave(_ended(trained, arena, assigned), directory)


def _free_memory(device: torch.device) -> None:
    """Let go of the trial's engine, whose parts refer to each other, before the next trial needs its room."""
    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _ended(trained: TrainedWeights | None, arena: Arena, assigned: Assigned) -> Outcome:
    """Return how a loop ended that raised nothing: one that stopped unasked has used up its time."""
    if trained is None and arena.verdicts.read(assigned.name) is None:
        return Outcome.failed(BudgetSpent("cluster.max_hours or max_cost is used up by this one training"))
    return Outcome(trained=trained)


def _train_nested(arena: Arena, assigned: Assigned, job: JobSpec, plan: Plan, directory: str) -> None:
    """Put a worker group around the loop and report what its curve says while it trains."""
    run, store = f"{arena.run}/{assigned.name}", Store(arena.home)
    workers = Workers(arena.home, run, directory, job, plan, arena.data_place(job))
    attempt = f"{arena.run}-{uuid.uuid4().hex[:8]}"
    trainer = workers.trainer(attempt, ray_directory(store))
    told = 0

    def tell() -> None:
        nonlocal told
        told = _tell(arena, assigned, job, plan, told)

    try:
        in_thread(trainer.fit, tell, every_s=FOLLOW_EVERY_S if store.is_local else FOLLOW_REMOTE_EVERY_S)
    except Exception:
        outcome = read_outcome(directory)
        if outcome is None or outcome.error() is None:
            raise
    finally:
        shutil.rmtree(Path(ray_directory(store), attempt), ignore_errors=True)
    outcome = read_outcome(directory)
    if outcome is not None and outcome.failure is None:
        leave(_ended(outcome.trained, arena, assigned), directory)


def _tell(arena: Arena, assigned: Assigned, job: JobSpec, plan: Plan, told: int) -> int:
    """Report the evaluations that the worker group has written down since, and return how many there are."""
    from ray import tune

    seen = evaluations(trial_history(Store(arena.home), arena.run, assigned.name), job.train.best_by)
    for evaluation in seen[told:]:
        exploded = not evaluation.loss <= arena.explodes_at
        tune.report(_report(evaluation.best, progress_of(evaluation.step, plan.steps)) | {EXPLODED: exploded})
    return len(seen)
