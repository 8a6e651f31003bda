"""A unit of an endpoint → none of its rows, in the ledger and in what waits for it on this machine's disk.

A living ingress writes its spool meanwhile and hands it over several times a second. So its files are not replaced:
rows are blanked where they lie, which a writer that only appends does not notice, and a reader passes over. A row may
have been read before it was blanked and be written after it was deleted; so this looks again, after the files that held
rows have gone, until nothing is found.

What is asked later is kept anew. Left out: requests under way, which leave their rows when they end; releases that were
trained with a correction of the unit; logs outside of hone.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

from pydantic import Field, ValidationError

from cluster.errors import RunFailed
from cluster.records import Record
from cluster.session import Settings
from cluster.store import Store
from serving import endpoint as endpoints
from serving.callers import MOST_UNIT_CHARACTERS, unit_hash
from serving.ingress import spool_directory
from serving.ledger import Ledger
from serving.ledger_rows import Exposure, Outcome, Row
from serving.spool import CLOSED, OPEN, REFUSED, ROW
from serving.under_way import ENDING as BEGUN

SETTLES_S = 0.5
"""Longer than a spool waits between two hand-overs."""
GONE_S = 10.0
MOST_LOOKS = 20


class Forgotten(Record):
    """What `hone forget` prints."""

    endpoint: str
    exposures: int = Field(description="requests of the unit whose rows were deleted")
    outcomes: int = Field(description="statements about them that were deleted")

    def lines(self) -> list[str]:
        """Return it for a reader."""
        if not self.exposures and not self.outcomes:
            return [f"{self.endpoint} has kept nothing of this unit"]
        return [f"{self.endpoint} has forgotten {self.exposures} requests and {self.outcomes} outcomes of this unit"]


def forget(name: str, unit: str, settings: Settings, sleep: Callable[[float], None] = time.sleep) -> Forgotten:
    """Delete every row of a unit, which is named as its requests named it.

    Raises UsageError for an endpoint that was never served, StoreError where the ledger does not answer.
    """
    endpoint = endpoints.read(Store(settings.home), name)
    hashed = unit_hash(endpoint.salt, unit[:MOST_UNIT_CHARACTERS])
    directory = spool_directory(settings)
    seen: set[str] = set()
    said: set[str] = set()
    with closing(Ledger.open(settings)) as ledger:
        for look in range(MOST_LOOKS):
            blanked, rows = _blanked(directory, endpoint.name, hashed, seen)
            requests = {row.request for row in rows if isinstance(row, Exposure)}
            deleted, told = ledger.forget(endpoint.name, hashed, seen | requests)
            if look and not (rows or deleted or told):
                return Forgotten(endpoint=endpoint.name, exposures=len(seen), outcomes=len(said))
            seen |= requests | deleted
            said |= {row.key for row in rows if isinstance(row, Outcome)} | told
            _wait_for(blanked, sleep)
    raise RunFailed(f"rows of this unit keep coming at {name}", "It asks meanwhile: run this again.")


def _wait_for(paths: list[Path], sleep: Callable[[float], None]) -> None:
    """Wait until closed files are written and gone, and in any case as long as a hand-over takes to begin and end."""
    waited_s = 0.0
    while waited_s < SETTLES_S or (waited_s < GONE_S and any(path.exists() for path in paths)):
        sleep(SETTLES_S)
        waited_s += SETTLES_S


def _blanked(directory: Path, endpoint: str, unit: str, known: set[str]) -> tuple[list[Path], list[Row]]:
    """Blank a unit's rows in the files of a spool; return the closed ones that held some, and the rows.

    ``known`` are requests of the unit that were found elsewhere; an outcome names its request only.
    """
    files = [path for ending in (OPEN, CLOSED, BEGUN, REFUSED) for path in sorted(directory.glob(f"*{ending}"))]
    requests = set(known)
    for path in files:
        requests |= {
            row.request
            for _, _, row in _lines(path)
            if isinstance(row, Exposure) and (row.endpoint, row.unit) == (endpoint, unit)
        }
    closed: list[Path] = []
    blanked: list[Row] = []
    for path in files:
        found = [(at, size, row) for at, size, row in _lines(path) if row.request in requests]
        if found:
            _blank(path, [(at, size) for at, size, _ in found])
            blanked += [row for _, _, row in found]
            closed += [path] if path.suffix == CLOSED else []
    return closed, blanked


def _lines(path: Path) -> Iterator[tuple[int, int, Row]]:
    """Yield where each row lies in a file, how long it is, and the row; of a file that has gone nothing."""
    try:
        whole = path.read_bytes()
    except FileNotFoundError:
        return
    at = 0
    for line in whole.splitlines(keepends=True):
        size = len(line.rstrip(b"\n"))
        try:
            row = ROW.validate_python(json.loads(line)["row"]) if path.name == REFUSED else ROW.validate_json(line)
        except (ValidationError, ValueError, KeyError, TypeError):
            row = None  # blank, damaged, or being written
        if row is not None:
            yield at, size, row
        at += len(line)


def _blank(path: Path, places: list[tuple[int, int]]) -> None:
    """Overwrite rows by spaces; a file that has another name by now, or none, is looked for again by the caller."""
    with suppress(FileNotFoundError), path.open("r+b", buffering=0) as file:
        for at, size in places:
            os.pwrite(file.fileno(), b" " * size, at)
        os.fdatasync(file.fileno())
