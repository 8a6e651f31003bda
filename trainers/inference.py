"""A model directory and evaluation examples → answers, label probabilities and likelihoods.

Works on full models, adapter releases and untuned bases alike, in the caller's process (which may be a Ray task).
Prompts are rendered by the same template and encoder as in training. A prompt that leaves no room for its answer
loses its oldest tokens. Few-shot examples become earlier turns of the prompt; as many as fit are used.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.errors import BaseModelError
from cluster.places import local_directory
from trainers.metrics import Predictions

if TYPE_CHECKING:
    import torch

    from trainers.sampled import Sampled
    from trainers.splits import EvaluationExample
    from trainers.templates import Template
    from trainers.turns import Message


@dataclass(frozen=True)
class Inference:
    """What to ask a model: which examples, under which template, with what bounds.

    Answers are greedy unless ``sampled``; ``score_references`` asks for the references' likelihoods as well.
    """

    model: str
    examples: list[EvaluationExample]
    template: str | None = None
    label_names: list[str] = field(default_factory=list)
    score_labels: bool = False
    max_new_tokens: int = 64
    batch_rows: int = 16
    max_length: int | None = None
    shots: list[list[Message]] = field(default_factory=list)
    sampled: Sampled | None = None
    score_references: bool = True


@dataclass(frozen=True)
class Loaded:
    """A model ready to answer, with its tokenizer and template."""

    model: Any
    tokenizer: Any
    template: Template
    context_tokens: int


def load(path: str, template: str | None, device: torch.device, *, in_4_bits: bool = False) -> Loaded:
    """Load a full model, an adapter over its base (``in_4_bits``: quantised), or a base; fp32 on a CPU, else bf16.

    Raises BaseModelError where the directory is none of these.
    """
    import torch

    from trainers.model import load_base
    from trainers.templates import load_tokenizer, template_of

    path = local_directory(path)
    adapter = Path(path) / "adapter_config.json"
    base = adapter_base(path) if adapter.is_file() else path
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    model: Any = load_base(base, dtype, in_4_bits=in_4_bits)
    if adapter.is_file():
        from peft import PeftModel

        refuse_pickled_adapter(Path(path))
        model = PeftModel.from_pretrained(model, path)
    tokenizer = load_tokenizer(path)
    if not in_4_bits:  # those are where they were quantised
        model = model.to(device)
    return Loaded(model.eval(), tokenizer, template_of(tokenizer, template), context_tokens(model.config))


def refuse_pickled_adapter(directory: Path) -> None:
    """Raise BaseModelError for an adapter whose weights are not in safetensors: loading a pickle can run code."""
    if not (directory / "adapter_model.safetensors").is_file():
        raise BaseModelError(
            f"{directory} holds no adapter_model.safetensors", "Save the adapter with safe_serialization."
        )


def context_tokens(config: Any) -> int:
    """Return how many tokens a model reads; 2,048 where its configuration does not say."""
    return int(getattr(config, "max_position_embeddings", None) or 2048)


def adapter_base(path: str) -> str:
    """Return the base that an adapter directory names."""
    from peft import PeftConfig

    return str(PeftConfig.from_pretrained(path).base_model_name_or_path)


def predict(asked: Inference) -> Predictions:
    """Answer every example and score its references: what metrics are computed from."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loaded = load(asked.model, asked.template, device)
    if not any(example.prompt for example in asked.examples):
        nll, target_tokens = _likelihood(loaded, asked)
        return Predictions(texts=[], references=[], nll=nll, target_tokens=target_tokens)
    texts = answers(loaded, asked)
    scores = _label_scores(loaded, asked) if asked.score_labels else None
    nll, target_tokens = (None, None) if asked.shots or not asked.score_references else _likelihood(loaded, asked)
    labelled = bool(asked.label_names)
    return Predictions(
        texts=texts,
        references=[example.references for example in asked.examples],
        labels=[str(example.label) for example in asked.examples] if labelled else None,
        label_names=asked.label_names if labelled else None,
        label_scores=scores,
        nll=nll,
        target_tokens=target_tokens,
    )


def answers(loaded: Loaded, asked: Inference) -> list[str]:
    """Return the model's answer to every example."""
    from trainers.generate import generate

    found = generate(
        loaded.model,
        _prompts(loaded, asked),
        stop_ids=loaded.template.stop_ids,
        max_new_tokens=asked.max_new_tokens,
        batch_rows=asked.batch_rows,
        sampled=asked.sampled,
    )
    return [loaded.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in found]


def _prompts(loaded: Loaded, asked: Inference) -> list[list[int]]:
    """Encode the prompts, oldest shots and then oldest tokens dropped until the answer fits too."""
    room = max(1, loaded.context_tokens - asked.max_new_tokens)
    prompts: list[list[int]] = []
    for example in asked.examples:
        shots = list(asked.shots)
        ids = loaded.template.prompt_ids([*chain.from_iterable(shots), *example.prompt])
        while len(ids) > room and shots:
            shots.pop(0)
            ids = loaded.template.prompt_ids([*chain.from_iterable(shots), *example.prompt])
        prompts.append(ids[-room:])
    return prompts


def _label_scores(loaded: Loaded, asked: Inference) -> np.ndarray:
    from trainers.likelihood import label_scores
    from trainers.model import TargetLoss

    labels = [loaded.template.answer_ids(asked.examples[0].prompt, name) for name in asked.label_names]
    return label_scores(TargetLoss(loaded.model), _prompts(loaded, asked), labels)


def _likelihood(loaded: Loaded, asked: Inference) -> tuple[np.ndarray, np.ndarray]:
    """Sum each example's -log p over all its references; the number of target tokens beside it."""
    from trainers.likelihood import joined, negative_log_likelihoods
    from trainers.model import TargetLoss

    limit = min(loaded.context_tokens, asked.max_length or loaded.context_tokens)
    owners: list[int] = []
    encoded = []
    for index, example in enumerate(asked.examples):
        for reference in example.references:
            prompt = loaded.template.prompt_ids(example.prompt)
            ids, is_target = joined(prompt, loaded.template.answer_ids(example.prompt, reference))
            owners.append(index)
            encoded.append((ids[:limit], is_target[:limit]))
    nll = negative_log_likelihoods(TargetLoss(loaded.model), encoded)
    counts = [int(is_target.sum()) for _, is_target in encoded]
    size = len(asked.examples)
    return np.bincount(owners, nll, size), np.bincount(owners, counts, size).astype(np.int64)
