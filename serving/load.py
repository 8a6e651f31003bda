"""A release directory → a model, a tokenizer and the ids that end an answer, ready to serve.

A release is a whole model, or an adapter in PEFT's form over a base that it names. In fp32 the adapter is added to the
base's weights once, which saves two small products a layer at each step (DECISIONS.md has the figures). Over 16-bit
weights it stays beside them, because the sum would be rounded to a grid that a small adapter may vanish in, and the
release was scored beside its base. Left out: several adapters over one base in a batch; arms share nothing, so a
replica has one release.

Only safetensors are loaded, and no code of a model's runs that the administrator has not listed.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cluster.errors import BaseModelError
from cluster.places import local_directory
from cluster.trusted_code import loading, remedy_of

if TYPE_CHECKING:
    import torch

    from serving.answer import Vocabulary

UNBOUND_CONTEXT = 2048
"""Tokens that a model reads whose configuration does not say."""


@dataclass(frozen=True)
class LoadedRelease:
    """A model in evaluation mode on its device, and what goes with it."""

    model: Any
    tokenizer: Any
    stop_ids: frozenset[int]
    context_tokens: int

    @property
    def num_ids(self) -> int:
        """Return how many token ids the model reads."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    def vocabulary(self) -> Vocabulary:
        """Return what turns ids into text, over a tokenizer of its own: the caller's may encode in another thread."""
        from serving.answer import Vocabulary

        fast = getattr(self.tokenizer, "backend_tokenizer", None)
        own: Any = copy.deepcopy(self.tokenizer if fast is None else fast)
        special = frozenset(self.tokenizer.all_special_ids) | {
            token_id for token_id, token in self.tokenizer.added_tokens_decoder.items() if token.special
        }

        def decode(ids: list[int]) -> str:
            return cast("str", own.decode([token_id for token_id in ids if token_id not in special]))

        def spell(token_id: int) -> str:
            return cast("str", own.decode([token_id], skip_special_tokens=False))

        return Vocabulary(decode, spell, self.stop_ids)


def load(
    directory: str, device: torch.device | None = None, dtype: torch.dtype | None = None, base: str | None = None
) -> LoadedRelease:
    """Load a release or a base; on a GPU in bf16 where there is one, else on the CPU in fp32.

    ``base`` is where an adapter's base lies, if not where the adapter says. Raises BaseModelError where something is
    missing or cannot be loaded.
    """
    import torch
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype or (torch.float32 if device.type == "cpu" else torch.bfloat16)
    is_adapter = (Path(directory) / "adapter_config.json").is_file()
    model_directory = (base or adapter_base(directory)) if is_adapter else directory
    model = _whole_model(model_directory, dtype)
    if is_adapter:
        model = _with_adapter(model, directory)
    tokenizer = load_tokenizer(directory)
    return LoadedRelease(
        model=model.to(device).eval(),
        tokenizer=tokenizer,
        stop_ids=stop_ids(directory, model_directory, tokenizer),
        context_tokens=int(getattr(model.config, "max_position_embeddings", None) or UNBOUND_CONTEXT),
    )


def _whole_model(directory: str, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, use_safetensors=True, **loading(directory))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise BaseModelError(
            f"{directory} cannot be loaded: {error}",
            remedy_of(error, "Give a Hugging Face model directory with safetensors."),
        ) from error


def adapter_base(directory: str) -> str:
    """Return the base that an adapter names: a directory, brought here where it lies in a store, or a hub id."""
    from peft import PeftConfig

    return local_directory(str(PeftConfig.from_pretrained(directory).base_model_name_or_path))


def _with_adapter(model: Any, directory: str) -> Any:
    """Return the base with the adapter merged into it (fp32) or inside its layers."""
    import torch
    from peft import PeftModel

    if not (Path(directory) / "adapter_model.safetensors").is_file():
        raise BaseModelError(
            f"{directory} holds no adapter_model.safetensors", "Save the adapter with safe_serialization."
        )
    try:
        adapted: Any = PeftModel.from_pretrained(model, directory)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise BaseModelError(
            f"the adapter {directory} does not fit its base {model.config.name_or_path}: {error}",
            "Give the base that it was trained over.",
        ) from error
    if model.dtype == torch.float32:
        return adapted.merge_and_unload(safe_merge=True)
    return adapted.get_base_model()


def load_tokenizer(directory: str) -> Any:
    """Load a release's tokenizer. Raises BaseModelError where there is none."""
    from transformers import AutoTokenizer

    code = loading(directory)
    try:
        return AutoTokenizer.from_pretrained(directory, **code)
    except Exception as error:  # a damaged tokenizer.json comes out of Rust as a bare Exception
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BaseModelError(
            f"{directory} has no tokenizer that loads: {reason}", "Add a tokenizer.json that fits the model."
        ) from error


def stop_ids(directory: str, model_directory: str, tokenizer: Any) -> frozenset[int]:
    """Return the ids that end an answer: by its own generation settings, else its base's; and end-of-text."""
    from transformers import AutoConfig, GenerationConfig

    own = (Path(directory) / "generation_config.json").is_file()
    try:
        config: Any = GenerationConfig.from_pretrained(directory if own else model_directory)
    except OSError:
        config = AutoConfig.from_pretrained(model_directory, **loading(model_directory))
    eos = config.eos_token_id
    found = eos if isinstance(eos, list) else [eos]
    return frozenset(int(token_id) for token_id in (*found, tokenizer.eos_token_id) if token_id is not None)
