"""An endpoint without a cluster: its document, arms that answer what they are told, and a spool that remembers."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

import httpx

from cluster.errors import HoneError, StoreError
from cluster.serve_spec import ExperimentSpec, GenerationSpec
from serving.app import application
from serving.callers import Keys
from serving.endpoint import Arm, Endpoint
from serving.gateway import Gateway, Snapshot
from serving.generation import GenerationRequest, Piece, TokenLogprob
from serving.ledger_rows import Exposure, Row
from serving.meters import Meters

WORDS = ("bill", "ing")


def arm(weight: float = 1.0, **changed: Any) -> Arm:
    fields = {
        "release": "m@1", "version": "m@1", "directory": "/m", "application": "support--a", "weight": weight,
        "generation": GenerationSpec(max_tokens=16),
    }  # fmt: skip
    return Arm.model_validate(fields | changed)


def endpoint(log: str = "features", unit: str = "user", **weights: float) -> Endpoint:
    arms = {name: arm(weight, version=f"m@{n}") for n, (name, weight) in enumerate(weights.items(), 1)}
    experiment = ExperimentSpec.model_validate({"name": "v2", "control": next(iter(arms)), "unit": unit})
    made = Endpoint.model_validate(
        {"name": "support", "salt": "salt", "arms": {}, "experiment": experiment if len(arms) > 1 else None, "log": log}
    )
    return made.after(arms, "serve", 1.0)


@dataclass
class ToldArm:
    """Answers every request with the same words, or with an error after so many of them."""

    words: tuple[str, ...] = WORDS
    error: HoneError | None = None
    asked: list[GenerationRequest] = field(default_factory=list)
    num_closed: int = 0

    async def answer(self, request: GenerationRequest) -> AsyncGenerator[Piece]:
        self.asked.append(request)
        try:
            for place, word in enumerate(self.words):
                is_last = place == len(self.words) - 1 and self.error is None
                for choice in range(request.n):
                    scored = (TokenLogprob(place, word, -0.5, ()),) if request.logprobs is not None else ()
                    finish = "stop" if is_last else None
                    yield Piece(choice, word, (place,), scored, finish, prompt_tokens=3, completion_tokens=place + 1)
            if self.error is not None:
                raise self.error
        finally:
            self.num_closed += 1


@dataclass
class Remembering:
    """A spool that keeps rows in memory, or takes none."""

    is_full: bool = False
    rows: list[Row] = field(default_factory=list)
    begun: list[Exposure] = field(default_factory=list)
    num_durable: int = 0

    def begin(self, row: Exposure) -> None:
        if self.is_full:
            raise StoreError("the disk is full", "make room")
        self.begun.append(row)

    def add(self, row: Row, *, durable: bool = False) -> None:
        if self.is_full:
            raise StoreError("the disk is full", "make room")
        self.rows.append(row)
        self.num_durable += durable


class Local:
    """The app over told arms, and a client of it."""

    def __init__(self, document: Endpoint, keys: Keys | None = None, **arms: ToldArm) -> None:
        self.arms = arms or {name: ToldArm() for name in document.arms}
        self.spool = Remembering()
        self.gateway = Gateway(Snapshot.of(document, self.arms), self.spool, Meters("support"), clock=lambda: 100.0)
        self.app = application(lambda: self.gateway, keys or Keys())

    def client(self, *, raise_app_exceptions: bool = True, **more: Any) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=raise_app_exceptions)
        return httpx.AsyncClient(transport=transport, base_url="http://here", **more)

    @property
    def rows(self) -> list[Any]:
        return self.spool.rows
