"""A tiny base model and a data set that it can learn in seconds, made on the spot."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tests.llamas import llama
from trainers.quiet import quiet_libraries

KEYWORDS = {
    "billing": ["invoice", "refund", "charge"],
    "access": ["password", "login", "locked"],
    "bugs": ["crash", "error", "freeze"],
}
FILLER = [
    "please",
    "help",
    "me",
    "with",
    "my",
    "account",
    "today",
    "it",
    "is",
    "about",
    "the",
    "app",
    "and",
    "i",
    "am",
    "not",
    "sure",
    "what",
    "to",
    "do",
    "next",
]


def ticket_rows(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Rows of text and label, the label decided by one keyword among filler words."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        label = rng.choice(list(KEYWORDS))
        words = [*rng.sample(FILLER, 6), rng.choice(KEYWORDS[label]), f"n{number}x{rng.randrange(10**6)}"]
        rng.shuffle(words)
        rows.append({"text": " ".join(words), "label": label})
    return rows


def write_jsonl(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_base(path: Path, *, seed: int = 0) -> Path:
    """A Llama of about 60,000 parameters with a byte-level tokenizer and no chat template."""
    quiet_libraries()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|end|>", "<|begin|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((row["text"] + " " + row["label"] for row in ticket_rows(300)), trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        bos_token="<|begin|>",
        pad_token="<|end|>",
        model_max_length=128,
    ).save_pretrained(path)
    torch.manual_seed(seed)
    config = llama(
        (48, 96, 2, len(tokenizer.get_vocab())),
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=1,
        eos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    return path


def write_diverging_base(path: Path) -> Path:
    """The same with a weight that is no number, so that its first loss is none."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(write_base(path))
    model.model.norm.weight.data[0] = float("nan")
    model.save_pretrained(path)
    return path
