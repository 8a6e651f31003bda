"""A plan that works → what would make the same job cheaper, each with its price in numbers; pure.

Only changes that are known to save something are named. None of them is made: a shorter ``max_length`` or an adapter
changes the result, and the user's stage and workers are the user's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from cluster.capacity import Capacity
from cluster.fitting import Choice, JobFacts, Site, asked, choose_layout, counted, format_bytes
from cluster.spec import TrainSpec

CUT_ROWS_FRAC = 0.01
"""A shorter ``max_length`` is worth a line when it cuts at most this share of the rows …"""
LONG_TAIL = 1.25
"""… and the longest row is at least this many times as long."""
LORA_PEAK_FRAC = 0.8
"""LoRA is worth a line when its peak is at most this share of full tuning's."""
BUSY_TOKENS = 512
"""Tokens of a step below which a worker waits more than it computes."""


def advice(train: TrainSpec, facts: JobFacts, capacity: Capacity, site: Site, chosen: Choice) -> Iterator[str]:
    """Yield one line for each change that would save time, memory or money."""
    yield from _lora(train, facts, chosen)
    yield from _lower_stage(train, facts, site, chosen)
    yield from _shorter(train, facts, site, chosen)
    yield from _fewer_workers(train, facts, site)
    if site.device == "cpu" and site.precision == "bf16":
        yield "train.precision fp32: bf16 saves memory on a CPU, and most CPUs compute slower in it"
    free = capacity.free_slots(site.cpus, site.gpus)
    if free < site.workers:
        fewer = f", or use {counted(free, 'worker')}" if free else ""
        yield f"start later{fewer}: {site.workers} are planned, and the cluster has room for {free} now"


def _lora(train: TrainSpec, facts: JobFacts, chosen: Choice) -> Iterator[str]:
    if train.method != "full":
        return
    peak = chosen.footprint.peak_bytes
    lora = facts.memory(replace(chosen.layout, method="lora")).peak_bytes
    if lora <= LORA_PEAK_FRAC * peak:
        yield f"train.method lora: a peak of {format_bytes(lora)} a worker instead of {format_bytes(peak)}"


def _lower_stage(train: TrainSpec, facts: JobFacts, site: Site, chosen: Choice) -> Iterator[str]:
    """Name the stage that auto would have taken, where the user asked for a higher one."""
    stage = chosen.layout.zero_stage
    if train.zero_stage == "auto" or stage == 0 or site.memory_bytes is None:
        return
    auto = choose_layout(train.model_copy(update={"zero_stage": "auto"}), facts, site)
    if auto.layout.zero_stage < stage:
        yield (
            f"train.zero_stage {auto.layout.zero_stage}: it fits ({format_bytes(auto.footprint.peak_bytes)} a worker) "
            f"and communicates less than stage {stage}"
        )


def _shorter(train: TrainSpec, facts: JobFacts, site: Site, chosen: Choice) -> Iterator[str]:
    length = int(np.quantile(facts.row_tokens, 1 - CUT_ROWS_FRAC, method="higher"))
    if facts.longest_tokens < LONG_TAIL * length or length < 8:
        return
    cut = np.minimum(facts.row_tokens, length)
    num_cut = int((facts.row_tokens > length).sum())
    saved = 1 - int(cut.sum(dtype=np.int64)) / facts.num_tokens
    shorter = replace(facts, row_tokens=cut, row_targets=np.minimum(facts.row_targets, cut))
    peak = asked(train, shorter, site, chosen.layout.zero_stage, min(chosen.layout.micro_batch_tokens, length))
    yield (
        f"train.max_length {length}: cuts {num_cut:,} of {len(cut):,} rows, saves {saved:.1%} of the tokens, and one "
        f"longest row at a time then peaks at {format_bytes(peak.footprint.peak_bytes)} a worker"
    )


def _fewer_workers(train: TrainSpec, facts: JobFacts, site: Site) -> Iterator[str]:
    tokens = train.batch_size * facts.num_tokens / len(facts.row_tokens)
    if site.workers == 1 or tokens / site.workers >= BUSY_TOKENS:
        return
    fewer = max(1, int(tokens // BUSY_TOKENS))
    yield (
        f"cluster.workers {fewer}: a step has about {tokens:,.0f} tokens, {tokens / site.workers:,.0f} for each of "
        f"{counted(site.workers, 'worker')}, less than keeps one busy"
    )
