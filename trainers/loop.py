"""One worker's training loop: steps, evaluations, the best weights kept; effects through hooks, no Ray.

It runs the same under Ray Train, ``torchrun`` and plain ``python`` (a world of one): the caller has set up the process
group and says which rank this is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import exp, inf, isfinite
from typing import Protocol

from cluster.errors import RunFailed
from cluster.records import Metrics, Throughput, TrainedWeights
from trainers.worker import LoopInputs, Ranks, StepRecord, Worker


@dataclass(frozen=True)
class EvaluationRecord:
    """One evaluation on the validation split, after ``step`` steps."""

    step: int
    metrics: Metrics
    improved: bool


class Hooks(Protocol):
    """Effects of a run; called on every rank, in the same order."""

    def on_step(self, record: StepRecord) -> None:
        """A step is done."""
        ...

    def on_evaluation(self, record: EvaluationRecord) -> None:
        """The validation split was scored."""
        ...

    def wants_stop(self) -> bool:
        """Whether this rank asks the run to end after the current step, keeping what it has."""
        ...


@dataclass
class _Best:
    """The best evaluation so far."""

    step: int = 0
    value: float = -inf
    metrics: Metrics = field(default_factory=dict)
    misses: int = 0


def run_loop(inputs: LoopInputs, ranks: Ranks, hooks: Hooks) -> TrainedWeights:
    """Train, keep the best weights in ``inputs.best_dir``, and return what was done. Raises RunFailed on divergence."""
    worker = Worker(inputs, ranks)
    every = _eval_every_steps(inputs.train.eval_every, worker.schedule.steps_per_epoch)
    best = _Best()
    done: list[StepRecord] = []
    stopped_early = False
    for record in worker.steps(hooks.wants_stop):
        done.append(record)
        hooks.on_step(record)
        last = record.stop or record.step == record.steps
        if inputs.validation_tokens is not None and (last or record.step % every == 0):
            _evaluate(worker, record.step, best, hooks)
        patience = inputs.train.early_stopping.patience if inputs.train.early_stopping else inf
        stopped_early = record.step < record.steps and (record.stop or best.misses >= patience)
        if stopped_early:
            break
    if inputs.validation_tokens is None:
        best.step = done[-1].step
        worker.save_best()
    return _summary(done, best, stopped_early, inputs, ranks)


def _evaluate(worker: Worker, step: int, best: _Best, hooks: Hooks) -> None:
    loss = worker.validation_loss()
    metrics: Metrics = {"loss": loss, "perplexity": exp(min(loss, 700.0))}
    if worker.inputs.score is not None:
        metrics |= worker.inputs.score(worker.engine, worker.ranks)
    name = worker.inputs.train.best_by
    value = -metrics[name] if name in ("loss", "perplexity") else metrics[name]
    improved = isfinite(value) and value > best.value
    if improved:
        best.step, best.value, best.metrics, best.misses = step, value, metrics, 0
        worker.save_best()
    else:
        best.misses += 1
    hooks.on_evaluation(EvaluationRecord(step, metrics, improved))


def _summary(
    done: list[StepRecord], best: _Best, stopped_early: bool, inputs: LoopInputs, ranks: Ranks
) -> TrainedWeights:
    if best.step == 0:
        raise RunFailed("no evaluation gave a finite validation loss", "lower train.learning_rate")
    seconds = sum(record.seconds for record in done)
    examples = sum(record.examples for record in done)
    target_tokens = sum(record.target_tokens for record in done)
    return TrainedWeights(
        steps=len(done),
        examples=examples,
        target_tokens=target_tokens,
        seconds=seconds,
        best_step=best.step,
        best_value=best.metrics.get(inputs.train.best_by, done[-1].loss),
        validation=best.metrics,
        stopped_early=stopped_early,
        throughput=Throughput(examples_per_s=examples / seconds, target_tokens_per_s=target_tokens / seconds),
        device=str(ranks.device),
        world_size=ranks.world_size,
        zero_stage=inputs.plan.zero_stage,
    )


def _eval_every_steps(eval_every: float | int, steps_per_epoch: int) -> int:
    """A float counts epochs, an integer steps."""
    return eval_every if isinstance(eval_every, int) else max(1, round(eval_every * steps_per_epoch))
