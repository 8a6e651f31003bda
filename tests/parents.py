"""An endpoint whose release was trained here: run, prepared rows and release without a training, and its feedback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.records import Release
from cluster.session import Settings
from cluster.store import Store
from serving import endpoint as endpoints
from serving.endpoint import Endpoint
from serving.ledger import Ledger
from serving.ledger_rows import Exposure, Outcome, Row
from tests.checked_sets import checked_set
from tests.endpoints import arm

RUN = "router-20260301-120000-abcd"
LABELS = ("billing", "access", "bugs")


def old_rows(count: int, begin: int = 0) -> list[dict[str, str]]:
    return [
        {"text": f"old question {n} about {LABELS[n % 3]}", "label": LABELS[n % 3]} for n in range(begin, begin + count)
    ]


@dataclass
class World:
    """A home with one endpoint that serves router@1."""

    settings: Settings
    store: Store

    @property
    def endpoint(self) -> Endpoint:
        return endpoints.read(self.store, "support")

    def change(self, **fields: Any) -> None:
        endpoints.write(self.store, Endpoint.model_validate(self.endpoint.model_dump() | fields))

    def write(self, rows: Sequence[Row]) -> None:
        with closing(Ledger.open(self.settings)) as ledger:
            ledger.write(rows)


def world(
    tmp_path: Path,
    log: str = "text",
    *,
    label: str = "label",
    job: dict[str, Any] | None = None,
    fix: Sequence[str] = (),
    tested: Sequence[dict[str, str]] = (),
    **retrain: Any,
) -> World:
    """Make it; ``label`` is the column of the parent's labels, ``job`` changes its job, ``tested`` are more tests.

    ``fix`` is what the parent's job says, its rows are as given: what it found in them is another matter than what a
    child would.
    """
    home = tmp_path / "home"
    store = Store(str(home))
    rows_of = {"train": old_rows(60), "validation": old_rows(9, 100), "test": [*old_rows(9, 200), *tested]}
    files = {name: [{"text": row["text"], label: row["label"]} for row in rows] for name, rows in rows_of.items()}
    columns = {"label": label} if label != "label" else {}
    checked = checked_set(tmp_path / "set", files, audit={"allow": ["*"]}, columns=columns)
    with store.writing("data", "prepared") as fresh:
        shutil.copytree(checked.prepared.path, fresh, dirs_exist_ok=True)
    store.put_json({"prepared": "prepared", "data_hash": "d" * 64}, "runs", RUN, "data.json")
    gate = ["accuracy >= 0.5", "test.macro_f1 >= 0.4"]
    resolved = checked.job.model_dump(mode="json") | {"name": "router", "gate": gate} | (job or {})
    resolved["data"]["audit"]["fix"] = list(fix)
    with store.writing("runs", RUN, "release") as fresh:
        release = Release(
            name="router", run=RUN, method="full", base="./base", base_hash="", data_hash="d" * 64, job=resolved,
            versions={}, metrics={"test": {"accuracy": 0.8, "macro_f1": 0.7, "loss": 0.5}, "base": {}},
        )  # fmt: skip
        (fresh / "release.json").write_text(release.as_json())
        (fresh / "config.json").write_text("{}")
    directory = store.path("runs", RUN, "release")
    first = arm(1.0, release="router@1", version="router@1", directory=directory, application="support--first")
    fields = {"name": "support", "salt": "salt", "arms": {}, "log": log, "retrain": {"min_rows": 8} | retrain}
    endpoints.write(store, Endpoint.model_validate(fields).after({"first": first}, "serve", 1.0))
    return World(Settings.from_env({"HONE_HOME": str(home)}, tmp_path), store)


def exposure(named: str, text: str, unit: str, *, answer: str = "bugs", **changed: Any) -> Exposure:
    kept: dict[str, Any] = {"prompt": text, "answer": answer, "turns": 1}
    fields: dict[str, Any] = {
        "request": f"chatcmpl-{named}", "endpoint": "support", "experiment": None, "arm": "first", "unit": unit,
        "has_unit": True, "probabilities": {"first": 1.0}, "epoch": 1, "time_s": 10.0, "latency_s": 0.1,
        "tokens_in": 1, "tokens_out": 1, "kept": kept, "consent": True,
    }  # fmt: skip
    return Exposure.model_validate(fields | changed)


def said(request: str, *, correction: str | None = None, value: float | None = None, time_s: float = 20.0) -> Outcome:
    return Outcome(request=f"chatcmpl-{request}", time_s=time_s, name="success", value=value, correction=correction)


def correction(request: str, text: str, answer: str, unit: str, time_s: float = 20.0, **changed: Any) -> list[Row]:
    return [exposure(request, text, unit, **changed), said(request, correction=answer, time_s=time_s)]


def corrections(count: int, time_s: float = 20.0) -> list[Row]:
    """Corrections of as many users, each of a question of their own, with an answer that no old row has."""
    rows = [
        correction(f"c{n}", f"new question {n} about {'shipping' if n % 2 else 'returns'} {n * 7919}",
                   "shipping" if n % 2 else "returns", f"unit{n}", time_s + n)
        for n in range(count)
    ]  # fmt: skip
    return [row for pair in rows for row in pair]


def material_rows(store: Store, key: str, name: str) -> list[dict[str, Any]]:
    path = Path(store.path("material", key, f"{name}.jsonl"))
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
