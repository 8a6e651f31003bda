"""What of a training run changes from step to step beside weights and moments: where it stands, and its best so far."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from cluster.records import Metrics, Record


@dataclass(frozen=True)
class StepRecord:
    """One finished optimizer step, counted from 1; ``seconds`` it took.

    ``stop`` where a rank asked to end, ``save`` where one asked for a checkpoint.
    ``grad_norm`` is the gradient's before clipping; None at ZeRO stage 0 in fp32, where DeepSpeed clips but keeps none.
    """

    step: int
    steps: int
    loss: float
    learning_rate: float
    grad_norm: float | None
    examples: int
    target_tokens: int
    seconds: float
    stop: bool = False
    save: bool = False


class Best(Record):
    """The best evaluation so far; ``value`` is higher where it is better, ``misses`` counts evaluations since."""

    step: int = 0
    value: float | None = None
    metrics: Metrics = Field(default_factory=dict)
    misses: int = 0


class Pending(Record):
    """An evaluation whose generated metric is not known yet; ``metrics`` are those that are."""

    step: int
    metrics: Metrics


class LoopState(Record):
    """Where a run stands after ``step`` steps: sums over its steps, and its best evaluation.

    Order of the examples, learning rate and dropout are functions of the step, so nothing of them is here.
    """

    step: int = 0
    examples: int = 0
    target_tokens: int = 0
    seconds: float = Field(default=0.0, description="time in training steps, without evaluation and saving")
    evaluation_s: float = Field(default=0.0, description="time in evaluations")
    saving_s: float = Field(default=0.0, description="time in which the loop waited for checkpoints and best weights")
    loss: float = Field(default=0.0, description="the last step's loss")
    best: Best = Best()
    pending: Pending | None = None

    @property
    def held(self) -> set[int]:
        """The steps whose weights this state speaks of."""
        return {self.best.step} - {0} | ({self.pending.step} if self.pending else set())

    def after(self, record: StepRecord) -> LoopState:
        """Return where the run stands once a step is done."""
        done = {
            "step": record.step,
            "examples": self.examples + record.examples,
            "target_tokens": self.target_tokens + record.target_tokens,
            "seconds": self.seconds + record.seconds,
            "loss": record.loss,
        }
        return self.model_copy(update=done)

    def spent(self, *, evaluation_s: float = 0.0, saving_s: float = 0.0) -> LoopState:
        """Return the state with more time spent beside the steps."""
        sums = {"evaluation_s": self.evaluation_s + evaluation_s, "saving_s": self.saving_s + saving_s}
        return self.model_copy(update=sums)
