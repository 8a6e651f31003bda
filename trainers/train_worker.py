"""One Ray Train worker: a job, its plan and its prepared data → the loop, and what became of it.

Ray Train starts all workers anew when one is lost, and they go on from the newest checkpoint. Some ends must not be
tried again: those that would end alike are left as the run's outcome, which the next attempt, if any, only repeats. A
worker out of memory asks the next attempt for smaller micro-batches, which changes nothing but the layout. A worker
that makes no progress for ``cluster.hang_timeout_s`` ends its own process, since a collective would wait for ever; one
whose machine will be taken away asks for a checkpoint.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import torch

from cluster import errors
from cluster.errors import CapacityError, HoneError, RunFailed, StoreError
from cluster.fitting import counted
from cluster.places import is_remote, local_directory
from cluster.records import Plan, Record, TrainedWeights
from cluster.runs import RUNS, stop_requested, write_status
from cluster.spec import JobSpec
from cluster.store import Store
from trainers.aside import AsideTask
from trainers.batches import drawn
from trainers.curve_tracking import curve_trackers
from trainers.loop import Hooks, run_loop
from trainers.loop_state import LoopState, StepRecord
from trainers.placement import keep_placement, placement
from trainers.preemption import PreemptionNotice
from trainers.prepared import TRAIN, VALIDATION, Prepared
from trainers.ranks import Ranks
from trainers.recorder import Recorder
from trainers.validation import EvaluationRecord
from trainers.worker import LoopInputs, Scorer

OUTCOME = "outcome.json"
MICRO_BATCH = "micro_batch.json"
EXIT_HUNG = 75


class Outcome(Record):
    """How training ended: with weights, with a failure that would repeat, or (neither) stopped after a checkpoint."""

    trained: TrainedWeights | None = None
    failure: tuple[str, str, str, str] | None = None

    @classmethod
    def failed(cls, error: HoneError) -> Outcome:
        """Return the outcome that an error is."""
        return cls(failure=(type(error).__name__, error.what, error.remedy, error.where))

    def error(self) -> HoneError | None:
        """Return the failure as the error that it was; None where there was none."""
        if self.failure is None:
            return None
        kind, *parts = self.failure
        return getattr(errors, kind, RunFailed)(*parts)


def leave(outcome: Outcome, directory: str | Path) -> None:
    """Write the outcome of the training in a directory or at a URL, in one piece."""
    Store(str(directory)).put_text(outcome.as_json(), OUTCOME)


def read_outcome(directory: str | Path) -> Outcome | None:
    """Return how the training in a directory or at a URL ended; None while it has not."""
    store = Store(str(directory))
    return Outcome.model_validate_json(store.get_text(OUTCOME)) if store.exists(OUTCOME) else None


def train_worker(config: dict[str, Any]) -> None:
    """Run the loop as Ray Train's worker; the outcome and rank 0's curve lie beside the checkpoints."""
    import ray.train
    import ray.train.torch

    context = ray.train.get_context()
    ranks = Ranks(context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device())
    directory: str = config["directory"]
    if read_outcome(directory) is not None:
        return
    job, plan = JobSpec.model_validate(config["job"]), Plan.model_validate(config["plan"])
    if ranks.device.type == "cpu":
        torch.set_num_threads(max(1, int(plan.cpus_per_worker)))
    plan, notes = with_smaller_micro_batches(plan, directory)
    if not isinstance(job.cluster.workers, int):
        notes += (f"{ranks.world_size} of at most {counted(job.cluster.workers.max, 'worker')}",)
    store, run = Store(config["home"]), config["run"]
    where = placement(ranks)
    recorder = None
    if ranks.rank == 0:
        keep_placement(store, run, where)
        notes += (where.note(),) if where.note() else ()
        recorder = Recorder(
            run,
            directory,
            partial(write_status, store),
            stop_asked=partial(stop_requested, store, run),
            max_seconds=max_seconds(job, plan),
            notes=notes,
            trackers=curve_trackers(job.tracking, store.path(RUNS, run), run, job.name),
        )
    prepared = Prepared(Path(local_directory(config["prepared"])))
    inputs = loop_inputs(job, plan, prepared, directory)
    if plan.scores_aside:
        inputs = replace(inputs, score=None, aside=AsideTask(job, plan, config["prepared"]))
    try:
        trained = run_loop(inputs, ranks, Watched(recorder, job.cluster.hang_timeout_s))
    except RunFailed as error:  # on every rank at once
        leave(Outcome.failed(error), directory)
        return
    except HoneError as error:  # perhaps on this rank alone: the others wait for it until Ray ends them
        if not (isinstance(error, StoreError) and is_remote(directory)):  # storage far away may answer the next attempt
            leave(Outcome.failed(error), directory)
        raise
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            ask_for_smaller_micro_batches(plan, inputs, directory)
        raise
    if recorder is not None:
        recorder.close()
        leave(Outcome(trained=trained), directory)


class Watched:
    """A rank's hooks that end its process where nothing happens for too long, and save before it is taken away."""

    def __init__(self, hooks: Hooks | None, timeout_s: float) -> None:
        from trainers.loop import Silent

        self._hooks: Hooks = hooks or Silent()
        self._timeout_s = timeout_s
        self._notice = PreemptionNotice()
        self._last_s = time.monotonic()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while time.monotonic() - self._last_s <= self._timeout_s:
            time.sleep(min(1.0, self._timeout_s / 4))
        print(f"no step ended for {self._timeout_s:g} s (cluster.hang_timeout_s): giving up", file=sys.stderr)
        os._exit(EXIT_HUNG)

    def _beat(self) -> None:
        self._last_s = time.monotonic()

    def on_start(self, state: LoopState, warnings: list[str]) -> None:
        """Pass it on."""
        self._beat()
        self._hooks.on_start(state, warnings)

    def on_step(self, record: StepRecord) -> None:
        """Pass it on."""
        self._beat()
        self._hooks.on_step(record)
        if record.step == record.steps:  # what is left is hashing and committing, which no other rank can block
            self._last_s = inf

    def on_evaluation(self, record: EvaluationRecord) -> None:
        """Pass it on."""
        self._beat()
        self._hooks.on_evaluation(record)

    def on_checkpoint(self, step: int) -> None:
        """Pass it on."""
        self._beat()
        self._hooks.on_checkpoint(step)

    def wants_stop(self) -> bool:
        """Pass it on."""
        return self._hooks.wants_stop()

    def wants_checkpoint(self) -> bool:
        """Ask for one where Ray has said that a machine will be taken away."""
        return self._notice.is_news() or self._hooks.wants_checkpoint()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or in main memory."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def ask_for_smaller_micro_batches(plan: Plan, inputs: LoopInputs, directory: str | Path) -> None:
    """Let the next attempt halve its micro-batches; where one row alone is too large, leave that as the outcome."""
    longest = int(inputs.train_tokens.lengths.max())
    if plan.micro_batch_tokens <= longest:
        error = CapacityError(
            f"a single row of {longest:,} tokens does not fit into memory",
            "lower train.max_length, set train.gradient_checkpointing, or use a higher train.zero_stage",
            "train.max_length",
        )
        leave(Outcome.failed(error), directory)
        return
    Store(str(directory)).put_json({"tokens": max(longest, plan.micro_batch_tokens // 2)}, MICRO_BATCH)


def with_smaller_micro_batches(plan: Plan, directory: str | Path) -> tuple[Plan, tuple[str, ...]]:
    """Return the plan as an attempt that ran out of memory left it, and a note that says so."""
    store = Store(str(directory))
    if not store.exists(MICRO_BATCH):
        return plan, ()
    tokens = int(store.get_json(MICRO_BATCH)["tokens"])
    note = f"out of memory with micro-batches of {plan.micro_batch_tokens:,} tokens: {tokens:,} from here"
    return plan.model_copy(update={"micro_batch_tokens": tokens}), (note,)


def loop_inputs(job: JobSpec, plan: Plan, prepared: Prepared, directory: str | Path) -> LoopInputs:
    """Return what the loop needs, from a job, its plan and a prepared data set on disk."""
    from trainers.tokens import TokenSet

    train_path, validation_path = prepared.tokens_path(TRAIN), prepared.tokens_path(VALIDATION)
    assert train_path is not None, "a prepared data set without training tokens"
    return LoopInputs(
        base=job.base,
        train=job.train,
        plan=plan,
        train_tokens=drawn(TokenSet.load(train_path), job.train.subset, job.train.seed),
        validation_tokens=TokenSet.load(validation_path) if validation_path else None,
        directory=directory,
        score=_scorer(job, prepared),
    )


def _scorer(job: JobSpec, prepared: Prepared) -> Scorer | None:
    if not job.train.best_by_is_generated or prepared.tokens_path(VALIDATION) is None:
        return None
    from trainers.validation_scores import validation_scorer

    return validation_scorer(job, prepared)


def max_seconds(job: JobSpec, plan: Plan) -> float:
    """Return how long the loop may take under the job's ``max_hours`` and ``max_cost``; infinity without bounds."""
    bounds = [inf if job.cluster.max_hours is None else job.cluster.max_hours]
    if job.cluster.max_cost is not None and job.cluster.price_per_gpu_hour and plan.gpus_per_worker:
        bounds.append(job.cluster.max_cost / (job.cluster.price_per_gpu_hour * plan.workers * plan.gpus_per_worker))
    return 3600 * min(bounds)
