"""A base model's configuration → how many tokens it knows, and what its usual learning rate depends on; no weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.places import local_directory
from cluster.trusted_code import loading
from tuning.warm_start import EXPONENTS, Base

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def vocabulary_size(base: str) -> int:
    """Return how many tokens a base tells apart."""
    return int(_text_config(base).vocab_size)


def known_base(base: str) -> Base | None:
    """Return a base's family and width; None for a family of which nothing is published."""
    config = _text_config(base)
    return Base(config.model_type, int(config.hidden_size)) if config.model_type in EXPONENTS else None


def _text_config(base: str) -> PreTrainedConfig:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(local_directory(base), **loading(base)).get_text_config()
