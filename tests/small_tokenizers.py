"""Tokenizers small enough to know by heart, and chat templates of the kinds that are in use.

`spelled` is their oracle: text in which ``[[ ]]`` encloses the target becomes ids and mask without any tokenizer.
"""

from __future__ import annotations

import re
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

SPECIAL = ["<unk>", "<s>", "</s>", "<|start|>", "<|end|>"]

CHATML = (
    "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{{ '\n' }}{% endif %}"
)
# Phi-3 closes the whole conversation with a second token.
CLOSED_TWICE = CHATML + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
# Mistral opens no turn for the assistant.
BRACKETS = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
    "{% else %}[{{ m.role }}] {{ m.content }} [/]{% endif %}{% endfor %}"
)
# Alpaca and Vicuna have no special tokens.
HEADINGS = (
    "{% for m in messages %}# {{ m.role }}\n{{ m.content }}{{ '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}# assistant{{ '\n' }}{% endif %}"
)
# Qwen3 drops the thoughts of earlier turns.
FORGETFUL = (
    "{% for m in messages %}<|start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


def bytewise(**keys: Any) -> Any:
    """Return a tokenizer with a token for each byte and each special token, and no merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: place for place, token in enumerate([*SPECIAL, *alphabet])}
    return _wrapped(_byte_level(Tokenizer(models.BPE(vocab=vocabulary, merges=[]))), **keys)


def merging(texts: list[str], **keys: Any) -> Any:
    """Return a byte-level BPE tokenizer trained on the texts, merging even over spaces and line breaks."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _wrapped(tokenizer, **keys)


def prefixing(texts: list[str], **keys: Any) -> Any:
    """Return a tokenizer that knows these texts whole and, like SentencePiece, begins every piece with a space."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Prepend("▁")
    trainer = trainers.WordLevelTrainer(special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return _wrapped(tokenizer, **keys)


def spelled(marked: str) -> tuple[list[int], list[bool]]:
    """Return the bytewise ids of a text and which of them are targets: those between ``[[`` and ``]]``."""
    ids: list[int] = []
    is_target: list[bool] = []
    inside = False
    for part in re.split(r"(\[\[|\]\]|" + "|".join(map(re.escape, SPECIAL)) + ")", marked):
        if part in ("[[", "]]"):
            inside = part == "[["
            continue
        found = [SPECIAL.index(part)] if part in SPECIAL else [len(SPECIAL) + _rank(byte) for byte in part.encode()]
        ids += found
        is_target += [inside] * len(found)
    return ids, is_target


def _rank(byte: int) -> int:
    """Return a byte's place in the sorted byte-level alphabet: printable bytes stand for themselves (GPT-2)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [other for other in range(256) if other not in printable]
    shown = {other: chr(256 + place) for place, other in enumerate(others)} | {other: chr(other) for other in printable}
    return sorted(shown.values()).index(shown[byte])


def _byte_level(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _wrapped(tokenizer: Tokenizer, **keys: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"} | keys
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{name: token for name, token in names.items() if token is not None}
    )
    wrapped.add_special_tokens({"additional_special_tokens": ["<|start|>", "<|end|>"]})
    return wrapped
