"""Parameter shapes and token counts → the peak memory of one worker, by part, before anything is loaded.

Model states follow ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054, §3.1 and §5) with the element sizes that DeepSpeed
0.19.8 really uses: it keeps a separate fp32 master copy even where the model is fp32 already (stages 1 to 3), and
accumulates gradients in the model's own precision. Activations are what autograd saves (``trainers.outline``). Buffers
are DeepSpeed's: the gradient bucket, copies made while reducing and stepping, and parameters gathered by stage 3.

The parts are what each adds to the peak, so they add up to it. Activations are gone when gradients are complete, and the
step's copies come later still: what fits into room that others have left adds nothing. Measured against DeepSpeed on CPU
(tests/unit/test_plan.py keeps the figures) model states are exact and the tensors' peak is within 15 %; a process also
holds what its allocator does not give back, which is an estimate and a part of its own.

Left out: evaluation (it needs less than training) and the moment of loading.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import ceil, prod
from typing import TYPE_CHECKING, Literal

from cluster.resources import JobFacts, Layout
from trainers.zero import deepspeed_config

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cluster.spec import JobSpec

FORMULA = (
    "model states: ZeRO, arXiv 1910.02054 §3 and §5; activations: what autograd saves, cf. arXiv 2205.05198 eq. 1; "
    "buffers: DeepSpeed 0.19.8"
)
FP32_BYTES = 4
COMPUTE_BYTES = {"fp32": 4, "bf16": 2}
MOMENT_BYTES = 8
"""AdamW's two moments, fp32 (Loshchilov and Hutter 2019, arXiv 1711.05101)."""
LOSS_BYTES = 12
"""Per logit when the loss is differentiated: log-probabilities, their gradient and the logits' gradient, all fp32."""
NF4_BITS = 4.5
"""A 4-bit value and its share of a 32-bit scale per 64 (QLoRA, Dettmers et al. 2023, arXiv 2305.14314, §3)."""
STAGE0_FLAT_ELEMENTS = 500_000_000
"""DeepSpeed's ``buffered_allreduce_fallback`` flattens this many gradients at a time."""
MAX_LIVE_ELEMENTS = 1_000_000_000
"""DeepSpeed's ``stage3_max_live_parameters``: gathered parameters that stage 3 keeps for their next use."""
PROCESS_BYTES = {"cpu": 600_000_000, "cuda": 1_000_000_000}
"""A worker before its model: Python with torch, transformers and DeepSpeed; the CUDA context and its libraries."""
ALLOCATOR_FRAC = {"cpu": 0.33, "cuda": 0.0}
"""What glibc holds beyond live tensors: 8 to 55 % over eleven configurations measured, once 85 %."""


@dataclass(frozen=True)
class ParameterShape:
    """One parameter tensor; ``is_quantised``: method qlora keeps it in 4 bits."""

    name: str
    shape: tuple[int, ...]
    is_trainable: bool
    is_quantised: bool = False

    @cached_property
    def elements(self) -> int:
        """Number of values."""
        return prod(self.shape)


@dataclass(frozen=True)
class ActivationFacts:
    """Bytes that a forward pass over B rows of T tokens leaves for the backward pass, without the vocabulary's."""

    per_token: float
    per_position: float
    per_pair: float
    widest_per_token: float

    def saved_bytes(self, rows: int, length: int) -> int:
        """Return ``per_token · B·T + per_position · T + per_pair · B·T²``."""
        return ceil((self.per_token * rows + self.per_position + self.per_pair * rows * length) * length)


@dataclass(frozen=True)
class ModelFacts:
    """The model that a job trains, adapters included; tied parameters occur once."""

    parameters: tuple[ParameterShape, ...]
    vocabulary: int
    hidden: int
    activations: ActivationFacts

    @cached_property
    def num_parameters(self) -> int:
        """All elements."""
        return sum(p.elements for p in self.parameters)

    @cached_property
    def num_trainable(self) -> int:
        """Elements that an optimizer step changes."""
        return sum(p.elements for p in self.parameters if p.is_trainable)

    @cached_property
    def largest_trainable(self) -> int:
        """Elements of the largest tensor that is trained."""
        return max((p.elements for p in self.parameters if p.is_trainable), default=0)


@dataclass(frozen=True)
class Sharding:
    """How a run is spread: what decides where each byte lies."""

    zero_stage: int
    workers: int
    precision: Literal["fp32", "bf16"]
    device: Literal["cpu", "cuda"]
    offload: Literal["none", "optimizer", "all"] = "none"

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


@dataclass(frozen=True)
class _Peaks:
    """Bytes on top of weights and optimizer at the moments that can be the peak."""

    held: int
    """gradients and buckets alive while a forward pass runs"""
    forward: int
    """gathered parameters"""
    early: int
    """buffers that exist once the backward pass has begun and activations are still there"""
    late: int
    """gradients and buffers at the end of the backward pass and in the step"""
