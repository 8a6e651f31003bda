"""Parameter shapes and token counts → the peak memory of one worker, by part, before anything is loaded.

Model states follow ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054, §3.1 and §5) with the element sizes that DeepSpeed
0.19.8 really uses: it keeps a separate fp32 master copy even where the model is fp32 already (stages 1 to 3), and
accumulates gradients in the model's own precision. Activations are what autograd saves (``trainers.outline``). Buffers
are DeepSpeed's: the gradient bucket, copies made while reducing and stepping, and parameters gathered by stage 3.

The parts are what each adds to the peak, so they add up to it. Activations are gone when gradients are complete, and
the step's copies come later still: what fits into room that others have left adds nothing. Measured against DeepSpeed
on CPU (tests/unit/test_plan.py keeps the figures) model states are exact and the tensors' peak is within 15 %; a
process also holds what its allocator does not give back, which is an estimate and a part of its own.

Left out: evaluation (it needs less than training) and the moment of loading.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from cluster.fitting import Device, Footprint, JobFacts, Layout, Precision
from trainers.fused_loss import block_elements
from trainers.shapes import ModelFacts
from trainers.zero import deepspeed_config

if TYPE_CHECKING:
    from cluster.spec import JobSpec
    from cluster.train_spec import Method

FORMULA = (
    "model states: ZeRO, arXiv 1910.02054 §3 and §5; activations: what autograd saves, cf. arXiv 2205.05198 eq. 1; "
    "buffers: DeepSpeed 0.19.8"
)
Offload = Literal["none", "optimizer", "all"]

FP32_BYTES = 4
COMPUTE_BYTES = {"fp32": 4, "bf16": 2}
MOMENT_BYTES = 8
"""AdamW's two moments, fp32 (Loshchilov and Hutter 2019, arXiv 1711.05101)."""
LOSS_BYTES = 12
"""Per logit where the loss is over whole logits: log-probabilities, their gradient and the logits' gradient, fp32."""
NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
"""A 4-bit value, its share of an 8-bit scale per 64, and that one's of a 32-bit scale per 256 (QLoRA, Dettmers et al.
2023, arXiv 2305.14314, §3)."""
STAGE0_FLAT_ELEMENTS = 500_000_000
"""DeepSpeed's ``buffered_allreduce_fallback`` flattens this many gradients at a time."""
MAX_LIVE_ELEMENTS = 1_000_000_000
"""DeepSpeed's ``stage3_max_live_parameters``: gathered parameters that stage 3 keeps for their next use."""
TRANSIENT_TENSORS = 2
"""Gradients of widest activations that exist at once while a layer is differentiated, beyond what it frees."""
TARGET_QUANTILE = 0.95
"""Rows with a larger share of target tokens than this many others are too few to fill a micro-batch."""
PROCESS_BYTES = {"cpu": 600_000_000, "cuda": 1_000_000_000}
"""A worker before its model: Python with torch, transformers and DeepSpeed; the CUDA context and its libraries."""
ALLOCATOR_FRAC = {"cpu": 0.33, "cuda": 0.0}
"""What glibc holds beyond live tensors: 8 to 75 % over 30 configurations measured (fragmentation by many small ones).
With a third, a process's predicted peak was within 15 % of its resident memory in each of them."""


@dataclass(frozen=True)
class Sharding:
    """How a run is spread: what decides where each byte lies."""

    zero_stage: int
    workers: int
    precision: Precision
    device: Device
    offload: Offload = "none"

    @property
    def compute_bytes(self) -> int:
        """Bytes of one value in the model."""
        return COMPUTE_BYTES[self.precision]


@dataclass(frozen=True)
class MicroBatchShape:
    """The largest forward pass: B rows padded to T tokens; ``accumulates``: a step has several of them."""

    rows: int
    length: int
    target_tokens: int
    accumulates: bool


PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "buffers", "allocator", "process")


def predict_memory(model: ModelFacts, sharding: Sharding, micro: MicroBatchShape) -> dict[str, int]:
    """Return the bytes of one worker's memory at its peak, by part (PARTS); they add up to the peak.

    With ``device`` cuda it is the GPU's memory; what is offloaded is in ``predict_host_memory``.
    """
    weights, gradients, optimizer = model_states(model, sharding)
    kept = model.activations.kept.of(micro.rows, micro.length)
    kept += micro.target_tokens * model.hidden * sharding.compute_bytes
    recomputed = model.activations.recomputed.of(micro.rows, micro.length)
    logits = _logit_bytes(model, sharding, micro.target_tokens)
    widened = sharding.compute_bytes * model.largest_quantised
    transient = widened + ceil(TRANSIENT_TENSORS * model.activations.widest_per_token * micro.rows * micro.length)

    moments = _moments(model, sharding, gradients, accumulates=micro.accumulates)
    forward = moments.held + kept + max(logits, widened)
    backward = moments.held + kept + recomputed + moments.early + transient
    room = max(forward, backward, moments.late) - gradients

    parts = {"weights": weights, "gradients": gradients, "optimizer": optimizer}
    for name, size in (("activations", kept + recomputed), ("logits", logits), ("buffers", room)):
        parts[name] = min(size, room)
        room -= parts[name]
    parts["allocator"] = ceil(ALLOCATOR_FRAC[sharding.device] * sum(parts.values()))
    parts["process"] = PROCESS_BYTES[sharding.device]
    return parts


def _logit_bytes(model: ModelFacts, sharding: Sharding, num_targets: int) -> int:
    """Return what the loss holds at once: all logits, or a block of them and the gradients made beside it."""
    elements = num_targets * model.vocabulary
    if not model.fuses:
        return elements * LOSS_BYTES
    block = min(elements, block_elements(sharding.device, trains_head=model.trains_head))
    made = num_targets * model.hidden + model.vocabulary * model.hidden * model.trains_head
    return block * (FP32_BYTES + (2 if sharding.precision == "bf16" else 0)) + made * sharding.compute_bytes


def tensor_bytes(parts: dict[str, int]) -> int:
    """Return the predicted peak of live tensors alone."""
    return sum(size for name, size in parts.items() if name not in ("allocator", "process"))


def model_states(model: ModelFacts, sharding: Sharding) -> tuple[int, int, int]:
    """Return one worker's bytes of weights, of gradients between two micro-batches, and of optimizer state."""
    stage, count, size = sharding.zero_stage, sharding.workers, sharding.compute_bytes
    trained = model.num_trainable
    share = ceil(trained / count)
    weights = _sharded_weights(model, sharding) if stage == 3 else _whole_weights(model, size)
    gradients = size * (trained if stage < 2 else share)
    master = 0 if stage == 0 and sharding.precision == "fp32" else FP32_BYTES
    optimizer = (master + MOMENT_BYTES) * (trained if stage == 0 else share)
    if sharding.offload == "none":
        return weights, gradients, optimizer
    return 0 if sharding.offload == "all" else weights, gradients if stage < 2 else 0, 0


def predict_host_memory(model: ModelFacts, sharding: Sharding) -> int:
    """Return the bytes of main memory that one worker's offloaded states take: master, gradients, moments, staging."""
    if sharding.offload == "none":
        return 0
    share = ceil(model.num_trainable / sharding.workers)
    states = share * (2 * FP32_BYTES + MOMENT_BYTES + 2 * sharding.compute_bytes)
    weights = _sharded_weights(model, sharding) if sharding.offload == "all" else 0
    return states + weights


def _whole_weights(model: ModelFacts, size: int) -> int:
    return ceil(sum(p.elements * (NF4_BITS / 8 if p.is_quantised else size) for p in model.parameters))


def _sharded_weights(model: ModelFacts, sharding: Sharding) -> int:
    """Stage 3 pads every parameter to a multiple of the workers, and keeps the smallest whole as well."""
    whole = _zero_config(sharding)["stage3_param_persistence_threshold"] if sharding.workers > 1 else 0
    elements = (ceil(p.elements / sharding.workers) + p.elements * (p.elements <= whole) for p in model.parameters)
    return sharding.compute_bytes * sum(elements)


@dataclass(frozen=True)
class _Moments:
    """Bytes beside weights, optimizer and activations at the moments that can be the peak."""

    held: int
    """while a forward pass runs: gradients of earlier micro-batches, buckets, gathered parameters"""
    early: int
    """on top of that, once the backward pass has begun"""
    late: int
    """at the end of the backward pass or in the step, gradients included"""


def _moments(model: ModelFacts, sharding: Sharding, gradients: int, *, accumulates: bool) -> _Moments:
    """Read from DeepSpeed 0.19.8: engine.py, zero/stage_1_and_2.py, zero/stage3.py; measured for every stage."""
    size, trained = sharding.compute_bytes, model.num_trainable
    share = ceil(trained / sharding.workers)
    widened = 0 if sharding.precision == "fp32" else FP32_BYTES
    earlier = gradients if accumulates else 0
    if sharding.zero_stage == 0:
        flat = size * min(trained, STAGE0_FLAT_ELEMENTS)
        return _Moments(held=earlier, early=0, late=gradients + max(flat, widened * trained))
    limit: int = _zero_config(sharding)["reduce_bucket_size"]
    # An empty bucket is address space on a CPU; a GPU sets its whole size aside.
    bucket = size * (min(limit, trained) if sharding.device == "cpu" else limit)
    filled = size * min(max(limit, model.largest_trainable), trained)
    step = 0 if sharding.offload != "none" else (2 * size + widened) * share
    if sharding.zero_stage == 1:
        held = earlier + (bucket if accumulates else 0)
        spilled = size * share if trained > limit else 0
        return _Moments(held, early=gradients + bucket - held, late=max(gradients + bucket + spilled, step))
    copied = filled if sharding.workers > 1 else 0
    if sharding.zero_stage == 2:
        fresh = size * share
        reducing = copied + fresh if trained > limit else max(copied, fresh)
        return _Moments(earlier, early=bucket, late=max(earlier + bucket + reducing, step))
    held = gradients + bucket
    late = held + max(2 * filled, (size + widened) * share)
    return _Moments(held + _gathered_bytes(model, sharding), early=0, late=late)


def _gathered_bytes(model: ModelFacts, sharding: Sharding) -> int:
    """Parameters that stage 3 has put together on this worker, and those on their way."""
    if sharding.workers == 1 and sharding.offload != "all":
        return 0
    prefetched: int = _zero_config(sharding)["stage3_prefetch_bucket_size"]
    elements = min(model.num_parameters, MAX_LIVE_ELEMENTS) + min(model.num_parameters, prefetched)
    return sharding.compute_bytes * elements


def _zero_config(sharding: Sharding) -> dict[str, int]:
    config = deepspeed_config(
        zero_stage=sharding.zero_stage,
        precision=sharding.precision,
        offload=sharding.offload,
        max_grad_norm=1.0,
        world_size=sharding.workers,
        device=sharding.device,
    )
    return config["zero_optimization"]


def job_facts(
    job: JobSpec, row_tokens: NDArray[np.int32], row_targets: NDArray[np.int32], *, has_bitsandbytes: bool
) -> JobFacts:
    """Return what ``cluster.resources`` plans with, from a job and its training rows' tokens and targets, shape (N,).

    The base's configuration is read and its model outlined, once for each method, precision and device that is asked
    about. Raises BaseModelError.
    """
    from trainers.outline import model_facts

    @lru_cache
    def model(method: Method, precision: Precision, device: Device) -> ModelFacts:
        train = job.train.model_copy(update={"method": method})
        return model_facts(job.base, train, precision=precision, device=device)

    target_frac = float(np.quantile(row_targets / row_tokens, TARGET_QUANTILE, method="higher"))

    def memory(layout: Layout) -> Footprint:
        facts = model(layout.method, layout.precision, layout.device)
        sharding = Sharding(layout.zero_stage, layout.workers, layout.precision, layout.device, job.train.offload)
        micro = MicroBatchShape(
            rows=layout.rows,
            length=layout.longest_tokens,
            target_tokens=ceil(target_frac * layout.rows * layout.longest_tokens),
            accumulates=layout.micro_batches > 1,
        )
        return Footprint(predict_memory(facts, sharding, micro), predict_host_memory(facts, sharding))

    counted = model(job.train.method, "fp32", "cpu")
    return JobFacts(
        row_tokens=row_tokens,
        row_targets=row_targets,
        parameters=counted.num_parameters,
        trainable_parameters=counted.num_trainable,
        memory=memory,
        formula=FORMULA,
        has_bitsandbytes=has_bitsandbytes,
    )
