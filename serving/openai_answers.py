"""Pieces of answers → OpenAI's response bodies and stream chunks.

One `Wording` for each kind of request, both with the same few methods, so that the endpoint's code knows neither's
shape. A stream's first chunk of a choice carries its role together with its first text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from serving.generation import Piece, TokenLogprob

DONE = b"data: [DONE]\n\n"
IMPOSSIBLE = -9999.0


@dataclass
class Usage:
    """Tokens read and written so far, over all choices."""

    prompt_tokens: int = 0
    written: dict[int, int] = field(default_factory=dict[int, int])

    def add(self, piece: Piece) -> None:
        """Count a piece in."""
        self.prompt_tokens = piece.prompt_tokens
        self.written[piece.choice] = piece.completion_tokens

    @property
    def completion_tokens(self) -> int:
        """Tokens of all choices."""
        return sum(self.written.values())

    def as_json(self) -> dict[str, int]:
        """Return OpenAI's counts."""
        done = self.completion_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": done,
            "total_tokens": self.prompt_tokens + done,
        }


@dataclass(frozen=True)
class Wording:
    """How the answers to one request are put; ``about`` is what else its body says (arm, epoch, …)."""

    request: str
    model: str
    created: int
    is_chat: bool
    about: Mapping[str, object]

    def whole(self, pieces: Sequence[Piece], usage: Usage) -> dict[str, Any]:
        """Return the body of an answer that is not streamed."""
        by_choice: dict[int, list[Piece]] = {}
        for piece in pieces:
            by_choice.setdefault(piece.choice, []).append(piece)
        kind = "chat.completion" if self.is_chat else "text_completion"
        choices = [self._whole_choice(number, mine) for number, mine in sorted(by_choice.items())]
        return self._head(kind) | {"choices": choices, "usage": usage.as_json(), "hone": dict(self.about)}

    def chunk(self, piece: Piece, shown: dict[int, int]) -> bytes:
        """Return one piece as a line of the stream; ``shown`` counts the characters sent of each choice."""
        before = shown.get(piece.choice)
        shown[piece.choice] = (before or 0) + len(piece.text)
        choice: dict[str, Any] = {"index": piece.choice, "finish_reason": piece.finish}
        if self.is_chat:
            role = {"role": "assistant"} if before is None else {}
            choice |= {"delta": role | ({"content": piece.text} if piece.text or role else {})}
            choice |= {"logprobs": {"content": [*map(_scored, piece.logprobs)]} if piece.logprobs else None}
        else:
            choice |= {"text": piece.text, "logprobs": _listed(piece.logprobs, before or 0)}
        return _line(self._head(self._chunk_kind) | {"choices": [choice]})

    def last_chunk(self, usage: Usage) -> bytes:
        """Return the line of the stream that holds the counts."""
        return _line(self._head(self._chunk_kind) | {"choices": [], "usage": usage.as_json()})

    @property
    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self.is_chat else "text_completion"

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.request, "object": kind, "created": self.created, "model": self.model}

    def _whole_choice(self, number: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        text = "".join(piece.text for piece in pieces)
        scored = [scored for piece in pieces for scored in piece.logprobs]
        choice: dict[str, Any] = {"index": number, "finish_reason": pieces[-1].finish}
        if not self.is_chat:
            return choice | {"text": text, "logprobs": _listed(scored, 0)}
        message = {"role": "assistant", "content": text, "refusal": None}
        return choice | {"message": message, "logprobs": {"content": [*map(_scored, scored)]} if scored else None}


def error_body(what: str, kind: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """Return an error in OpenAI's shape."""
    return {"error": {"message": what, "type": kind, "param": param, "code": code}}


def error_line(body: Mapping[str, Any]) -> bytes:
    """Return an error as a line of a stream that has begun."""
    return _line(body)


def _line(value: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def _scored(scored: TokenLogprob) -> dict[str, Any]:
    top = [_token(other.text, other.logprob) for other in scored.top]
    return _token(scored.text, scored.logprob) | {"top_logprobs": top}


def _token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": _finite(logprob), "bytes": list(text.encode("utf-8", "surrogatepass"))}


def _finite(logprob: float) -> float:
    """Return a log probability that JSON has a word for; OpenAI's own for an impossible token."""
    return max(logprob, IMPOSSIBLE)


def _listed(scored: Sequence[TokenLogprob], offset: int) -> dict[str, Any] | None:
    """Return log probabilities as /v1/completions has them: lists side by side."""
    if not scored:
        return None
    offsets: list[int] = []
    for one in scored:
        offsets.append(offset)
        offset += len(one.text)
    return {
        "tokens": [one.text for one in scored],
        "token_logprobs": [_finite(one.logprob) for one in scored],
        "top_logprobs": [{other.text: _finite(other.logprob) for other in one.top} for one in scored],
        "text_offset": offsets,
    }
