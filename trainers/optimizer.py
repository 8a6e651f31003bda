"""Trainable parameters and the job's rates → an AdamW optimizer, and the learning rate at every step.

Decoupled weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101) acts on matrices only; norms and biases are
spared. The schedule is a pure function of the step, so nothing of it needs to be kept in a checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import cos, pi
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from cluster.spec import TrainSpec


def learning_rate_frac(step: int, num_steps: int, schedule: str, warmup_frac: float) -> float:
    """Return the learning rate of 0-based ``step`` as a fraction of its peak.

    It rises linearly over ``warmup_frac`` of the steps, then falls to zero along a half cosine (SGDR, arXiv 1608.03983,
    eq. 5 without restarts), a line, or stays (``constant``).
    """
    warmup_steps = round(warmup_frac * num_steps)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    progress = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return 0.5 * (1 + cos(pi * progress)) if schedule == "cosine" else 1.0 - progress


def build_optimizer(parameters: Iterable[tuple[str, nn.Parameter]], train: TrainSpec) -> torch.optim.AdamW:
    """Return AdamW (fused) over named parameters, grouped by weight decay and by their share of the learning rate.

    Under LoRA+ (Hayou et al. 2024, arXiv 2402.12354) the adapter's B matrices learn ``lora_plus_ratio`` times faster; a
    group's factor is kept as ``rate_scale``.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters:
        decay = train.weight_decay if parameter.ndim >= 2 else 0.0
        scale = train.lora.lora_plus_ratio if "lora_B" in name else 1.0
        groups.setdefault((decay, scale), []).append(parameter)
    settings: list[dict[str, Any]] = [
        {"params": group, "weight_decay": decay, "lr": train.learning_rate * scale, "rate_scale": scale}
        for (decay, scale), group in groups.items()
    ]
    return torch.optim.AdamW(settings, lr=train.learning_rate, betas=(0.9, 0.999), eps=1e-8, fused=True)


def set_learning_rate(optimizer: Any, learning_rate: float) -> None:
    """Set the rate of every group of an optimizer or of DeepSpeed's wrapper around one."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["rate_scale"]
