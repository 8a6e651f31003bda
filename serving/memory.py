"""A model and the memory that is free → how many tokens its cache may hold.

Keys and values of a token take two vectors a layer. A quarter of what is free may go to them on the CPU, where others
run beside us, and four fifths of it on a GPU, half of that because places for rows come in powers of two. A layer is
moved at a time when the cache grows, so growing needs little beside.
"""

from __future__ import annotations

from typing import Any

import torch

CPU_SHARE, GPU_SHARE = 0.25, 0.4


def cache_tokens(model: Any) -> int:
    """Return how many tokens of this model's keys and values fit what is free now, at least one context."""
    config = model.config.get_text_config(decoder=True)
    if model.device.type == "cuda":
        free_bytes, share = torch.cuda.mem_get_info(model.device)[0], GPU_SHARE
    else:
        import psutil

        free_bytes, share = psutil.virtual_memory().available, CPU_SHARE
    return max(int(free_bytes * share / token_bytes(config, model.dtype)), 1)


def token_bytes(config: Any, dtype: torch.dtype) -> int:
    """Return what one token's keys and values take in all layers."""
    heads = config.num_attention_heads
    keys = getattr(config, "num_key_value_heads", None) or heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return 2 * config.num_hidden_layers * keys * head_size * dtype.itemsize
