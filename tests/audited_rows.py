"""Clean rows made from a seed, and their audit data: what every audit test plants its one fault into.

Sentences are random made-up words between English function words: no two are alike, no topic repeats a phrase, and
each class of a classification set has words of its own. So an audit of them must be silent.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from trainers.audit_evidence import AuditData, TokenCounts
from trainers.duplicates import NearTexts, row_hashes
from trainers.minhash import near_duplicate_pairs
from trainers.rows import Row, SourceProblem

LINKS = ("the", "and", "with", "of", "is", "for the", "which was", "from", "that they", "into")
SYLLABLES = (
    "ka",
    "lo",
    "mi",
    "ren",
    "tus",
    "vel",
    "dor",
    "pin",
    "sha",
    "qua",
    "bel",
    "zor",
    "fen",
    "gri",
    "hul",
    "jas",
)


def _words(rng: random.Random, num: int) -> list[str]:
    return ["".join(rng.choices(SYLLABLES, k=3)) for _ in range(num)]


def _sentence(rng: random.Random, words: Sequence[str], num_words: int) -> str:
    return " ".join(f"{rng.choice(words)} {rng.choice(LINKS)}" for _ in range(num_words)) + " end."


def chat(prompt: str, answer: str, place: int = 0, **fields: object) -> Row:
    row = Row(({"role": "user", "content": prompt}, {"role": "assistant", "content": answer}), where=f"f.jsonl:{place}")
    return replace(row, **fields)


def labelled(text: str, label: str, place: int = 0) -> Row:
    return chat(text, label, place, label=label)


def clean_chats(num: int = 1500, seed: int = 0) -> list[Row]:
    rng = random.Random(seed)
    words = _words(rng, 800)
    return [chat(_sentence(rng, words, 8), _sentence(rng, words, 8 + rng.randrange(8)), i) for i in range(num)]


def clean_labels(num: int = 1500, num_classes: int = 5, seed: int = 0) -> list[Row]:
    rng = random.Random(seed)
    shared = _words(rng, 300)
    topics = [_words(rng, 40) for _ in range(num_classes)]
    return [
        labelled(
            _sentence(rng, shared[: 60 + i % 200] + topics[i % num_classes] * 6, 12), f"class {i % num_classes}", i
        )
        for i in range(num)
    ]


def audited(
    parts: dict[str, list[Row]] | list[Row],
    given: Sequence[str] = (),
    problems: Sequence[SourceProblem] = (),
    tokens: TokenCounts | None = None,
) -> AuditData:
    parts = parts if isinstance(parts, dict) else {"train": parts}
    rows = [row for part in parts.values() for row in part]
    split_of = np.repeat(np.arange(len(parts)), [len(part) for part in parts.values()])
    near = near_duplicate_pairs(NearTexts(rows), 0.8)
    return AuditData(rows, split_of, list(parts), row_hashes(rows), near, given, problems, tokens)


def places(rows: Sequence[Row], indices: Sequence[int]) -> list[str]:
    return [Path(rows[index].where).name for index in indices]
