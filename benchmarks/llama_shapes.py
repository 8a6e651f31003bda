"""Llamas by their shape, with random weights: what a benchmark trains where only the size matters."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch


class Shape(NamedTuple):
    """What a Llama's size is made of; ``keys``: heads of keys and values."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    keys: int
    vocabulary: int
    context: int = 8192
    tied: bool = False


def llama_config(shape: Shape, **more: Any) -> Any:
    """Return the configuration of a shape, with the ids of special tokens and the like as ``more``."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.keys,
        max_position_embeddings=shape.context,
        tie_word_embeddings=shape.tied,
        **more,
    )


def write_llama(folder: Path, config: Any, dtype: torch.dtype = torch.float32) -> None:
    """Write a configuration's model with random weights, made on the GPU where there is one."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.save_pretrained(folder)
