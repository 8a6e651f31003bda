"""What an arm needs of an engine: requests in, pieces of answers out.

Two engines keep this promise (tests/contracts): iteration-level batching over transformers, on any machine, and vLLM
where it is installed. An engine lives in its replica's process; it is used from one event loop or several.

    async with engine.submit(request) as stream:
        async for piece in stream: ...

``submit`` refuses at once: what is outside the model's bounds (RequestRefused), more than may wait (Overloaded), a
closing engine (NotServing).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, Protocol

from cluster.errors import RequestRefused, UsageError
from cluster.places import local_directory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from serving.generation import GenerationRequest
    from serving.stream import Stream

EngineKind = Literal["transformers", "vllm"]


@dataclass(frozen=True)
class Limits:
    """How much an engine takes on at once.

    ``max_running`` answers are written side by side, and ``max_waiting`` requests wait behind them. Between two tokens
    of those running at most ``prefill_tokens`` of new prompts are read (one prompt at least). ``cache_tokens`` bounds
    rows times the longest of them, None: by the memory that is free. ``flush_s`` is how long tokens gather before they
    are sent, the first excepted; longer where many answers are written, so that sending takes the same share.
    """

    max_running: int = 32
    max_waiting: int = 128
    prefill_tokens: int = 2048
    cache_tokens: int | None = None
    flush_s: float = 0.05


@dataclass(frozen=True)
class Statistics:
    """What an engine has done and has before it; ``running`` counts answers, everything else requests or tokens."""

    running: int
    waiting: int
    prompt_tokens: int
    completion_tokens: int
    completed: int
    cancelled: int
    failed: int


class Engine(Protocol):
    """One release that answers requests."""

    @property
    def context_tokens(self) -> int:
        """Tokens that prompt and answer may have together."""
        ...

    def submit(self, request: GenerationRequest) -> Stream:
        """Take a request; call it in an event loop. Raises RequestRefused, Overloaded or NotServing."""
        ...

    def statistics(self) -> Statistics:
        """Return what is going on. Any thread."""
        ...

    def check_health(self) -> None:
        """Raise NotServing where the engine can answer nothing any more and must be started again."""
        ...

    async def drain(self) -> None:
        """Take no more requests, and return when those taken are finished."""
        ...

    def close(self) -> None:
        """End at once; answers under way fail with NotServing."""
        ...


def open_engine(
    directory: str, kind: EngineKind = "transformers", limits: Limits | None = None, base: str | None = None
) -> Engine:
    """Load a release and start an engine on it. Raises BaseModelError, and UsageError for vllm that is not installed.

    Either may be the URL of an artifact. ``base`` is where an adapter's base lies, if not where the adapter says.
    """
    limits = limits or Limits()
    directory, base = local_directory(directory), base and local_directory(base)
    if kind == "vllm":
        if find_spec("vllm") is None:
            raise UsageError("the vllm engine is asked for, but vllm is not installed", "Install hone[vllm].")
        from serving.vllm_engine import VllmEngine

        return VllmEngine(directory, limits, base)
    from serving.batching import BatchingEngine
    from serving.load import load

    return BatchingEngine(load(directory, base=base), limits)


def fitted(ids: Sequence[int], request: GenerationRequest, context_tokens: int, num_ids: int) -> GenerationRequest:
    """Return the request as the model can take it, ``max_tokens`` shortened only where that is allowed.

    Raises RequestRefused for what does not fit: too many tokens, or ids that the model does not know.
    """
    room = context_tokens - len(ids)
    if request.may_shorten and 0 < room < request.max_tokens:
        request = replace(request, max_tokens=room)
    asked = len(ids) + request.max_tokens
    if asked > context_tokens:
        raise RequestRefused(
            f"the prompt's {len(ids)} tokens and max_tokens {request.max_tokens} make {asked}, but the model reads "
            f"{context_tokens}",
            f"Give at most {max(context_tokens - len(ids), 0)} as max_tokens, or a shorter prompt.",
        )
    unknown = [token_id for token_id in ids if not 0 <= token_id < num_ids]
    if unknown:
        raise RequestRefused(
            f"the prompt holds the token id {unknown[0]}, but the model knows 0 to {num_ids - 1}",
            "Give the ids of this model's own tokenizer.",
        )
    return request
