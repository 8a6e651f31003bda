"""Trained weights ↔ files that know nothing of workers or ZeRO stages.

A checkpoint holds the trainable parameters' fp32 values by name, in one safetensors shard per rank: the parameters are
dealt to the ranks by size, every rank takes part in gathering each parameter and only its owner keeps and writes it, so
the peak stays at one gathered parameter plus the rank's own share. Nothing is pickled. Reading needs no process
group, so any number of workers at any stage, or a laptop, can load it.

Left out for now: optimizer moments (exact resume).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from cluster.errors import StoreError


def shard_owner(sizes: Sequence[int], num_ranks: int) -> list[int]:
    """Return the rank that writes each parameter: largest first to the lightest rank."""
    load = [0] * num_ranks
    owner = [0] * len(sizes)
    for index in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        rank = min(range(num_ranks), key=lambda r: load[r])
        owner[index] = rank
        load[rank] += sizes[index]
    return owner


def full_numel(parameter: nn.Parameter) -> int:
    """Return a parameter's number of elements, also where ZeRO-3 left an empty placeholder."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def full_fp32(parameter: nn.Parameter, zero_stage: int) -> Tensor:
    """Gather a trainable parameter's fp32 master value on every rank (a collective above stage 0)."""
    if zero_stage == 0:
        return parameter.detach().float()
    from deepspeed.utils import safe_get_full_fp32_param

    value: Tensor | None = safe_get_full_fp32_param(parameter)
    assert value is not None, "DeepSpeed knows no fp32 value for a trainable parameter"
    return value


def save_weights(
    parameters: Iterable[tuple[str, nn.Parameter]], directory: Path, *, rank: int, num_ranks: int, zero_stage: int
) -> None:
    """Write this rank's shard ``weights-R-of-N.safetensors``; every rank must call it."""
    named = list(parameters)
    owner = shard_owner([full_numel(p) for _, p in named], num_ranks)
    mine: dict[str, Tensor] = {}
    for (name, parameter), writer in zip(named, owner, strict=True):
        value = full_fp32(parameter, zero_stage)
        if writer == rank:
            mine[name] = value.detach().to("cpu", torch.float32, copy=True).contiguous()
    directory.mkdir(parents=True, exist_ok=True)
    save_file(mine, directory / f"weights-{rank}-of-{num_ranks}.safetensors")


def read_weights(directory: Path) -> dict[str, Tensor]:
    """Return every parameter by name, fp32. Raises StoreError where a shard is missing."""
    shards = sorted(directory.glob("weights-*-of-*.safetensors"))
    expected = int(shards[0].stem.rsplit("-", 1)[-1]) if shards else 1
    if len(shards) != expected:
        raise StoreError(
            f"{directory} holds {len(shards)} of {expected} weight shards", "train again, or use another checkpoint"
        )
    weights: dict[str, Tensor] = {}
    for shard in shards:
        with safe_open(shard, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (safe_open is no mapping)
                weights[name] = opened.get_tensor(name)
    return weights


def load_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy named weights into a model built as in training. Raises StoreError on a missing or misshapen name."""
    parameters: dict[str, Any] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if parameters.keys() != weights.keys():
        odd = sorted(parameters.keys() ^ weights.keys())
        raise StoreError(
            f"the checkpoint and the model differ in {len(odd)} parameters, first {odd[0]}",
            "use the base it was trained on",
        )
    with torch.no_grad():
        for name, value in weights.items():
            if parameters[name].shape != value.shape:
                raise StoreError(
                    f"{name} is {tuple(value.shape)} in the checkpoint, {tuple(parameters[name].shape)} in the model",
                    "use the base it was trained on",
                )
            parameters[name].copy_(value)
