"""The plan of a run → a DeepSpeed configuration, and nothing else.

Accumulation is unmanaged: the loop decides where a step ends by calling ``step()``, because the number of
micro-batches follows from the rows' lengths and differs from step to step. DeepSpeed's batch-size fields are
therefore nominal, and the loss is normalised by the loop (by the step's global number of target tokens), never by
DeepSpeed. So gradients are summed over ranks; ZeRO-3 can only average them, which the loop compensates.
"""

from __future__ import annotations

from typing import Any, Literal

AVERAGING_STAGE = 3
"""The ZeRO stage that divides gradients by the number of ranks (DeepSpeed 0.19 refuses to sum there)."""
BUCKET_ELEMENTS = 50_000_000
CPU_BUCKET_ELEMENTS = 4_000_000
"""A gradient that is larger than a bucket is reduced where it lies, others are copied into one, which CPUs feel."""


def deepspeed_config(
    *,
    zero_stage: int,
    precision: Literal["fp32", "bf16"],
    offload: Literal["none", "optimizer", "all"],
    max_grad_norm: float,
    world_size: int,
    device: str,
) -> dict[str, Any]:
    """Return DeepSpeed's configuration for one run.

    Bucket sizes are elements. Stage 3 keeps no parameter resident beyond its use (``param_persistence_threshold``
    only spares the smallest).
    """
    bucket_elements = CPU_BUCKET_ELEMENTS if device == "cpu" else BUCKET_ELEMENTS
    zero: dict[str, Any] = {
        "stage": zero_stage,
        "contiguous_gradients": True,
        "overlap_comm": False,
        "reduce_scatter": False,
        "reduce_bucket_size": bucket_elements,
        "allgather_bucket_size": BUCKET_ELEMENTS,
        "round_robin_gradients": False,
    }
    if zero_stage == 3:
        zero |= {"stage3_prefetch_bucket_size": BUCKET_ELEMENTS, "stage3_param_persistence_threshold": 10_000}
    if offload in ("optimizer", "all"):
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if offload == "all":
        zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    return {
        "train_batch_size": world_size,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": max_grad_norm,
        "gradient_allreduce_op": "mean" if zero_stage == AVERAGING_STAGE else "sum",
        "bf16": {"enabled": precision == "bf16"},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31 - 1,
        "wall_clock_breakdown": False,
    }
