"""A job's memory question, layout by layout → the layout that fits best, or a refusal with numbers; pure.

The lowest ZeRO stage that fits is taken, because each higher one communicates more, and then the largest useful
micro-batch: neither changes the result of a run. A stage fits if it does with the smallest micro-batch, one row of the
longest length. What a layout takes is answered by ``JobFacts.memory``, which training code provides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cluster.errors import CapacityError
from cluster.spec import TrainSpec
from cluster.train_spec import Method

Device = Literal["cpu", "cuda"]
Precision = Literal["fp32", "bf16"]

FIT_FRAC = 0.9
"""Share of a worker's memory that a plan may use: predictions are good to 15 % on a CPU and 10 % on a GPU."""
MICRO_BATCH_TOKENS: dict[Device, int] = {"cpu": 2048, "cuda": 16384}
"""Padded tokens beyond which a micro-batch is not made larger: the processor is busy long before."""
LOWEST_STAGE = {"none": 0, "optimizer": 1, "all": 3}


@dataclass(frozen=True)
class Layout:
    """One way to lay out a run, as a question about its memory; ``longest_tokens``: the longest training row."""

    method: Method
    device: Device
    precision: Precision
    zero_stage: int
    workers: int
    batch_size: int
    longest_tokens: int
    micro_batch_tokens: int

    @property
    def rows(self) -> int:
        """Rows of the longest length in one micro-batch, at least one."""
        return min(self.rows_per_step, max(1, self.micro_batch_tokens // self.longest_tokens))

    @property
    def rows_per_step(self) -> int:
        """Rows of one optimizer step on the busiest worker."""
        return ceil(self.batch_size / self.workers)

    @property
    def micro_batches(self) -> int:
        """Micro-batches of one step on the busiest worker, were all rows as long as the longest."""
        return ceil(self.rows_per_step / self.rows)


@dataclass(frozen=True)
class Footprint:
    """One worker's predicted peak: bytes by part on its device, and main memory that offloaded states take."""

    parts: dict[str, int]
    host_bytes: int = 0

    @property
    def peak_bytes(self) -> int:
        """The parts' sum."""
        return sum(self.parts.values())


@dataclass(frozen=True, eq=False)
class JobFacts:
    """What a plan needs to know of the data and the model.

    ``row_tokens`` and ``row_targets`` hold each training row's tokens and target tokens, shape (N,), N at least 1.
    """

    row_tokens: NDArray[np.int32]
    row_targets: NDArray[np.int32]
    parameters: int
    trainable_parameters: int
    memory: Callable[[Layout], Footprint]
    formula: str
    has_bitsandbytes: bool = False

    @cached_property
    def num_tokens(self) -> int:
        """Tokens of one pass over the training rows."""
        return int(self.row_tokens.sum(dtype=np.int64))

    @cached_property
    def longest_tokens(self) -> int:
        """Tokens of the longest training row."""
        return int(self.row_tokens.max())


@dataclass(frozen=True)
class Site:
    """Where a run would go: how many workers, what each of them has, in bytes; None: a GPU of unknown memory."""

    workers: int
    cpus: int
    gpus: float
    device: Device
    precision: Precision
    memory_bytes: int | None
    host_bytes: int


@dataclass(frozen=True)
class Choice:
    """A layout and what it takes."""

    layout: Layout
    footprint: Footprint

    def fits(self, site: Site) -> bool:
        """Whether it stays within FIT_FRAC of what a worker has; nothing is known to exceed unknown memory."""
        on_device = site.memory_bytes is None or self.footprint.peak_bytes <= FIT_FRAC * site.memory_bytes
        return on_device and self.footprint.host_bytes <= FIT_FRAC * site.host_bytes


def choose_layout(train: TrainSpec, facts: JobFacts, site: Site) -> Choice:
    """Return the lowest ZeRO stage that fits, or the one asked for, with the largest useful micro-batch.

    Raises CapacityError where none fits.
    """
    smallest: list[Choice] = []
    for stage in _stages(train):
        choices = [asked(train, facts, site, stage, tokens) for tokens in micro_batch_sizes(train, facts, site)]
        fitting = next((choice for choice in choices if choice.fits(site)), None)
        if fitting is not None:
            return fitting
        smallest.append(choices[-1])
    raise _cannot_fit(train, facts, site, min(smallest, key=lambda choice: choice.footprint.peak_bytes))


def asked(train: TrainSpec, facts: JobFacts, site: Site, zero_stage: int, micro_batch_tokens: int) -> Choice:
    """Return one layout of the job with the memory it takes."""
    layout = Layout(
        method=train.method,
        device=site.device,
        precision=site.precision,
        zero_stage=zero_stage,
        workers=site.workers,
        batch_size=train.batch_size,
        longest_tokens=facts.longest_tokens,
        micro_batch_tokens=micro_batch_tokens,
    )
    return Choice(layout, facts.memory(layout))


def micro_batch_sizes(train: TrainSpec, facts: JobFacts, site: Site) -> Iterator[int]:
    """Yield padded tokens to try, halving from a worker's share of a step (within the bound) to one longest row."""
    share = ceil(train.batch_size / site.workers) * facts.longest_tokens
    tokens = min(share, MICRO_BATCH_TOKENS[site.device])
    while tokens > facts.longest_tokens:
        yield tokens
        tokens //= 2
    yield facts.longest_tokens


def _stages(train: TrainSpec) -> range:
    if train.zero_stage != "auto":
        return range(train.zero_stage, train.zero_stage + 1)
    return range(LOWEST_STAGE[train.offload], 3 if train.method == "qlora" else 4)


def _cannot_fit(train: TrainSpec, facts: JobFacts, site: Site, best: Choice) -> CapacityError:
    """Say how far the smallest layout is from fitting, and the first change that would make it fit."""
    parts = ", ".join(f"{name} {format_bytes(size)}" for name, size in best.footprint.parts.items() if size)
    has, needs, place = site.memory_bytes, best.footprint.peak_bytes, "memory"
    if has is None or needs <= FIT_FRAC * has:
        has, needs, place = site.host_bytes, best.footprint.host_bytes, "main memory for offloaded states"
    layout = best.layout
    return CapacityError(
        f"{train.method} training needs at least {format_bytes(needs)} of {place} a worker, and a worker has "
        f"{format_bytes(has)}, of which {FIT_FRAC:.0%} are planned with (ZeRO-{layout.zero_stage}, "
        f"{counted(layout.workers, 'worker')}, one row of {layout.longest_tokens:,} tokens at a time: {parts})",
        "; ".join(_remedies(train, facts, site, best)),
        "train",
    )


def _remedies(train: TrainSpec, facts: JobFacts, site: Site, best: Choice) -> Iterator[str]:
    """Yield what would lower the need, most effective first; always something."""
    if train.method == "full":
        lora = facts.memory(replace(best.layout, method="lora"))
        yield f"set train.method to lora ({format_bytes(lora.peak_bytes)} a worker)"
    for factor in (2, 4, 8):
        more = replace(best.layout, workers=site.workers * factor, zero_stage=max(1, _stages(train)[-1]))
        footprint = facts.memory(more)
        if more.workers <= train.batch_size and Choice(more, footprint).fits(site):
            yield f"use {more.workers} workers ({format_bytes(footprint.peak_bytes)} each with ZeRO-{more.zero_stage})"
            break
    if site.device == "cuda" and train.offload == "none":
        yield "set train.offload to optimizer, which moves the optimizer's state to main memory"
    if not train.gradient_checkpointing:
        yield "set train.gradient_checkpointing to true"
    yield f"lower train.max_length (the longest row has {facts.longest_tokens:,} tokens), or choose a smaller base"


def counted(number: float, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is one."""
    plural = "" if number == 1 else "es" if noun.endswith("ch") else "s"
    return f"{number:,g} {noun}{plural}"


def format_bytes(size: int) -> str:
    """Return a size to three digits in MB or GB (powers of ten)."""
    if size < 999.5e6:
        return f"{size / 1e6:.3g} MB"
    return f"{size / 1e9:.3g} GB" if size < 999.5e9 else f"{size / 1e9:,.0f} GB"
