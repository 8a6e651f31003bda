"""The record of a retraining: what was asked for, why, with which rows, and how far it came.

One document an attempt, under the id of the child's run, written before that run begins and after every step. So
whoever comes after a crash goes on with the same child, and nobody begins a second one for the same cause.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationError

from cluster.errors import StoreError
from cluster.records import GateDecision, Record
from cluster.store import Store
from serving.material import RowCounts

RETRAINING = "retraining"
State = Literal["begun", "accepted", "deployed", "refused", "failed"]
UNFINISHED = ("begun", "accepted")


class Retraining(Record):
    """One attempt at a child; also what `hone retrain` prints."""

    endpoint: str
    run: str = Field(description="the child's run")
    cause: str
    started_s: float
    parent_run: str
    parent_release: str
    material: str = Field(description="the key of its rows in the store")
    rows: RowCounts
    leaked: int | None = Field(default=None, description="training rows that the audit dropped as too close to a test")
    gate: list[str] = Field(default_factory=list, description="the rules that the child has to pass")
    state: State = "begun"
    why: str = ""
    decision: GateDecision | None = None
    version: str | None = None
    experiment: str | None = None
    arm: str | None = None
    ended_s: float | None = None
    is_dry: bool = Field(default=False, description="whether nothing was done")

    @property
    def is_unfinished(self) -> bool:
        """Whether there is something left to do."""
        return self.state in UNFINISHED

    def lines(self) -> list[str]:
        """Return it for a reader."""
        rows = self.rows
        told = [
            f"{self.endpoint}: {'would retrain' if self.is_dry else 'a child of'} {self.parent_release} ({self.cause})",
            f"  new rows  {rows.train} to train on, {rows.validation} to validate, {rows.test} held out, "
            f"of {rows.units} units",
        ]
        if rows.replaced:
            told.append(f"  replaced  {rows.replaced} rows of the parent's training that users corrected")
        if rows.forgotten:
            told.append(f"  forgotten {rows.forgotten} rows of earlier feedback whose users were forgotten")
        left_out = ", ".join(f"{count} {reason}" for reason, count in sorted(rows.left_out.items()))
        told += [f"  left out  {left_out}"] if left_out else []
        if rows.unmatched:
            whose = "requests that nobody answered, whichever endpoint they were sent to"
            told.append(f"  unmatched {rows.unmatched} outcomes of {whose}")
        told += [f"  leaked    {self.leaked} training rows too close to a test, dropped"] if self.leaked else []
        told += [f"  gate      {rule}" for rule in self.gate]
        if self.is_dry:
            return told
        version = f", {self.version}" if self.version else ""
        told.append(f"  run       {self.run}{version}")
        if self.state == "deployed":
            told.append(f"  serves as challenger {self.arm} in the experiment {self.experiment}")
            told.append(f"  next: hone verdict {self.experiment}")
        else:
            told.append(f"  {self.state}: {self.why}")
        return told


def write(store: Store, attempt: Retraining) -> Retraining:
    """Write an attempt whole."""
    store.put_json(attempt.model_dump(mode="json"), RETRAINING, attempt.endpoint, f"{attempt.run}.json")
    return attempt


def attempts(store: Store, endpoint: str) -> list[Retraining]:
    """Return an endpoint's attempts, the oldest first. Raises StoreError for one that is damaged."""
    found: list[Retraining] = []
    for name in store.list(RETRAINING, endpoint):
        if name.endswith(".json"):
            try:
                found.append(Retraining.model_validate(store.get_json(RETRAINING, endpoint, name)))
            except ValidationError as error:
                where = store.path(RETRAINING, endpoint, name)
                raise StoreError(f"{name} is damaged: {error.errors()[0]['msg']}", "Remove it.", where) from error
    return sorted(found, key=lambda one: one.started_s)
