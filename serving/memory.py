"""A model and the memory that is free → how many tokens its cache may hold.

What a token takes is weighed on one token: architectures keep heads, sizes and compressed forms under many names. A
quarter of what is free may go to the cache on the CPU, where others run beside us, and four fifths of it on a GPU;
half of either is counted, because places for rows come in powers of two. A layer is moved at a time when the cache
grows, so growing needs little beside.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

CPU_SHARE, GPU_SHARE = 0.125, 0.4


def cache_tokens(model: Any) -> int:
    """Return how many tokens of this model's keys and values fit what is free now, at least one."""
    if model.device.type == "cuda":
        free_bytes, share = torch.cuda.mem_get_info(model.device)[0], GPU_SHARE
    else:
        import psutil

        free_bytes, share = psutil.virtual_memory().available, CPU_SHARE
    return max(int(free_bytes * share / token_bytes(model)), 1)


@torch.inference_mode()
def token_bytes(model: Any) -> int:
    """Return what one token's keys and values take in all layers."""
    cache = DynamicCache()
    model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=model.device), past_key_values=cache, use_cache=True)
    layers = cast("list[DynamicLayer]", cache.layers)
    return sum(kept.nbytes for layer in layers for kept in (layer.keys, layer.values) if kept is not None)
