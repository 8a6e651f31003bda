"""Evaluations on the validation split → which weights are kept, and how often in a row there was nothing better.

The loss is made by the training workers. A generated metric is made by them too, or aside: in a process of its own that
loads the weights just written, while training goes on. What was found aside is taken in at the next evaluation, the
last one at the end, so what is kept and when training ends early never depends on how long scoring took; early stopping
learns of it one evaluation later. A run that goes on from a checkpoint asks for what was not taken in yet once more.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import exp, isfinite
from typing import TYPE_CHECKING, Protocol

from cluster.records import Metrics
from cluster.train_spec import is_lower_better
from trainers.loop_state import Best, LoopState, Pending

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainers.worker import Worker


@dataclass(frozen=True)
class EvaluationRecord:
    """One evaluation on the validation split, of the weights after ``step`` steps."""

    step: int
    metrics: Metrics
    improved: bool


class Aside(Protocol):
    """Scores written weights in another process, one at a time; only rank 0's is called."""

    def begin(self, weights: str) -> None:
        """Start to score the weights at a place."""
        ...

    def result(self) -> Metrics:
        """Wait for the metrics of what was begun last."""
        ...


class Validation:
    """A worker's evaluations; every method is called on every rank."""

    def __init__(self, worker: Worker, told: Callable[[EvaluationRecord], None]) -> None:
        self._worker = worker
        self._told = told
        if worker.restored.pending is not None:
            self._begin(worker.restored.pending.step)

    def evaluate(self, state: LoopState) -> LoopState:
        """Score the weights as they are, keep them where they are the best so far, and return the state with that."""
        worker = self._worker
        state = self.settle(state)
        began_s = time.perf_counter()
        loss = worker.validation_loss()
        metrics: Metrics = {"loss": loss, "perplexity": exp(min(loss, 700.0))}
        if worker.inputs.aside is not None:
            return self._asked_aside(state, metrics, began_s)
        if worker.inputs.score is not None:
            metrics |= worker.inputs.score(worker.engine, worker.ranks)
        scored_s = time.perf_counter()
        best = self._best(state, state.step, metrics)
        if best.step == state.step:
            worker.save_best(state.step, needed={state.step})
        self._told(EvaluationRecord(state.step, metrics, best.step == state.step))
        times = {"evaluation_s": scored_s - began_s, "saving_s": time.perf_counter() - scored_s}
        return state.model_copy(update={"best": best}).spent(**times)

    def settle(self, state: LoopState) -> LoopState:
        """Take in what an evaluation aside found, where there was one, and return the state with that."""
        if state.pending is None:
            return state
        began_s = time.perf_counter()
        ranks, aside, pending = self._worker.ranks, self._worker.inputs.aside, state.pending
        assert aside is not None, "an evaluation aside without anyone who does it"
        metrics = pending.metrics | ranks.from_first(aside.result() if ranks.rank == 0 else {})
        best = self._best(state, pending.step, metrics)
        self._told(EvaluationRecord(pending.step, metrics, best.step == pending.step))
        settled = state.model_copy(update={"best": best, "pending": None})
        return settled.spent(evaluation_s=time.perf_counter() - began_s)

    def _asked_aside(self, state: LoopState, metrics: Metrics, began_s: float) -> LoopState:
        scored_s = time.perf_counter()
        self._worker.save_best(state.step, needed={state.step, state.best.step})
        self._begin(state.step)
        times = {"evaluation_s": scored_s - began_s, "saving_s": time.perf_counter() - scored_s}
        return state.model_copy(update={"pending": Pending(step=state.step, metrics=metrics)}).spent(**times)

    def _begin(self, step: int) -> None:
        worker = self._worker
        assert worker.inputs.aside is not None, "an evaluation aside without anyone who does it"
        if worker.ranks.rank == 0:
            worker.inputs.aside.begin(worker.checkpoints.best(step))

    def _best(self, state: LoopState, step: int, metrics: Metrics) -> Best:
        """Return the best evaluation when one more is known."""
        name = self._worker.inputs.train.best_by
        value = -metrics[name] if is_lower_better(name) else metrics[name]
        if isfinite(value) and (state.best.value is None or value > state.best.value):
            return Best(step=step, value=value, metrics=metrics)
        return state.best.model_copy(update={"misses": state.best.misses + 1})
