"""What an engine is asked and what it answers with: plain values that cross threads and processes.

A request is checked where it is made, so that a bound that is broken is named before anything waits for it; what only
a model knows (its context, its vocabulary) the engine checks. An answer comes in pieces. A piece's text and tokens
belong together: a token is given out with the end of its text, so neither shows the beginning of a stop text or half a
character. Left out: OpenAI's field names and shapes, which are the endpoint's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cluster.errors import RequestRefused

Message = Mapping[str, Any]
"""A turn as OpenAI writes it: role, content, and what else the chat template reads."""

Prompt = str | tuple[int, ...] | tuple[Message, ...]
"""Plain text, token ids as they are, or the turns of a chat."""

Finish = Literal["stop", "length"]

MAX_TOP_LOGPROBS = 20
MAX_STOP_TEXTS = 16


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt and how it is answered; raises RequestRefused for a value outside its bounds.

    ``temperature`` 0 takes the likeliest token. ``seed`` None draws one. ``n`` answers are written side by side.
    ``logprobs`` is the number of alternatives that each token's log probability comes with, None for none at all.
    """

    prompt: Prompt
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    n: int = 1
    logprobs: int | None = None

    def __post_init__(self) -> None:
        _within("max_tokens", self.max_tokens, 1, None)
        _within("temperature", self.temperature, 0, 2)
        _within("top_p", self.top_p, 0, 1)
        _within("n", self.n, 1, None)
        _within("logprobs", self.logprobs or 0, 0, MAX_TOP_LOGPROBS)
        _within("the number of stop texts", len(self.stop), 0, MAX_STOP_TEXTS)
        if self.top_p == 0:
            raise RequestRefused("top_p is 0, which leaves no token to choose", "Give a top_p above 0, at most 1.")
        if "" in self.stop:
            raise RequestRefused("a stop text is empty", "Leave it out, or give at least one character.")


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token that might have been chosen, and the natural logarithm of its probability."""

    token_id: int
    text: str
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The chosen token's log probability and the likeliest tokens in its place, best first.

    Probabilities are the model's own, before temperature and top_p.
    """

    token_id: int
    text: str
    logprob: float
    top: tuple[Alternative, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """What an answer has grown by; ``finish`` is set on its last piece.

    ``choice`` counts the request's answers from 0. ``token_ids`` are those of ``text``; a token that ended the answer
    is the last one, a stop text's are left out. ``completion_tokens`` counts all tokens written so far for this choice.
    """

    choice: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]
    finish: Finish | None
    prompt_tokens: int
    completion_tokens: int


def _within(name: str, value: float, low: float, high: float | None) -> None:
    """Raise RequestRefused unless a value lies in its bounds; what is no number lies in none."""
    if not math.isfinite(value) or value < low or (high is not None and value > high):
        bound = f"at least {low}" if high is None else f"{low} to {high}"
        raise RequestRefused(f"{name} is {value}, but must be {bound}", f"Give {name} in these bounds.")
