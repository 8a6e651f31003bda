"""The stages of a job as a table, and the one loop that walks it.

A stage is known by its module's name, so importing this file imports no training code. Stages meet only through what
they leave in the run's directory; a stage whose artifact is committed is not run again. Whatever happens, the run's
status and its MLflow run end in a truthful state.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.changes import refuse_changes
from cluster.errors import HoneError, RunStopped, StoreError, UsageError
from cluster.jobfile import dump_job, stored_job
from cluster.phases import Phase, note_phase, timed
from cluster.preflight import refuse_unreachable
from cluster.records import RunState, RunStatus, SweepResult, TrainResult
from cluster.registry import Registry, RunOutcome
from cluster.run_context import DATA_JSON, FINALS_JSON, SEARCHED, RunContext, as_trained
from cluster.run_log import RunLog, logged
from cluster.runs import (
    RUNS,
    claim_run,
    clear_stop,
    find_run,
    new_run_id,
    read_status,
    reconciled_status,
    write_status,
)
from cluster.session import ray_session
from cluster.speed_spec import names_speed
from cluster.store import Store
from cluster.uploads import with_stored_base

if TYPE_CHECKING:
    from cluster.progress import Progress
    from cluster.session import Settings
    from cluster.spec import JobSpec


DATA = "data"
CHECK_PAGE = "check.html"
REPORT_PAGE = "report.html"
SWEEP_PAGE = "sweep.html"
SWEEP_KEYS = ("study", "trials", "pruned", "failed", "pareto")


@dataclass(frozen=True)
class Stage:
    """One row of the pipeline: its name, its entry as MODULE:FUNCTION, what it leaves, and whether it needs Ray.

    ``only`` says of which jobs it is a stage.
    """

    name: str
    entry: str
    leaves: str
    on_ray: bool = False
    only: Callable[[JobSpec], bool] = lambda job: True


TRAINING: tuple[Stage, ...] = (
    Stage("train", "trainers.train:run", "train", on_ray=True),
    Stage("export", "trainers.export:run", "model"),
    Stage("evaluate", "trainers.evaluation:run", "evaluation", on_ray=True),
    Stage("speed", "serving.speed:run", "speed.json", on_ray=True, only=lambda job: names_speed(job.gate)),
    Stage("gate", "trainers.acceptance:run", "gate.json"),
    Stage("release", "trainers.release:run", "release"),
    Stage("register", "trainers.registration:run", "result.json"),
    Stage("report", "trainers.train_page:run", REPORT_PAGE),
)


SWEEP: tuple[Stage, ...] = (
    Stage("search", "tuning.sweep:run", SEARCHED, on_ray=True),
    Stage("finals", "tuning.finals:run", "train", on_ray=True),
    *TRAINING[1:],
    Stage("sweep report", "tuning.report:run", SWEEP_PAGE),
)


def entry(name: str) -> Callable[..., Any]:
    """Return the function named MODULE:FUNCTION, imported only now."""
    module, function = name.split(":")
    return getattr(import_module(module), function)


def train(job: JobSpec, settings: Settings, progress: Progress, now: datetime, run: str | None = None) -> TrainResult:
    """Run a job's stages here, from data to a registered release, and return its result.

    Whatever can be refused is refused before the run exists; ``run`` is its id where that was written down before.
    Raises the HoneError that ended it; nothing is registered then.
    """
    began_s = time.monotonic()
    job = with_stored_base(job, Store(settings.home), progress)
    ready = entry(ready_entry(job))(job, settings, progress)
    took_s = time.monotonic() - began_s
    ctx = start_run(job, ready, settings, progress, run or new_run_id(job.name, now, os.urandom(2)))
    note_phase(ctx.store, ctx.run, Phase(stage=DATA, took_s=took_s, done=True))
    return _through(ctx)


def resume(run: str, settings: Settings, progress: Progress, overrides: Sequence[str] = ()) -> TrainResult:
    """Go on with a run that ended early, from what it left behind, and return its result.

    ``overrides`` are KEY=VALUE of the job's ``cluster:`` block and of a sweep's budget, which change nothing that is
    trained.
    Raises UsageError for a run that is still going on or has finished.
    """
    store = Store(settings.home)
    status = reconciled_status(store, find_run(store, run))
    if status.state in ("finished", "running", "waiting", "stopping"):
        remedy = f"hone status {run}" + ("" if status.state == "finished" else f"; hone stop {run}")
        raise UsageError(f"the run {run} is {status.state}", remedy)
    refuse_changes(store, run, overrides)
    ctx = context_of(run, settings, progress, overrides)
    plan_again(ctx, overrides)
    clear_stop(store, run)
    progress.say(f"run {run} goes on")
    return go_on(ctx)


def context_of(run: str, settings: Settings, progress: Progress, overrides: Sequence[str] = ()) -> RunContext:
    """Return the context of a run that was made before, its job under ``overrides``."""
    store = Store(settings.home)
    job = stored_job(store, RUNS, run, "job.yaml", overrides=overrides)
    return RunContext(run, job, settings, store, Registry(settings), progress)


def plan_again(ctx: RunContext, overrides: Sequence[str]) -> None:
    """Plan a run anew where its job changed, for the cluster of ``ctx.settings``."""
    if overrides:
        with timed(ctx.store, ctx.run, DATA):
            _keep_data(ctx, entry(ready_entry(ctx.job))(ctx.job, ctx.settings, ctx.progress))


def go_on(ctx: RunContext) -> TrainResult:
    """Run what is left of a run in this process, whatever its status says, and return its result."""
    claim_run(ctx.store, ctx.run)
    ctx.registry.reopen_run(ctx.run)
    return _through(ctx)


def ready_entry(job: JobSpec) -> str:
    """Return the name of the job's data stage."""
    return "tuning.readiness:ready" if job.sweep else "trainers.prepare:ready"


def _through(ctx: RunContext) -> TrainResult:
    """Run what is left of a run, and return its result."""
    with logged(ctx.store, ctx.run, ctx.progress) as log, _accounted(ctx, log):
        run_stages(ctx, SWEEP if ctx.job.sweep else TRAINING)
    return result_of(ctx.store, ctx.run)


def result_of(store: Store, run: str) -> TrainResult:
    """Return the result of a run that has finished, a SweepResult where it was a sweep."""
    result = store.get_json(RUNS, run, "result.json")
    if not store.exists(RUNS, run, SEARCHED):
        return TrainResult.model_validate(result)
    searched = store.get_json(RUNS, run, SEARCHED)
    won = store.get_json(RUNS, run, FINALS_JSON)["result"]
    return SweepResult.model_validate(result | {key: searched[key] for key in SWEEP_KEYS if key in searched} | won)


def start_run(job: JobSpec, ready: Any, settings: Settings, progress: Progress, run: str) -> RunContext:
    """Give a job that is ready its directory and its MLflow run under its id."""
    store = Store(settings.home)
    ctx = RunContext(run, job, settings, store, Registry(settings), progress)
    store.put_text(dump_job(job), RUNS, run, "job.yaml")
    claim_run(store, run)
    _keep_data(ctx, ready)
    parameters = flat_parameters(job.model_dump(mode="json"))
    ctx.registry.start_run(run, parameters, data_hash=ready.data_hash, sources=job.data.train)
    ctx.registry.log_text(run, ready.page, CHECK_PAGE)
    progress.say(f"run {run}")
    return ctx


def _keep_data(ctx: RunContext, ready: Any) -> None:
    """Write down what the data stage found and planned, also as a page."""
    document = {
        "check": ready.report.model_dump(mode="json"),
        "prepared": ready.prepared,
        "data_hash": ready.data_hash,
    }
    ctx.store.put_json(document, RUNS, ctx.run, DATA_JSON)
    ctx.store.put_text(ready.page, RUNS, ctx.run, CHECK_PAGE)


def report_path(settings: Settings, run: str) -> str:
    """Return where the page of a finished run lies."""
    return Store(settings.home).path(RUNS, run, REPORT_PAGE)


def prepared_path(settings: Settings, run: str) -> Path:
    """Return the local directory of the data set that a run was trained and tested on."""
    store = Store(settings.home)
    return store.reading("data", store.get_json(RUNS, run, DATA_JSON)["prepared"])


def flat_parameters(block: dict[str, Any], prefix: str = "") -> dict[str, object]:
    """Return a job's values under dotted keys, blocks opened, lists kept whole."""
    flat: dict[str, object] = {}
    for key, value in block.items():
        if isinstance(value, dict) and value:
            flat |= flat_parameters(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def run_stages(ctx: RunContext, stages: Sequence[Stage]) -> None:
    """Run the stages in order and time them, from the one after the last whose artifact is committed.

    Ray is up only from the first stage that needs it to the last.
    """
    left = _left(ctx, stages)
    last_on_ray = max((i for i, stage in enumerate(left) if stage.on_ray), default=-1)
    with ExitStack() as while_needed:
        up = False
        for place, stage in enumerate(left):
            _enter(ctx, stage)
            with timed(ctx.store, ctx.run, stage.name):
                if stage.on_ray and not up:
                    while_needed.enter_context(ray_session(address=ctx.settings.ray_address))
                    refuse_unreachable(ctx.settings)
                    up = True
                entry(stage.entry)(as_trained(ctx))
                if place == last_on_ray:
                    while_needed.close()


def _left(ctx: RunContext, stages: Sequence[Stage]) -> Sequence[Stage]:
    """Return the stages after the last one that left its artifact: what came before it may have been cleared away."""
    stages = [stage for stage in stages if stage.only(ctx.job)]
    there = ctx.store.list(RUNS, ctx.run)
    return stages[max((place + 1 for place, stage in enumerate(stages) if stage.leaves in there), default=0) :]


def _enter(ctx: RunContext, stage: Stage) -> None:
    """Say in the run's status that a stage begins, keeping what is known of its steps."""
    last = read_status(ctx.store, ctx.run) or RunStatus(run=ctx.run, stage=stage.name, state="running")
    write_status(ctx.store, last.model_copy(update={"stage": stage.name, "state": "running", "eta_s": None}))


@contextmanager
def _accounted(ctx: RunContext, log: RunLog) -> Generator[None]:
    """Leave a truthful status and MLflow run behind, however the stages end."""
    outcome: RunOutcome = "FAILED"
    state: RunState = "failed"
    why = ""
    try:
        yield
        outcome, state = "FINISHED", "finished"
    except KeyboardInterrupt:
        outcome, state, why = "KILLED", "stopped", "interrupted by its user"
        raise
    except RunStopped as error:
        outcome, state, why = "KILLED", "stopped", error.what
        raise
    except HoneError as error:
        why = error.what
        raise
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise
    finally:
        last = read_status(ctx.store, ctx.run) or RunStatus(run=ctx.run, stage=TRAINING[0].name, state=state)
        write_status(ctx.store, last.model_copy(update={"state": state, "why": why, "eta_s": None}))
        log.line(f"run {ctx.run} {state}{f': {why}' if why else ''}")
        try:
            ctx.registry.end_run(ctx.run, outcome)
        except StoreError as error:
            ctx.progress.say(f"the run's end could not be tracked: {error}")
