"""A caller's request → the arm that answers it, the answer, and the row that records both.

The state of the endpoint is one immutable `Snapshot`, read once at a request's start: whatever changes meanwhile, a
request has one arm, one epoch, and the probabilities that were in force when its arm was chosen, before it queued
anywhere. An arm that is not ready takes no part in the split; one that fails a request has failed it, and no other arm
steps in.

An arm may shadow the others: it answers some of their requests too, nobody sees its answers, and its rows are marked
as chosen by no split, so that they count for its load and its errors, never for an experiment.

Nothing here knows HTTP or Ray: arms are whatever answers requests, the spool whatever takes rows.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from cluster.errors import HoneError, NotServing, Overloaded, RequestRefused, StoreError
from cluster.personal_data import mask_personal_data
from serving.arm import LONGEST_S
from serving.callers import Caller
from serving.endpoint import Endpoint
from serving.generation import GenerationRequest, Piece
from serving.ledger_rows import Exposure, Row, Status
from serving.live_prompts import FEATURES, Measure
from serving.meters import Meters
from serving.openai_answers import Usage
from serving.openai_requests import Asked
from serving.split import Split

MOST_SHADOWS = 64
log = logging.getLogger("hone.serving")


class Answering(Protocol):
    """An arm: answers a request piece by piece, and frees its place when nobody listens any more."""

    def answer(self, request: GenerationRequest) -> AsyncGenerator[Piece]:
        """Yield the pieces of the answers. Raises HoneError."""
        ...


class Recording(Protocol):
    """Where rows go."""

    def begin(self, row: Exposure) -> None:
        """Take the row of a request that begins, which holds until its own row comes. Raises StoreError."""
        ...

    def add(self, row: Row, *, durable: bool = False) -> None:
        """Take a row; ``durable`` waits until the disk has it. Raises StoreError."""
        ...


@dataclass(frozen=True)
class Snapshot:
    """The endpoint as it is now: its document, the arms that are ready, and the split between those.

    ``measure`` turns prompts into numbers where those are kept.
    """

    endpoint: Endpoint
    ready: Mapping[str, Answering]
    split: Split
    measure: Measure

    @classmethod
    def of(cls, endpoint: Endpoint, ready: Mapping[str, Answering], measure: Measure | None = None) -> Snapshot:
        """Return the state in which the arms of ``ready`` answer."""
        return cls(endpoint, ready, Split(endpoint.split_salt, endpoint.weights, ready.keys()), measure or Measure())

    @property
    def experiment(self) -> str | None:
        """The experiment's name."""
        return self.endpoint.experiment.name if self.endpoint.experiment else None


class Gateway:
    """One ingress replica's way from requests to arms. Everything runs in one event loop."""

    def __init__(
        self,
        snapshot: Snapshot,
        spool: Recording,
        meters: Meters,
        clock: Callable[[], float] = time.time,
        longest_s: float = LONGEST_S,
    ) -> None:
        self._spool, self.meters, self._clock, self._longest_s = spool, meters, clock, longest_s
        self._shadows: set[asyncio.Task[None]] = set()
        self.snapshot = snapshot
        self.show()

    def show(self) -> None:
        """Let the meters say what is in force."""
        self.meters.in_force(self.snapshot.experiment, self.snapshot.split.probabilities)

    def begin(self, now: Snapshot, caller: Caller, asked: Asked) -> Exchange:
        """Choose the arm of a request, and return its exchange. Raises NotServing, and RequestRefused."""
        arm = caller.forced_arm if caller.forced_arm is not None else now.split.arm_of(caller.unit)
        if arm is None:
            raise NotServing("no arm is ready", "Send the request again.")
        if arm not in now.endpoint.arms:
            raise RequestRefused(f"there is no arm {arm!r}", f"The arms are {', '.join(now.endpoint.arms)}.")
        if arm not in now.ready:
            raise NotServing(f"the arm {arm} is not ready", "Send the request again.")
        exchange = self._exchange(now, arm, caller, asked)
        if caller.forced_arm is None:
            self._let_shadow(exchange)
        return exchange

    def _exchange(
        self, now: Snapshot, arm: str, caller: Caller, asked: Asked, shadow_of: str | None = None
    ) -> Exchange:
        request = asked.generation(now.endpoint.arms[arm].generation)
        prefix = "chatcmpl" if asked.is_chat else "cmpl"
        exchange = Exchange(
            request=f"{prefix}-{uuid.uuid4().hex}",
            now=now,
            arm=arm,
            caller=caller,
            asked=asked,
            generation=request,
            time_s=self._clock(),
            deadline_s=asyncio.get_running_loop().time() + self._longest_s,
            record=self._record,
            shadow_of=shadow_of,
        )
        self.meters.begun(now.experiment, arm)
        self._taking(self._spool.begin, exchange.row_if_lost())
        return exchange

    def _let_shadow(self, seen: Exchange) -> None:
        """Let ready arms that shadow the others answer this request too, in the background, so many at once."""
        for name, arm in seen.now.endpoint.arms.items():
            is_chosen = name != seen.arm and name in seen.now.ready and random.random() * 100 < arm.shadow
            if not is_chosen or len(self._shadows) >= MOST_SHADOWS:
                continue
            with suppress(RequestRefused):
                shadow = self._exchange(seen.now, name, seen.caller, seen.asked, shadow_of=seen.request)
                task = asyncio.get_running_loop().create_task(_unseen(shadow))
                self._shadows.add(task)
                task.add_done_callback(self._shadows.discard)

    def keep(self, row: Row) -> None:
        """Take a row that must be on disk before its sender hears of it. Raises StoreError."""
        self._spool.add(row, durable=True)
        self.meters.fed_back()

    def _record(self, row: Exposure) -> None:
        first = row.first_token_s
        tokens = (row.tokens_in, row.tokens_out)
        self.meters.ended(row.experiment, row.arm, row.status, row.latency_s or 0.0, first, tokens)
        self._taking(self._spool.add, row)

    def _taking(self, take: Callable[[Exposure], None], row: Exposure) -> None:
        """Let the spool take a row; one that is full or gone never fails an answer."""
        try:
            take(row)
        except StoreError as error:
            self.meters.ledger_refused()
            log.error("%s", error.what)


@dataclass(eq=False)
class Exchange:
    """One request on its way through its arm; recorded once, however it ends."""

    request: str
    now: Snapshot
    arm: str
    caller: Caller
    asked: Asked
    generation: GenerationRequest
    time_s: float
    deadline_s: float
    record: Callable[[Exposure], None]
    shadow_of: str | None = None
    usage: Usage = field(default_factory=Usage)
    _began_s: float = field(default_factory=time.perf_counter)
    _first_token_s: float | None = None
    _text: list[str] = field(default_factory=list[str])
    _num_characters: int = 0

    @property
    def about(self) -> dict[str, Any]:
        """What every answer says of where it comes from."""
        return {
            "request": self.request,
            "arm": self.arm,
            "experiment": self.now.experiment,
            "epoch": self.now.endpoint.epoch,
        }

    async def pieces(self) -> AsyncGenerator[Piece]:
        """Yield the pieces of the answers. Raises HoneError; closing it early frees the arm's place."""
        status: Status = "cancelled"
        try:
            async with aclosing(self.now.ready[self.arm].answer(self.generation)) as items:
                while (piece := await self._next(items)) is not None:
                    self._note(piece)
                    yield piece
            status = "ok"
        except RequestRefused:
            status = "refused"
            raise
        except Overloaded:
            status = "overloaded"
            raise
        except Exception:
            status = "failed"
            raise
        finally:
            self.record(self._row(status))

    async def _next(self, items: AsyncGenerator[Piece]) -> Piece | None:
        """Return the next piece, None after the last. Raises NotServing where the request has had its time."""
        try:
            async with asyncio.timeout_at(self.deadline_s):
                return await anext(items, None)
        except TimeoutError:
            raise NotServing("the answer took too long", "Send the request again, or ask for less.") from None

    def _note(self, piece: Piece) -> None:
        if self._first_token_s is None:
            self._first_token_s = time.perf_counter() - self._began_s
        self.usage.add(piece)
        self._num_characters += len(piece.text)
        if self.now.endpoint.log == "text":
            self._text.append(piece.text)

    def row_if_lost(self) -> Exposure:
        """Return what is known of the request should its end never be seen."""
        return self._row("lost").model_copy(update={"latency_s": None})

    def _row(self, status: Status) -> Exposure:
        return Exposure(
            request=self.request,
            endpoint=self.now.endpoint.name,
            experiment=self.now.experiment,
            arm=self.arm,
            unit=self.caller.unit,
            has_unit=self.caller.has_unit,
            probabilities=self.now.split.probabilities,
            epoch=self.now.endpoint.epoch,
            time_s=self.time_s,
            latency_s=time.perf_counter() - self._began_s,
            first_token_s=self._first_token_s,
            tokens_in=self.usage.prompt_tokens,
            tokens_out=self.usage.completion_tokens,
            status=status,
            forced=self.caller.forced_arm is not None or self.shadow_of is not None,
            kept=self._shadowed() | (self._kept() if status != "lost" else {}),
            consent=self.caller.consent,
        )

    def _shadowed(self) -> dict[str, Any]:
        return {} if self.shadow_of is None else {"shadow_of": self.shadow_of}

    def _kept(self) -> dict[str, Any]:
        """Return what the endpoint's ``log`` lets be kept of prompt and answer."""
        if self.now.endpoint.log == "off":
            return {}
        prompt = self.asked.text
        kept: dict[str, Any] = {
            "prompt_characters": len(prompt),
            "turns": self.asked.num_turns,
            "answer_characters": self._num_characters,
        }
        if self.now.endpoint.log == "features":
            kept[FEATURES] = self.now.measure.kept_features(prompt)
        if self.now.endpoint.log == "text":
            kept |= {"prompt": mask_personal_data(prompt), "answer": mask_personal_data("".join(self._text))}
            if self.generation.n > 1:
                kept["answers"] = self.generation.n
            if [role for role, _ in self.asked.turns] not in ([], ["user"]):
                kept["messages"] = [
                    {"role": role, "content": mask_personal_data(words)} for role, words in self.asked.turns
                ]
        return kept


async def _unseen(exchange: Exchange) -> None:
    """Read an answer to its end for nobody; how it went is in its row."""
    with suppress(HoneError):
        async with aclosing(exchange.pieces()) as pieces:
            async for _ in pieces:
                pass
