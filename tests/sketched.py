"""A release with a sketch, an endpoint that serves it, and a ledger with prompts: all that a look at drift needs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cluster.session import Settings
from cluster.sketch import Sketch, sketch_of
from cluster.store import Store
from cluster.token_features import Tokens
from serving import endpoint as endpoints
from serving.drift import look
from serving.drift_report import DriftReport
from serving.endpoint import Endpoint
from serving.ledger import Ledger
from serving.ledger_rows import Row
from serving.live_prompts import FEATURES, Measure
from tests.endpoints import arm, endpoint
from tests.experiment_rows import exposure
from tests.tiny import ticket_rows

MADE_S = 1000.0
Log = Literal["off", "features", "text"]


def tickets(count: int, seed: int = 0) -> list[str]:
    """Prompts without the number that makes each ticket its own: a count of rows tells any two sets apart."""
    return [re.sub(r" ?\bn\d+x\d+\b", "", row["text"]) for row in ticket_rows(count, seed)]


def parcels(texts: Sequence[str], every: int = 2) -> list[str]:
    """The same prompts, every so many of them about something that training never saw."""
    return [text if place % every else f"{text} parcel shipment lost" for place, text in enumerate(texts)]


@dataclass
class Served:
    """One release behind one endpoint, without a cluster."""

    home: Path
    release: Path
    log: Log = "text"

    def __post_init__(self) -> None:
        self.settings = Settings.from_env({"HONE_HOME": str(self.home)}, self.home.parent)
        self.store = Store(self.settings.home)
        self.sketch = Sketch.load(self.release)
        self.tokens = Tokens.find(self.release)
        self.serve(endpoint(log=self.log, main=1.0))

    def serve(self, document: Endpoint) -> None:
        arms = {name: arm(one.weight, directory=str(self.release)) for name, one in document.arms.items()}
        endpoints.write(self.store, document.model_copy(update={"arms": arms}))

    def asked(self, texts: Sequence[str], since_s: float = 2000.0, **more: Any) -> None:
        """Write one request a second, of a user each, as the gateway would."""
        measure = Measure(self.sketch, self.tokens)
        rows: list[Row] = []
        for place, text in enumerate(texts):
            kept = {"prompt": text} if self.log == "text" else {FEATURES: measure.kept_features(text)}
            fields = {"kept": kept, "endpoint": "support", "experiment": None, "unit": f"u{since_s}{place}"} | more
            rows.append(
                exposure(
                    f"r{since_s:.0f}-{place:05d}", fields.pop("unit"), "main", {"main": 1.0}, since_s + place, **fields
                )
            )
        self.write(rows)

    def write(self, rows: Sequence[Row]) -> None:
        with closing(Ledger.open(self.settings)) as ledger:
            ledger.write(rows)

    def look(self, now_s: float = 1e6) -> DriftReport:
        return look("support", self.settings, now_s)


def sketched(release: Path, texts: Sequence[str], classes: Sequence[str] = ("access", "billing", "bugs")) -> Sketch:
    """Give a model's directory the sketch of these prompts."""
    made = sketch_of(texts, "m@1", MADE_S, classes=classes, tokens=Tokens.find(release), model=release)
    made.save(release)
    return made
