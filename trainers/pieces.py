"""Token ids and a loss mask → pieces of text that a person can read, one a token, nothing lost and nothing merged.

A tokenizer decodes a whole sequence, not a token: SentencePiece drops the first space, and a letter may be spread over
several tokens. So every token is decoded behind an anchor that is then taken off, and a token that ends within a letter
waits for the one that completes it. Personal data is hidden as a whole, ids included. Left out: how pieces look.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cluster.personal_data import find_personal_data

LOST = "\ufffd"
MAX_BYTES = 4
"""Bytes of one letter in UTF-8, and so the most tokens that it can be spread over."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One token: what it adds to the text, whether it is learned, and whether it is a special token.

    ``text`` is empty for a token that only begins a letter. ``hidden`` names the personal data that it is part of.
    """

    token: int
    text: str
    is_target: bool
    is_special: bool = False
    hidden: str = ""


def example_pieces(tokenizer: Any, ids: Sequence[int], is_target: Sequence[bool]) -> list[Piece]:
    """Return one piece for each token, in order; both sequences have shape (T,)."""
    special = {int(token): str(added) for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    special |= dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    texts: list[str] = []
    run: list[int] = []
    for token in ids:
        if token in special:
            texts += [*_run_texts(tokenizer, run), special[token]]
            run = []
        else:
            run.append(token)
    texts += _run_texts(tokenizer, run)
    hidden = _hidden(texts)
    return [
        Piece(int(token), text, bool(learned), token in special, kind)
        for token, text, learned, kind in zip(ids, texts, is_target, hidden, strict=True)
    ]


def _run_texts(tokenizer: Any, run: Sequence[int]) -> list[str]:
    """Return what each token of a run without special tokens adds to the text."""
    anchor, lost = _ids(tokenizer, "a")[-1:], _ids(tokenizer, f"a{LOST}")[len(_ids(tokenizer, "a")) :]
    front = len(_decoded(tokenizer, anchor))
    texts: list[str] = []
    waiting: list[int] = []
    for token in run:
        waiting.append(token)
        text = _decoded(tokenizer, [*anchor, *waiting])[front:]
        if not text.endswith(LOST) or waiting[-len(lost) :] == lost:
            texts += [*[""] * (len(waiting) - 1), text]
            waiting = []
        elif len(waiting) == MAX_BYTES:  # no letter is that long
            texts.append(_decoded(tokenizer, [*anchor, waiting.pop(0)])[front:])
    return texts + [_decoded(tokenizer, [*anchor, token])[front:] for token in waiting]


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _hidden(texts: Sequence[str]) -> list[str]:
    """Return for each piece of a text the kind of personal data that it is part of, or nothing."""
    kinds = [""] * len(texts)
    found = find_personal_data("".join(texts))
    end = 0
    for place, text in enumerate(texts):
        start, end = end, end + len(text)
        kinds[place] = next((item.kind for item in found if item.start < end and start < item.end), "")
    return kinds
