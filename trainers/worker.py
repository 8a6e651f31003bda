"""One rank's share of a training run: the engine, optimizer steps as a generator, validation loss, checkpoints.

A step's loss is the sum over target tokens divided by the step's global number of target tokens, which every rank
knows without asking because examples and layout are pure functions of the step. So the number of workers, micro-batches
and padding leave the trajectory unchanged. Dropout draws from a generator seeded by (seed, step, rank): there is no
random state to keep, and a run that goes on from a checkpoint takes the steps it would have taken.

Shape legend: B rows, T tokens, N target tokens, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from cluster.errors import RunFailed
from cluster.records import Metrics
from trainers.allocator import keep_freed_memory
from trainers.batches import Example, Examples, MicroBatch, Schedule, layout, pack, pad
from trainers.checkpoint import Checkpoints, load_weights, read_weights
from trainers.engine_state import MOMENTS, create_moments, link_masters, set_num_steps, set_state
from trainers.loop_state import LoopState, StepRecord
from trainers.model import TargetLoss, causal_lm, prepare_model, target_cost, trainable_parameters
from trainers.ops import prepare_cpu_collective
from trainers.optimizer import build_optimizer, learning_rate_frac, set_learning_rate
from trainers.packed_attention import keeps_examples_apart
from trainers.quiet import quiet_libraries
from trainers.ranks import Ranks, on_device
from trainers.shards import ShardReader
from trainers.shared_sums import offer_shared_memory, use_shared_memory
from trainers.zero import AVERAGING_STAGE, deepspeed_config

if TYPE_CHECKING:
    from cluster.records import Plan
    from cluster.spec import TrainSpec
    from trainers.validation import Aside

FUSED_PROBE_TOKENS = 32
FUSED_TOLERANCE = 1e-2
"""Relative: scaling or capping the loss of some thirty targets changes it by much more, rounding to bf16 by less."""
PROBE_EXAMPLES = 4
PROBE_TARGETS = 32


Scorer = Callable[[Any, Ranks], Metrics]
Wishes = Callable[[], tuple[bool, bool]]


@dataclass(frozen=True)
class LoopInputs:
    """What one run trains on, and where its checkpoints lie (a directory or URL); the same on every rank.

    ``score`` makes generated metrics on the ranks, ``aside`` elsewhere; at most one of them is given.
    """

    base: str
    train: TrainSpec
    plan: Plan
    train_tokens: Examples
    validation_tokens: Examples | None
    directory: str | Path
    score: Scorer | None = None
    aside: Aside | None = None


class Worker:
    """One rank's engine and the steps it takes.

    ``restored`` is where it begins: after the newest intact checkpoint, or at step 0.
    """

    def __init__(self, inputs: LoopInputs, ranks: Ranks) -> None:
        quiet_libraries()
        prepare_cpu_collective()
        import deepspeed

        if ranks.device.type == "cpu":
            keep_freed_memory()
        train, plan = inputs.train, inputs.plan
        torch.manual_seed(train.seed)
        dtype = torch.bfloat16 if plan.precision == "bf16" else torch.float32
        self.inputs, self.ranks = inputs, ranks
        self.checkpoints = Checkpoints(inputs.directory, ranks, train.checkpoint.keep if train.checkpoint else 1)
        self.warnings: list[str] = []
        found = self.checkpoints.newest(self.warnings.append)
        self.module = TargetLoss(prepare_model(inputs.base, train, dtype))
        if found is not None:
            load_weights(self.module.model, read_weights(found[0]))
        self.target_cost = target_cost(self.module.model)
        self.schedule = Schedule(len(inputs.train_tokens), train.batch_size, train.epochs, train.seed)
        optimizer = build_optimizer(trainable_parameters(self.module), train)
        config = deepspeed_config(
            zero_stage=plan.zero_stage,
            precision=plan.precision,
            offload=train.offload,
            max_grad_norm=train.max_grad_norm,
            world_size=ranks.world_size,
            device=ranks.device.type,
        )
        self.averaged_over = ranks.world_size if plan.zero_stage == AVERAGING_STAGE else 1
        shares_memory = offer_shared_memory(ranks)
        with redirect_stdout(StringIO()):  # it prints that its collective is built, at every start
            self.engine: Any = deepspeed.initialize(
                model=self.module,
                optimizer=optimizer,
                model_parameters=cast("Any", [p for _, p in trainable_parameters(self.module)]),
                config=config,
            )[0]
        if shares_memory:
            use_shared_memory(ranks, self.engine)
        link_masters(self.engine)
        self.packed = self._can_pack()
        self.fused = self._can_fuse()
        self.restored = LoopState()
        if found is not None:
            self._restore(*found)

    def _can_pack(self) -> bool:
        """Find out whether the model keeps packed examples apart (collective)."""

        def logits(examples: list[Tensor], packed: bool) -> Tensor:
            micro = (pack if packed else pad)([(ids.numpy(), np.ones(len(ids), np.bool_)) for ids in examples])
            return self.engine(*self._on_device(micro), as_logits=True)

        self.engine.eval()
        return keeps_examples_apart(logits, causal_lm(self.module.model))

    def _can_fuse(self) -> bool:
        """Find out whether the loss from inside the output embedding is the model's own (collective)."""
        ids = np.resize(np.arange(2, 8, dtype=np.int32), FUSED_PROBE_TOKENS)
        inputs = self._on_device((pack if self.packed else pad)([(ids, np.ones(len(ids), np.bool_))]))
        with torch.no_grad():
            plain = float(self.engine(*inputs))
            try:
                fused = float(self.engine(*inputs)) if self.module.fuse(fused=True) else nan
            except (IndexError, RuntimeError):
                fused = nan
        same = abs(fused - plain) <= FUSED_TOLERANCE * abs(plain)
        self.module.fuse(fused=same)
        return same

    def _restore(self, path: Path, state: LoopState) -> None:
        """Give the engine, which has the checkpoint's weights, its moments (collective)."""
        tokens = self.inputs.train_tokens
        shortest = int(np.argmin(tokens.lengths))
        create_moments(self.engine, lambda: self.engine.backward(self.engine(*self._tensors(tokens, [shortest])) * 0.0))
        shards = ShardReader(path)
        for name, parameter in trainable_parameters(self.module.model):
            moments = {kind: shards[f"{kind}/{name}"] for kind in MOMENTS}
            set_state(self.engine, parameter, shards[f"weights/{name}"], moments)
        set_num_steps(self.engine, state.step)
        self.restored = state

    def steps(self, first: int = 0, wishes: Wishes = lambda: (False, False)) -> Iterator[StepRecord]:
        """Take the optimizer steps of the run after ``first``, one at each ``next``.

        ``wishes`` (to stop, to save) is asked after every step, and its answer shared with all ranks beside the loss.
        Raises RunFailed when the loss is not finite.
        """
        for step in range(first, self.schedule.num_steps):
            yield self._step(step, wishes)

    def _step(self, step: int, wishes: Wishes) -> StepRecord:
        began = time.perf_counter()
        train = self.inputs.train
        examples = self.schedule.examples(step)
        loss_sum, num_targets = self.accumulate_gradients(step)
        rate = train.learning_rate * learning_rate_frac(step, self.schedule.num_steps, train.schedule, train.warmup)
        set_learning_rate(self.engine.optimizer, rate)
        self.engine.step()
        shared = torch.stack((loss_sum, *(torch.full_like(loss_sum, float(wish)) for wish in wishes())))
        total, stops, saves = self._sum_over_ranks(shared).tolist()
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
            grad_norm=None if (norm := self.engine.get_global_grad_norm()) is None else float(norm),
            examples=len(examples),
            target_tokens=num_targets,
            seconds=time.perf_counter() - began,
            stop=stops > 0,
            save=saves > 0,
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
            self.engine.backward(loss * (self.averaged_over / num_targets))
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

    def save(self, state: LoopState) -> None:
        """Write a checkpoint to go on from (collective); it is committed while training goes on."""
        self.checkpoints.save(self.engine, list(trainable_parameters(self.module.model)), state)

    def save_best(self, step: int, needed: set[int]) -> None:
        """Write the weights and the logits that a reloaded release must reproduce (collective).

        ``needed`` are the steps whose weights the run still speaks of; others that no checkpoint needs are dropped.
        """
        tokens_BT, is_target_BT, logits_NV = self._probe()
        probe = {"tokens": tokens_BT.int(), "is_target": is_target_BT, "logits": logits_NV.float()}
        self.checkpoints.save_best(list(trainable_parameters(self.module.model)), step, probe, needed)

    def _probe(self) -> tuple[Tensor, Tensor, Tensor]:
        """Score the shortest few rows, the same on every rank; the tokens and targets returned are padded."""
        tokens = self.inputs.validation_tokens or self.inputs.train_tokens
        examples: list[Example] = []
        left = PROBE_TARGETS
        for row in np.argsort(tokens.lengths, kind="stable")[:PROBE_EXAMPLES].tolist():
            ids, is_target = tokens.example(row)
            kept = is_target & (is_target.cumsum() <= left)
            left -= int(kept.sum())
            examples.append((ids, kept))
        padded = pad(examples)
        self.engine.eval()
        with torch.no_grad():
            logits_NV = self.engine(*self._on_device(pack(examples) if self.packed else padded), as_logits=True)
        return torch.from_numpy(padded.tokens_BT), torch.from_numpy(padded.is_target_BT), logits_NV

    def _my_micro_batches(self, tokens: Examples, examples: np.ndarray) -> Iterator[list[int]]:
        lengths = tokens.lengths[examples]
        costs = (lengths + self.target_cost * tokens.target_counts[examples]).tolist()
        bound, packed = self.inputs.plan.micro_batch_tokens, self.packed
        dealt = layout(lengths.tolist(), self.ranks.world_size, bound, packed=packed, costs=costs)
        for micro in dealt[self.ranks.rank]:
            yield [int(examples[position]) for position in micro]

    def _tensors(self, tokens: Examples, rows: list[int]) -> tuple[Tensor, Tensor, tuple[int, ...] | None]:
        return self._on_device((pack if self.packed else pad)([tokens.example(row) for row in rows]))

    def _on_device(self, micro: MicroBatch) -> tuple[Tensor, Tensor, tuple[int, ...] | None]:
        tokens_BT = on_device(torch.from_numpy(micro.tokens_BT), self.ranks.device)
        return tokens_BT, torch.from_numpy(micro.is_target_BT), micro.segment_lengths

    def _sum_over_ranks(self, value: Tensor) -> Tensor:
        if self.ranks.world_size > 1:
            dist.all_reduce(value)
        return value


def _dropout_seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)
