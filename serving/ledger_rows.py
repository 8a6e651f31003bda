"""The ledger's two kinds of rows: who was answered by which arm, and what became of it.

An exposure is written when an answer ends, however it ended; an outcome whenever somebody says what it was worth. Both
are plain records of one line of JSON each, so that a spool on disk can hold what a database has not taken yet.

How it ended: ``failed`` is the arm's doing, ``overloaded`` was turned away before the arm began on it (429),
``refused`` asked for what no arm gives, ``cancelled`` had a caller who went away, and ``lost`` was under way when the
ingress was killed, so that nobody knows how it would have ended.
"""

from __future__ import annotations

import hashlib
from typing import Literal, NamedTuple

from pydantic import Field, JsonValue

from cluster.records import Record

Status = Literal["ok", "failed", "overloaded", "cancelled", "refused", "lost"]


class Exposure(Record):
    """One request and its answer.

    ``unit`` is a hash; where the client named none it is random, and ``has_unit`` false.
    """

    request: str
    endpoint: str
    experiment: str | None
    arm: str
    unit: str
    has_unit: bool
    probabilities: dict[str, float] = Field(description="of every arm of the endpoint, when the arm was chosen")
    epoch: int = Field(description="of the configuration that was in force")
    time_s: float = Field(description="when the arm was chosen, in seconds since 1970")
    latency_s: float | None = None
    first_token_s: float | None = None
    tokens_in: int = 0
    tokens_out: int = 0
    status: Status = "ok"
    forced: bool = Field(default=False, description="whether an administrator chose the arm")
    kept: dict[str, JsonValue] = Field(default_factory=dict, description="features, or redacted prompt and answer")
    consent: bool = False


class Outcome(Record):
    """What a request was worth: a ``value``, a ``label`` or a ``correction``, under the outcome's name."""

    request: str
    time_s: float
    name: str
    value: float | None = None
    label: str | None = None
    correction: str | None = None
    source: str = "client"

    @property
    def key(self) -> str:
        """The same for the same row written again; a statement that is made again later is another row.

        So whoever changes their mind twice has the last word, as with different values.
        """
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:32]


class Ending(NamedTuple):
    """How one request of a unit ended, and nothing else of it."""

    unit: str
    time_s: float
    status: Status


class Judgement(NamedTuple):
    """What a unit's request of ``time_s`` was called worth at ``said_s``."""

    unit: str
    time_s: float
    request: str
    said_s: float
    value: float


Row = Exposure | Outcome
