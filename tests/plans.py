"""Plans made on the spot, for tests of what a plan is followed or shown by."""

from __future__ import annotations

from typing import Any

from cluster.records import Plan


def a_plan(**decided: Any) -> Plan:
    """One fp32 worker on a CPU at stage 0 with room for all rows at once, but for what is ``decided``."""
    plain: dict[str, Any] = {
        "workers": 1,
        "gpus_per_worker": 0,
        "cpus_per_worker": 1,
        "device": "cpu",
        "precision": "fp32",
        "zero_stage": 0,
        "steps": 10,
        "steps_per_epoch": 10,
        "micro_batch_tokens": 16384,
        "micro_batches": 1,
        "parameters": 0,
        "trainable_parameters": 0,
        "memory_bytes": {},
        "available_bytes": 0,
    }
    return Plan.model_validate(plain | decided)
