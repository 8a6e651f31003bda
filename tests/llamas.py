"""Small Llamas by their shape, and the outlines of three sizes for tests of predicted memory."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from transformers import LlamaConfig

from cluster.spec import TrainSpec
from trainers.outline import outline
from trainers.shapes import ModelFacts

Shape = tuple[int, int, int, int]
"""Hidden size, intermediate size, layers, vocabulary."""

WIDE: Shape = (512, 1408, 8, 8192)
NARROW: Shape = (256, 704, 6, 8192)
SMALL: Shape = (256, 704, 6, 1024)


def llama(shape: Shape, **more: Any) -> LlamaConfig:
    """A tied Llama of 8 heads over 4 of keys, but for what is asked as ``more``."""
    hidden, intermediate, layers, vocabulary = shape
    plain: dict[str, Any] = {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "vocab_size": vocabulary,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "tie_word_embeddings": True,
    }
    return LlamaConfig(**(plain | more))


@lru_cache
def facts(shape: Shape, precision: Any = "fp32", device: Any = "cpu", **options: Any) -> ModelFacts:
    method = options.get("method", "full")
    block: dict[str, Any] = {"method": method}
    if method == "lora":
        block["lora"] = {"rank": 16, "dropout": 0.05}
    if "gradient_checkpointing" in options:
        block["gradient_checkpointing"] = True
    config = llama(shape, attention_dropout=options.get("dropout", 0.0))
    return outline(config, TrainSpec.model_validate(block), precision=precision, device=device)
