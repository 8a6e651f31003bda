"""The embedded base model: a tokenizer and a Llama of about a million parameters, pretrained for about a minute.

It reads pieces of the standard library (sentences of docstrings, and code without its docstrings) and learns to say
from which file each comes: ``<|user|>piece<|end|><|assistant|>path/of/module.py<|end|>``. So it knows the language of
the library and has a chat template, but has never seen the task's labels as answers. No docstring that holds a
sentence of the held-out rows, or a near-duplicate of one, is in its corpus: pretraining on the test rows would make
every score a lie. A number of steps, not the clock, ends it.
"""

from __future__ import annotations

import ast
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainers.demo_data import Documented, Source, first_sentence
from trainers.folded_text import folded
from trainers.minhash import near_duplicate_pairs
from trainers.optimizer import learning_rate_frac

VOCABULARY = 2048
PAD, END, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %}<|assistant|>{% else %}<|user|>{% endif %}{{ message.content }}<|end|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
PIECE_TOKENS = 48
MIN_COPIED_WORDS = 4


@dataclass(frozen=True)
class Pretraining:
    """How the base is made; ``rows`` × ``length`` tokens a step."""

    steps: int = 480
    rows: int = 8
    length: int = 256
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    seed: int = 0
    hidden: int = 128
    layers: int = 4


@dataclass(frozen=True)
class Piece:
    """A stretch of text and the file it comes from."""

    text: str
    path: str


def corpus(
    library: Sequence[Source], labels: set[str], held_out: Sequence[str], similarity: float = 0.8
) -> list[Piece]:
    """Return what the base may read of the labels' packages: no held-out sentence, near-duplicate or copy of one."""
    chosen = [source for source in library if source.package in labels]
    docstrings = [(source.path, docstring) for source in chosen for _, docstring in source.documented()]
    copied = _CopyFinder(held_out)
    near = _near(held_out, [sentence for _, docstring in docstrings for sentence in _sentences(docstring)], similarity)
    pieces: list[Piece] = []
    for path, docstring in docstrings:
        sentences = _sentences(docstring)
        if near.isdisjoint(sentences) and not copied.within(docstring, 1):
            pieces += [Piece(sentence, path) for sentence in dict.fromkeys(sentences)]
    for source in chosen:
        pieces += [Piece(text, source.path) for text in _code(source) if not copied.within(text, MIN_COPIED_WORDS)]
    return pieces


def _sentences(docstring: str) -> list[str]:
    """Split a docstring; its first sentence is among them as the rows hold it."""
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", docstring)]
    found = [sentence for part in paragraphs for sentence in re.split(r"(?<=[.!?])\s+", part) if sentence]
    return list(dict.fromkeys([first_sentence(docstring), *found]))


def _near(held_out: Sequence[str], sentences: Sequence[str], similarity: float) -> set[str]:
    """Return the sentences that are held out, or near-duplicates of one that is, directly or by way of others."""
    texts = list(dict.fromkeys([*held_out, *sentences]))
    pairs = near_duplicate_pairs([folded(text) for text in texts], similarity)
    reached = np.zeros(len(texts), np.bool_)
    reached[: len(set(held_out))] = True
    while True:
        touched = reached[pairs.i] | reached[pairs.j]
        before = reached.sum()
        reached[pairs.i[touched]] = reached[pairs.j[touched]] = True
        if reached.sum() == before:
            return {text for text, is_reached in zip(texts, reached.tolist(), strict=True) if is_reached}


class _CopyFinder:
    """Finds held-out sentences inside longer texts, word by word, whatever the case and punctuation."""

    def __init__(self, held_out: Sequence[str]) -> None:
        self._by_length: defaultdict[int, set[tuple[str, ...]]] = defaultdict(set)
        for text in held_out:
            words = _words(text)
            self._by_length[len(words)].add(words)

    def within(self, text: str, min_words: int) -> bool:
        """Say whether a held-out sentence of at least that many words occurs in the text."""
        words = _words(text)
        return any(
            words[start : start + length] in copies
            for length, copies in self._by_length.items()
            if length >= max(1, min_words)
            for start in range(len(words) - length + 1)
        )


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.sub(r"[^a-z0-9]+", " ", text.lower()).split())


def _code(source: Source) -> Iterator[str]:
    """Yield the source without any docstring, cut before definitions."""
    lines = source.text.split("\n")
    for node in ast.walk(source.tree):
        if isinstance(node, Documented) and ast.get_docstring(node):
            docstring = node.body[0]
            for number in range(docstring.lineno - 1, docstring.end_lineno or docstring.lineno):
                lines[number] = ""
    block: list[str] = []
    for line in lines:
        if re.match(r"\s*(def|class|async def) ", line) and len(block) > 3:
            yield "\n".join(block)
            block = []
        if line.strip():
            block.append(line)
    if block:
        yield "\n".join(block)


def build_base(out: Path, pieces: Sequence[Piece], recipe: Pretraining, log: Callable[[str], None]) -> None:
    """Train tokenizer and model and write them as a Hugging Face directory, safetensors only."""
    tokenizer = _tokenizer(pieces)
    documents = _documents(pieces, tokenizer)
    log(f"base: pretraining on {sum(map(len, documents)):,} tokens of the standard library, {recipe.steps} steps")
    model = _pretrained(documents, len(tokenizer), recipe)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _tokenizer(pieces: Sequence[Piece]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, END, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((f"{piece.text}\n{piece.path}" for piece in pieces), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, model_max_length=256)
    fast.add_special_tokens({"additional_special_tokens": [USER, ASSISTANT]})
    fast.chat_template = TEMPLATE
    return fast


def _documents(pieces: Sequence[Piece], tokenizer: Any) -> list[list[int]]:
    end, user, assistant = tokenizer.convert_tokens_to_ids([END, USER, ASSISTANT])
    texts = tokenizer([piece.text for piece in pieces], add_special_tokens=False)["input_ids"]
    paths = tokenizer([piece.path for piece in pieces], add_special_tokens=False)["input_ids"]
    return [
        [user, *text[start : start + PIECE_TOKENS], end, assistant, *path, end]
        for text, path in zip(texts, paths, strict=True)
        for start in range(0, len(text), PIECE_TOKENS)
    ]


def _pretrained(documents: list[list[int]], vocabulary: int, recipe: Pretraining) -> Any:
    """Train next-token prediction over documents strung together, in a new order every pass."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=recipe.hidden,
        intermediate_size=3 * recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=recipe.weight_decay, fused=True
    )
    stream = _stream(documents, recipe)
    for step in range(recipe.steps):
        tokens_BT = torch.from_numpy(next(stream))
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * learning_rate_frac(step, recipe.steps, "cosine", 0.05)
        hidden_BTD = model.model(input_ids=tokens_BT, use_cache=False).last_hidden_state
        logits_NV = model.lm_head(hidden_BTD[:, :-1].flatten(0, 1))
        loss = torch.nn.functional.cross_entropy(logits_NV, tokens_BT[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return model


def _stream(
    documents: list[list[int]], recipe: Pretraining
) -> Iterator[np.ndarray[tuple[int, int], np.dtype[np.int64]]]:
    rng = random.Random(recipe.seed)
    held: list[int] = []
    size = recipe.rows * recipe.length
    while True:
        for document in rng.sample(documents, len(documents)):
            held += document
            if len(held) >= size:
                yield np.asarray(held[:size], dtype=np.int64).reshape(recipe.rows, recipe.length)
                held = held[size:]
