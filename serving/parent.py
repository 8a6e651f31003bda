"""The arm that an endpoint's traffic goes to → the release, run and prepared rows that a child goes on from.

A release says in its ``release.json`` which job made it; what it was trained and tested on lies prepared in the store.
Only a version has a child: the gate compares the child with the model's champion, and a directory that is in no
registry has none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import UsageError
from cluster.records import Release
from cluster.runs import RUNS
from serving.feedback_rows import Turn

if TYPE_CHECKING:
    from cluster.store import Store
    from serving.endpoint import Arm, Endpoint

DATA_DOCUMENTS = ("winner.json", "data.json")
"""What the data stage left: of a sweep, the winner's comes first."""
TRAIN, VALIDATION = "train", "validation"
LABEL, GROUP = NAMED_ANEW = ("label", "group")
"""What a child's files call these columns, whatever the parent's did."""


@dataclass(frozen=True)
class Parent:
    """What a child goes on from; ``prepared`` is the directory of the rows that the parent was made with."""

    arm: str
    version: str
    release: Release
    prepared: Path
    tests: list[str]
    task: str
    renamed: dict[str, str]
    """Its columns of labels and groups → what the material calls them, where that differs."""

    def rows(self, split: str) -> Iterator[dict[str, Any]]:
        """Yield the rows of a split as the data stage wrote them; none where there are none."""
        import pyarrow.parquet as pq

        path = self.prepared / "rows" / f"{split}.parquet"
        if not path.exists():
            return
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(1000):
                for row in batch.to_pylist():
                    yield row | {"messages": json.loads(row["messages"]), "extra": json.loads(row["extra"])}


def main_arm(endpoint: Endpoint) -> str:
    """Return the arm that has most of the traffic, the experiment's control of equals."""
    control = endpoint.experiment.control if endpoint.experiment else None
    return max(endpoint.arms, key=lambda name: (endpoint.arms[name].weight, name == control))


def parent_of(endpoint: Endpoint, store: Store) -> Parent:
    """Return what a child of the endpoint's main arm goes on from. Raises UsageError where it can have none."""
    name = main_arm(endpoint)
    arm = endpoint.arms[name]
    release = _release_of(arm)
    if arm.version is None or release is None or not release.run:
        raise UsageError(
            f"the arm {name} of {endpoint.name} serves {arm.release}, which is no version that hone trained",
            "Serve NAME@N: a child is compared with its model's champion, on the rows its parent was tested on.",
        )
    document = next((one for one in DATA_DOCUMENTS if store.exists(RUNS, release.run, one)), None)
    if document is None:
        raise UsageError(
            f"the run {release.run} behind {arm.version} is not in {store.path()}",
            "Retrain where it was trained, or with the HONE_HOME that holds it.",
        )
    prepared = store.reading("data", store.get_json(RUNS, release.run, document)["prepared"])
    record = json.loads((prepared / "prepared.json").read_text(encoding="utf-8"))
    return Parent(name, arm.version, release, prepared, record["tests"], record["task"], _renamed(record["files"]))


def _renamed(files: Iterable[dict[str, Any]]) -> dict[str, str]:
    named = [(theirs, ours) for file in files for ours, theirs in file["columns"].items()]
    return {theirs: ours for theirs, ours in named if ours in NAMED_ANEW and theirs != ours}


def turns_of(row: dict[str, Any]) -> tuple[Turn, ...]:
    """Return the turns before a prepared row's answer."""
    return tuple((str(turn["role"]), str(turn.get("content") or "")) for turn in row["messages"][:-1])


def _release_of(arm: Arm) -> Release | None:
    about = Path(arm.directory) / "release.json"
    return Release.model_validate_json(about.read_text(encoding="utf-8")) if about.is_file() else None
