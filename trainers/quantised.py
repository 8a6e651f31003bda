"""A base's linear layers in 4 bits, as method qlora trains over them; and why that cannot be done here.

NF4 with its scales quantised once more and products in the model's own precision (QLoRA, Dettmers et al. 2023, arXiv
2305.14314, §3), by bitsandbytes. What PEFT's ``prepare_model_for_kbit_training`` adds is not needed: the adapter
freezes the base, checkpointing is non-reentrant and wants no gradient at the inputs, and norms, which transformers
computes in fp32, keep their bf16 weights. Output and input embeddings stay as they are. Left out: 8 bits and other
formats.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch

LIBRARY = "bitsandbytes"


def nf4_settings(compute: torch.dtype) -> dict[str, Any]:
    """Return what transformers' ``BitsAndBytesConfig`` is told."""
    return {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": compute,
    }


def quantised_loading(compute: torch.dtype) -> dict[str, Any]:
    """Return the arguments with which ``from_pretrained`` quantises while it loads, onto this rank's device."""
    from transformers import BitsAndBytesConfig

    device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    return {"quantization_config": BitsAndBytesConfig(**nf4_settings(compute)), "device_map": {"": device}}


def has_library() -> bool:
    """Whether bitsandbytes is installed."""
    return find_spec(LIBRARY) is not None


def missing_here() -> list[str]:
    """Return what training over a 4-bit base lacks on this machine."""
    missing = [] if torch.cuda.is_available() else ["no GPU was found"]
    return missing if has_library() else [*missing, "bitsandbytes is not installed (pip install 'hone[qlora]')"]
