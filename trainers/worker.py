"""One rank's share of a training run: the engine, optimizer steps as a generator, validation loss, saving.

A step's loss is the sum over target tokens divided by the step's global number of target tokens, which every rank
knows without asking because examples and layout are pure functions of the step. So the number of workers, micro-batches
and padding leave the trajectory unchanged. Dropout draws from a generator seeded by (seed, step, rank): there is no
random state to keep.

Shape legend: B rows, T tokens, N target tokens, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from cluster.errors import RunFailed
from cluster.records import Metrics
from trainers.batches import Schedule, layout, pad
from trainers.checkpoint import save_weights
from trainers.model import TargetLoss, prepare_model, trainable_parameters
from trainers.ops import prepare_cpu_collective
from trainers.optimizer import build_optimizer, learning_rate_frac, set_learning_rate
from trainers.quiet import quiet_libraries
from trainers.zero import deepspeed_config

if TYPE_CHECKING:
    from cluster.records import Plan
    from cluster.spec import TrainSpec
    from trainers.tokens import TokenSet

PROBE_EXAMPLES = 4
PROBE_TARGETS = 32


@dataclass(frozen=True)
class Ranks:
    """Who this worker is."""

    rank: int
    world_size: int
    device: torch.device


@dataclass(frozen=True)
class StepRecord:
    """One finished optimizer step, counted from 1; ``seconds`` it took; ``stop`` where a rank asked to end."""

    step: int
    steps: int
    loss: float
    learning_rate: float
    grad_norm: float
    examples: int
    target_tokens: int
    seconds: float
    stop: bool = False


Scorer = Callable[[Any, Ranks], Metrics]


@dataclass(frozen=True)
class LoopInputs:
    """What one run trains on; the same on every rank."""

    base: str
    train: TrainSpec
    plan: Plan
    train_tokens: TokenSet
    validation_tokens: TokenSet | None
    best_dir: Path
    score: Scorer | None = None


class Worker:
    """One rank's engine and the steps it takes."""

    def __init__(self, inputs: LoopInputs, ranks: Ranks) -> None:
        quiet_libraries()
        prepare_cpu_collective()
        import deepspeed

        train, plan = inputs.train, inputs.plan
        torch.manual_seed(train.seed)
        dtype = torch.bfloat16 if plan.precision == "bf16" else torch.float32
        self.inputs, self.ranks = inputs, ranks
        self.module = TargetLoss(prepare_model(inputs.base, train, dtype))
        self.schedule = Schedule(len(inputs.train_tokens), train.batch_size, train.epochs, train.seed)
        optimizer = build_optimizer(trainable_parameters(self.module), train)
        config = deepspeed_config(
            zero_stage=plan.zero_stage,
            precision=plan.precision,
            offload=train.offload,
            max_grad_norm=train.max_grad_norm,
            world_size=ranks.world_size,
        )
        with redirect_stdout(StringIO()):  # it prints that its collective is built, at every start
            self.engine: Any = deepspeed.initialize(
                model=self.module,
                optimizer=optimizer,
                model_parameters=cast("Any", [p for _, p in trainable_parameters(self.module)]),
                config=config,
            )[0]

    def steps(self, wants_stop: Callable[[], bool] = lambda: False) -> Iterator[StepRecord]:
        """Take the optimizer steps of the run, one at each ``next``.

        ``wants_stop`` is asked after every step, and its answer shared with all ranks beside the loss. Raises RunFailed
        when the loss is not finite.
        """
        for step in range(self.schedule.num_steps):
            yield self._step(step, wants_stop)

    def _step(self, step: int, wants_stop: Callable[[], bool]) -> StepRecord:
        began = time.perf_counter()
        train = self.inputs.train
        examples = self.schedule.examples(step)
        loss_sum, num_targets = self.accumulate_gradients(step)
        rate = train.learning_rate * learning_rate_frac(step, self.schedule.num_steps, train.schedule, train.warmup)
        set_learning_rate(self.engine.optimizer, rate)
        self.engine.step()
        asked_to_stop = torch.full_like(loss_sum, float(wants_stop()))
        total, stops = self._sum_over_ranks(torch.stack((loss_sum, asked_to_stop))).tolist()
        loss_mean = total / num_targets
        if not isfinite(loss_mean):
            raise RunFailed(
                f"the loss became {loss_mean} at step {step + 1} of {self.schedule.num_steps}",
                f"lower train.learning_rate (now {train.learning_rate:g}) or check the data with `hone check`",
            )
        return StepRecord(
            step=step + 1,
            steps=self.schedule.num_steps,
            loss=loss_mean,
            learning_rate=rate,
            grad_norm=float(self.engine.get_global_grad_norm() or 0.0),
            examples=len(examples),
            target_tokens=num_targets,
            seconds=time.perf_counter() - began,
            stop=stops > 0,
        )

    def accumulate_gradients(self, step: int) -> tuple[Tensor, int]:
        """Run a step's forward and backward passes; return this rank's summed loss and all ranks' target count."""
        train, tokens = self.inputs.train, self.inputs.train_tokens
        examples = self.schedule.examples(step)
        num_targets = int(tokens.target_counts[examples].sum())
        torch.manual_seed(_dropout_seed(train.seed, step, self.ranks.rank))
        self.engine.train()
        loss_sum = torch.zeros((), device=self.ranks.device)
        for rows in self._my_micro_batches(tokens, examples):
            loss = self.engine(*self._tensors(tokens, rows))
            self.engine.backward(loss * (self.ranks.world_size / num_targets))
            loss_sum += loss.detach()
        return loss_sum, num_targets

    def validation_loss(self) -> float:
        """Return the mean loss per target token over the validation split, the same on every rank."""
        tokens = self.inputs.validation_tokens
        assert tokens is not None, "no validation split"
        self.engine.eval()
        loss_sum = torch.zeros((), device=self.ranks.device, dtype=torch.float64)
        with torch.no_grad():
            for rows in self._my_micro_batches(tokens, np.arange(len(tokens))):
                loss_sum += self.engine(*self._tensors(tokens, rows)).double()
        return float(self._sum_over_ranks(loss_sum)) / int(tokens.target_counts.sum())

    def save_best(self) -> None:
        """Write the weights and, on rank 0, the logits that a reloaded release must reproduce (collective)."""
        save_weights(
            trainable_parameters(self.module.model),
            self.inputs.best_dir,
            rank=self.ranks.rank,
            num_ranks=self.ranks.world_size,
            zero_stage=self.inputs.plan.zero_stage,
        )
        tokens_BT, is_target_BT, logits_NV = self._probe()
        if self.ranks.rank == 0:
            probe = {"tokens": tokens_BT.int(), "is_target": is_target_BT, "logits": logits_NV.float()}
            save_file({k: v.cpu().contiguous() for k, v in probe.items()}, self.inputs.best_dir / "probe.safetensors")
        if self.ranks.world_size > 1:
            dist.barrier()

    def _probe(self) -> tuple[Tensor, Tensor, Tensor]:
        """Score the shortest few rows, the same on every rank."""
        tokens = self.inputs.validation_tokens or self.inputs.train_tokens
        rows = np.argsort(tokens.lengths, kind="stable")[:PROBE_EXAMPLES]
        tokens_BT, is_target_BT = self._tensors(tokens, rows.tolist())
        cut = is_target_BT.flatten().cumsum(0).reshape(is_target_BT.shape) > PROBE_TARGETS
        is_target_BT = is_target_BT & ~cut
        self.engine.eval()
        with torch.no_grad():
            return tokens_BT, is_target_BT, self.engine(tokens_BT, is_target_BT, as_logits=True)

    def _my_micro_batches(self, tokens: TokenSet, examples: np.ndarray) -> Iterator[list[int]]:
        lengths = tokens.lengths[examples].tolist()
        share = layout(lengths, self.ranks.world_size, self.inputs.plan.micro_batch_tokens)[self.ranks.rank]
        for micro in share:
            yield [int(examples[position]) for position in micro]

    def _tensors(self, tokens: TokenSet, rows: list[int]) -> tuple[Tensor, Tensor]:
        micro = pad([tokens.example(row) for row in rows])
        device = self.ranks.device
        return torch.from_numpy(micro.tokens_BT).to(device), torch.from_numpy(micro.is_target_BT).to(device)

    def _sum_over_ranks(self, value: Tensor) -> Tensor:
        if self.ranks.world_size > 1:
            dist.all_reduce(value)
        return value


def _dropout_seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)
