"""A DeepSpeed engine ↔ every trainable parameter's fp32 weights and Adam moments, whatever the ZeRO stage.

Reading gathers one parameter at a time, on all ranks. Writing moments back is possible only once they exist, so a step
with a learning rate of zero is taken first: it moves no weight and creates them. From then on the engine is in the
state of the one that was read, under another stage and number of ranks too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps of every weight, by torch's names."""
MASTER = "hone_master"


def full_shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """Return a parameter's shape, also where ZeRO-3 left an empty placeholder."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def link_masters(engine: Any) -> None:
    """Let a parameter's fp32 master be found where DeepSpeed keeps one but does not say so: bf16 at stage 0.

    DeepSpeed 0.19.8 wraps a torch optimizer in its FP16_UnfusedOptimizer then, which clones every parameter and takes a
    step without gradients: weight decay has moved the masters and Adam counts one step too many, which is undone here.
    """
    optimizer = engine.optimizer
    if not hasattr(optimizer, "fp32_groups"):
        return
    for parameters, masters in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True):
        for parameter, master in zip(parameters, masters, strict=True):
            setattr(parameter, MASTER, master)
            master.data.copy_(parameter.data)
    set_num_steps(engine, 0)


def full_fp32(parameter: nn.Parameter) -> Tensor:
    """Gather a trainable parameter's fp32 master value on every rank."""
    if not _is_managed(parameter):
        return _stepped(parameter).detach().float()
    from deepspeed.utils import safe_get_full_fp32_param

    value: Tensor | None = safe_get_full_fp32_param(parameter)
    assert value is not None, "DeepSpeed knows no fp32 value for a trainable parameter"
    return value


def full_moment(engine: Any, parameter: nn.Parameter, name: str) -> Tensor:
    """Gather one of a parameter's moments on every rank; at least one step must have been taken."""
    if not _is_managed(parameter):
        return engine.basic_optimizer.state[_stepped(parameter)][name]
    from deepspeed.utils import safe_get_full_optimizer_state

    value: Tensor | None = safe_get_full_optimizer_state(parameter, name)
    assert value is not None, "DeepSpeed knows no moments for a trainable parameter"
    return value


def link_moments(engine: Any) -> None:
    """Let DeepSpeed find the moments by parameter.

    At stages 1 and 2 it links them once, under unmanaged accumulation before there are any, and then finds none
    (DeepSpeed 0.19.8, runtime/zero/stage_1_and_2.py, ``_lazy_init_hp_params_optimizer_state``).
    """
    optimizer = engine.optimizer
    if hasattr(optimizer, "_hp_optimizer_states_linked"):
        optimizer._hp_optimizer_states_linked = False
        optimizer._lazy_init_hp_params_optimizer_state()


def create_moments(engine: Any, backward: Callable[[], None]) -> None:
    """Take a step with a learning rate of zero; ``backward`` runs one forward and backward pass on every rank."""
    for group in engine.optimizer.param_groups:
        group["lr"] = 0.0
    engine.train()
    backward()
    engine.step()
    link_moments(engine)


def set_state(engine: Any, parameter: nn.Parameter, weights: Tensor, moments: dict[str, Tensor]) -> None:
    """Give a parameter its fp32 weights and its moments (each of the full shape, on any device)."""
    if not _is_managed(parameter):
        stepped = _stepped(parameter)
        for copy in (parameter, stepped):
            copy.data.copy_(weights)
        for name, value in moments.items():
            engine.basic_optimizer.state[stepped][name].copy_(value)
        return
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    device = parameter.device if parameter.device.type != "meta" else torch.device("cpu")
    safe_set_full_fp32_param(parameter, weights.to(device))
    for name, value in moments.items():
        safe_set_full_optimizer_state(parameter, value.to(device), name)


def set_num_steps(engine: Any, num_steps: int) -> None:
    """Tell Adam how many steps its moments have seen, which its bias correction needs."""
    for state in engine.basic_optimizer.state.values():
        if "step" in state:
            state["step"].fill_(num_steps)


def _stepped(parameter: nn.Parameter) -> Tensor:
    """Return the tensor that the optimizer steps: the fp32 master, or the parameter itself."""
    return getattr(parameter, MASTER, parameter)


def _is_managed(parameter: nn.Parameter) -> bool:
    """Whether DeepSpeed keeps the fp32 weights apart from the parameter."""
    return hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping")
