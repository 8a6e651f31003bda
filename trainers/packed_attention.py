"""Attention over several examples packed into one row, each seeing only itself, without padding and without a mask.

A packed row of T tokens is the examples one after another with restarting positions. A block mask would cost T² values;
instead each example is attended on its own, by torch's variable-length kernel on a GPU in half precision, by one call
of the fused kernel an example elsewhere. It is registered with transformers under ``PACKED`` and used by every model
whose attention is chosen there. Whether a model really keeps packed examples apart is found out before training, by
comparing the logits of two examples packed with those of each alone; one that does not is trained on padded rows.

Left out: sliding windows, soft caps and attention sinks (such models are padded).

Shape legend: B rows (1), H heads, K key heads, T tokens, D head size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from trainers.ranks import on_device

PACKED = "hone_packed"
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.25}
"""Largest accepted logit difference between packed and alone: the order of sums (measured 1e-6 in fp32)."""
UNSUPPORTED = ("sliding_window", "softcap", "s_aux")


class UnsupportedError(Exception):
    """A model's attention asks for what packing cannot do."""


def packed_attention(
    module: nn.Module,
    query_BHTD: Tensor,
    key_BKTD: Tensor,
    value_BKTD: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    segment_lengths: tuple[int, ...] | None = None,
    segment_ends: Tensor | None = None,
    **asked: Any,
) -> tuple[Tensor, None]:
    """Return the attended values (B, T, H, D), as transformers expects them of an attention function.

    ``segment_lengths`` are the examples' lengths, ``segment_ends`` their running sum from 0 as int32 on the device.
    """
    odd = [name for name in UNSUPPORTED if asked.get(name) is not None]
    if segment_lengths is None or segment_ends is None or attention_mask is not None or odd:
        raise UnsupportedError(f"{type(module).__name__} asks for {odd or 'a mask, or passes no segments on'}")
    sizes = query_BHTD.shape[-1], value_BKTD.shape[-1]
    if dropout == 0.0 and kernel_takes(query_BHTD.device.type, query_BHTD.dtype, *sizes):
        return _by_kernel(query_BHTD, key_BKTD, value_BKTD, max(segment_lengths), segment_ends, scaling), None
    grouped = query_BHTD.shape[1] != key_BKTD.shape[1]
    parts = [
        nn.functional.scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=grouped
        )
        for q, k, v in zip(*(x.split(segment_lengths, dim=2) for x in (query_BHTD, key_BKTD, value_BKTD)), strict=True)
    ]
    return torch.cat([part.transpose(1, 2) for part in parts], dim=1), None


def kernel_takes(device: str, dtype: torch.dtype, key_size: int, value_size: int) -> bool:
    """Whether torch's variable-length kernel (FlashAttention 2) computes this; else examples go one by one."""
    in_half = device == "cuda" and dtype in (torch.bfloat16, torch.float16)
    return in_half and key_size == value_size and key_size % 8 == 0 and key_size <= 256


def _by_kernel(query_BHTD: Tensor, key: Tensor, value: Tensor, longest: int, ends: Tensor, scale: Any) -> Tensor:
    """Attend by ``torch.nn.attention.varlen`` (torch 2.13): (T, H, D) in, causal where the window is (-1, 0)."""
    from torch.nn.attention.varlen import varlen_attn

    query_THD, key_TKD, value_TKD = (x[0].transpose(0, 1) for x in (query_BHTD, key, value))
    found = varlen_attn(
        query_THD,
        key_TKD,
        value_TKD,
        ends,
        ends,
        longest,
        longest,
        scale=scale,
        window_size=(-1, 0),
        enable_gqa=query_THD.shape[1] != key_TKD.shape[1],
    )
    assert isinstance(found, Tensor)
    return found[None]


def register() -> None:
    """Make the attention known to transformers; no mask is made for it, since none is registered."""
    from transformers import AttentionInterface

    AttentionInterface.register(PACKED, packed_attention)


def use_packed(model: Any, *, packed: bool) -> None:
    """Let a transformers model attend to packed examples, or as it did (which generation needs)."""
    model.config._attn_implementation = PACKED if packed else "sdpa"


@contextmanager
def plain_attention(causal: Any) -> Generator[None]:
    """Let a model in training attend as it usually does under the block: generation pads and caches."""
    before = causal.config._attn_implementation
    use_packed(causal, packed=False)
    try:
        yield
    finally:
        use_packed(causal, packed=before == PACKED)


def segment_inputs(lengths: tuple[int, ...], device: torch.device) -> dict[str, Any]:
    """Return what a model is called with for examples of these lengths, packed."""
    positions = on_device(torch.cat([torch.arange(length) for length in lengths]), device)
    ends = on_device(torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32), device)
    return {"position_ids": positions[None], "segment_lengths": lengths, "segment_ends": ends}


def keeps_examples_apart(logits: Callable[[list[Tensor], bool], Tensor], causal: Any) -> bool:
    """Whether two short examples have the same logits packed as each has alone; leaves packing on if so.

    ``logits(examples, packed)`` returns (N, V) for the targets of examples given as token ids (T,), all but their first
    token; ``causal`` is the transformers model that it asks.
    """
    register()
    examples = [torch.arange(2, 7), torch.arange(3, 6)]
    with torch.no_grad():
        alone_NV = torch.cat([logits([example], False) for example in examples])
        use_packed(causal, packed=True)
        try:
            packed_NV = logits(examples, True)
        except (UnsupportedError, TypeError):
            use_packed(causal, packed=False)
            return False
    difference = float((packed_NV.float() - alone_NV.float()).abs().max())
    apart = difference <= TOLERANCE.get(alone_NV.dtype, 0.0)
    use_packed(causal, packed=apart)
    return apart
