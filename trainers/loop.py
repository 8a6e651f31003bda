"""One worker's training loop: steps, evaluations, checkpoints, the best weights kept; effects through hooks, no Ray.

It runs the same under Ray Train, ``torchrun`` and plain ``python`` (a world of one): the caller has set up the process
group and says which rank this is. A run that finds a checkpoint in its directory goes on from there.
"""

from __future__ import annotations

import time
from math import inf
from typing import Protocol

from cluster.errors import RunFailed
from cluster.records import Throughput, TrainedWeights
from trainers.loop_state import Best, LoopState, StepRecord
from trainers.ranks import Ranks, device_name
from trainers.validation import EvaluationRecord, Validation
from trainers.worker import LoopInputs, Worker


class Hooks(Protocol):
    """Effects of a run; called on every rank, in the same order."""

    def on_start(self, state: LoopState, warnings: list[str]) -> None:
        """The loop begins after ``state.step`` steps; ``warnings`` name broken checkpoints that were passed over."""
        ...

    def on_step(self, record: StepRecord) -> None:
        """A step is done."""
        ...

    def on_evaluation(self, record: EvaluationRecord) -> None:
        """The validation split was scored."""
        ...

    def on_checkpoint(self, step: int) -> None:
        """A checkpoint is about to be written; what it does not hold should be written down by now."""
        ...

    def wants_stop(self) -> bool:
        """Whether this rank asks the run to end after the current step, with a checkpoint to go on from."""
        ...

    def wants_checkpoint(self) -> bool:
        """Whether this rank asks for a checkpoint after the current step, since it may not live to see the next."""
        ...


class Silent:
    """Hooks without effect."""

    def on_start(self, state: LoopState, warnings: list[str]) -> None:
        """Nothing."""

    def on_step(self, record: StepRecord) -> None:
        """Nothing."""

    def on_evaluation(self, record: EvaluationRecord) -> None:
        """Nothing."""

    def on_checkpoint(self, step: int) -> None:
        """Nothing."""

    def wants_stop(self) -> bool:
        """Never."""
        return False

    def wants_checkpoint(self) -> bool:
        """Never."""
        return False


def run_loop(inputs: LoopInputs, ranks: Ranks, hooks: Hooks) -> TrainedWeights | None:
    """Train, keep the best weights as ``best-N`` in ``inputs.directory``, and return what was done.

    Returns None where a rank asked to stop: a checkpoint is written then. Raises RunFailed, on all ranks at once, when
    the run diverges.
    """
    worker = Worker(inputs, ranks)
    state = worker.restored
    hooks.on_start(state, worker.warnings)
    train, per_epoch = inputs.train, worker.schedule.steps_per_epoch
    evaluate_every = steps_between(train.eval_every, per_epoch)
    save_every = steps_between(train.checkpoint.every, per_epoch) if train.checkpoint else inf
    patience = train.early_stopping.patience if train.early_stopping else inf
    validation = Validation(worker, hooks.on_evaluation)
    for record in worker.steps(state.step, lambda: (hooks.wants_stop(), hooks.wants_checkpoint())):
        state = state.after(record)
        hooks.on_step(record)
        last = record.step == record.steps
        if inputs.validation_tokens is not None and (last or record.step % evaluate_every == 0):
            state = validation.evaluate(state)
        if last or state.best.misses >= patience:
            break
        if record.stop or record.save or record.step % save_every == 0:
            state = _saved(worker, state, hooks)
        if record.stop:
            worker.checkpoints.wait()
            return None
    state = validation.settle(state)
    began_s = time.perf_counter()
    if inputs.validation_tokens is None:
        state = state.model_copy(update={"best": Best(step=state.step)})
        worker.save_best(state.step, needed={state.step})
    worker.checkpoints.wait()
    return _summary(state.spent(saving_s=time.perf_counter() - began_s), worker)


def _saved(worker: Worker, state: LoopState, hooks: Hooks) -> LoopState:
    """Write a checkpoint, and return the state with the time that took (which is not in this checkpoint)."""
    began_s = time.perf_counter()
    hooks.on_checkpoint(state.step)
    worker.save(state)
    return state.spent(saving_s=time.perf_counter() - began_s)


def _summary(state: LoopState, worker: Worker) -> TrainedWeights:
    best, train, ranks = state.best, worker.inputs.train, worker.ranks
    if best.step == 0:
        raise RunFailed("no evaluation gave a finite validation loss", "lower train.learning_rate")
    return TrainedWeights(
        steps=state.step,
        examples=state.examples,
        target_tokens=state.target_tokens,
        seconds=state.seconds,
        evaluation_s=state.evaluation_s,
        saving_s=state.saving_s,
        best_step=best.step,
        best_value=best.metrics.get(train.best_by, state.loss),
        validation=best.metrics,
        stopped_early=state.step < worker.schedule.num_steps,
        throughput=Throughput(
            examples_per_s=state.examples / state.seconds, target_tokens_per_s=state.target_tokens / state.seconds
        ),
        device=str(ranks.device),
        device_name=device_name(ranks.device),
        world_size=ranks.world_size,
        zero_stage=worker.inputs.plan.zero_stage,
    )


def steps_between(every: float | int, steps_per_epoch: int) -> int:
    """Return a number of steps: a float counts epochs, an integer steps."""
    return every if isinstance(every, int) else max(1, round(every * steps_per_epoch))
