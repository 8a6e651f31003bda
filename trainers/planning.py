"""Temporary: a plan from counts alone, until cluster.resources lands."""

from __future__ import annotations

import os
from typing import Any

import psutil

from cluster.errors import CapacityError
from cluster.records import Plan
from trainers.batches import Schedule
from trainers.prepared import TRAIN


def plan_run(job: Any, prepared: Any, settings: Any) -> Plan:
    workers = job.cluster.workers
    if workers > os.cpu_count():
        raise CapacityError(f"{workers} workers asked, this machine has {os.cpu_count()} CPUs", "lower cluster.workers")
    count = prepared.record.splits[TRAIN].rows
    s = Schedule(count, job.train.batch_size, job.train.epochs, job.train.seed)
    return Plan(
        workers=workers,
        gpus_per_worker=0,
        cpus_per_worker=1,
        device="cpu",
        precision="fp32",
        zero_stage=0 if job.train.zero_stage == "auto" else job.train.zero_stage,
        steps=s.num_steps,
        steps_per_epoch=s.steps_per_epoch,
        micro_batch_tokens=2048,
        micro_batches=1,
        parameters=0,
        trainable_parameters=0,
        memory_bytes={},
        available_bytes=psutil.virtual_memory().available,
    )
