"""Rows on their way to the ledger: on disk before anybody waits, in the database soon after, lost by nobody's crash.

An answer's row is there when it ends; a short one is there from its beginning (``serving.under_way``), and becomes the
row of a request whose process was killed, after all that process's other rows have arrived.

A row is one ``write`` of one line to an open file, some microseconds, which a killed process does not take back. A
thread closes that file several times a second, writes its rows to the database in one transaction, and only then
removes it. While the database is away files wait; after a crash whoever opens the directory next takes over what is
left there: an open file belongs to a living writer as long as that one holds its lock. A file that was written but not
removed is written again, which the ledger passes over. A row that the database will never take is set aside with the
reason, so that it stops none of the others.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import IO

from pydantic import TypeAdapter, ValidationError

from cluster.durable import append_whole
from cluster.errors import RowsRefused, StoreError
from serving.ledger_rows import Exposure, Row
from serving.under_way import ENDING as BEGUN
from serving.under_way import UnderWay

EVERY_S = 0.2
WAITS_S = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Between tries while the database is away; the last one again and again."""
NEW, OPEN, CLOSED = ".new", ".open", ".rows"
REFUSED = "refused.jsonl"
ROW: TypeAdapter[Row] = TypeAdapter(Row)


class Spool:
    """Takes rows at once and hands them to ``write`` in batches; ``write`` raises StoreError while it cannot.

    Raises StoreError where the directory cannot be written. ``last_error`` is why the database took nothing, empty
    while it does; ``num_damaged`` counts lines that could not be read back, ``num_refused`` rows that were set aside.
    """

    def __init__(self, directory: Path, write: Callable[[Sequence[Row]], None]) -> None:
        self._directory, self._write = directory, write
        self._writer = uuid.uuid4().hex[:8]
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = False
        self._size_bytes = 0  # of the open file
        self.num_damaged = self.num_refused = 0
        self.last_error = ""
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._under_way = UnderWay(directory, self._writer)
            self._path, self._file = _begun(directory, self._writer)
        except OSError as error:
            raise StoreError(
                f"{directory} cannot be written: {error.strerror}", "Make room, or set its owner."
            ) from error
        self._thread = threading.Thread(target=self._work, name="ledger", daemon=True)
        self._thread.start()

    def begin(self, row: Exposure) -> None:
        """Take the row of a request that begins. Raises StoreError where the disk does not take it."""
        try:
            self._under_way.begin(row)
        except OSError as error:
            raise StoreError(f"the ledger's spool took no row: {error.strerror}", "Make room on its disk.") from error

    def add(self, row: Row, *, durable: bool = False) -> None:
        """Take a row; ``durable`` waits until the disk has it. Raises StoreError where the disk does not take it."""
        line = row.model_dump_json().encode() + b"\n"
        try:
            with self._lock:
                self._size_bytes = append_whole(self._file, line, self._size_bytes)
                if isinstance(row, Exposure):
                    self._under_way.end(row.request)
                kept = os.dup(self._file.fileno()) if durable else None
            if kept is not None:
                try:
                    os.fdatasync(kept)
                finally:
                    os.close(kept)
        except OSError as error:
            raise StoreError(f"the ledger's spool took no row: {error.strerror}", "Make room on its disk.") from error

    def waiting(self) -> int:
        """Return how many files are not in the database yet."""
        return len(self._closed()) + (self._size_bytes > 0)

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Wait until what is there has arrived, and return whether it did in time."""
        deadline_s = time.monotonic() + timeout_s
        while self.waiting() and time.monotonic() < deadline_s:
            self._wake.set()
            time.sleep(0.01)
        return not self.waiting()

    def close(self) -> None:
        """Hand over what is there as far as the database takes it now; the rest waits on disk."""
        self._closing = True
        self._wake.set()
        self._thread.join()
        self._under_way.close()
        self._file.close()
        if not self._size_bytes:
            self._path.unlink(missing_ok=True)

    def _work(self) -> None:
        failures = 0
        while True:
            closing = self._closing
            if not closing:
                self._wake.wait(WAITS_S[min(failures, len(WAITS_S)) - 1] if failures else EVERY_S)
                self._wake.clear()
            failures = 0 if self._turn_over() and self._hand_over() else failures + 1
            if closing:
                return

    def _turn_over(self) -> bool:
        """Close the open file where it holds rows, and begin another one; return whether the disk allowed it."""
        try:
            with self._lock:
                if self._size_bytes:
                    following = _begun(self._directory, self._writer)
                    self._path.rename(self._path.with_suffix(CLOSED))
                    self._file.close()
                    self._path, self._file = following
                    self._size_bytes = 0
        except OSError as error:
            self.last_error = f"the ledger's spool cannot go on: {error.strerror}"
            return False
        return True

    def _hand_over(self) -> bool:
        """Write the closed files, the oldest first, and return whether the database took them all."""
        for path in chain(self._closed(), self._orphans(), self._lost()):
            try:
                if rows := self._rows(path):
                    self._write_or_set_aside(rows)
                path.unlink()
            except FileNotFoundError:
                continue  # somebody else has taken it over
            except Exception as error:  # noqa: BLE001 (rows wait on disk, whatever the ledger raises)
                self.last_error = error.what if isinstance(error, StoreError) else f"{type(error).__name__}: {error}"
                return False
        self.last_error = ""
        return True

    def _write_or_set_aside(self, rows: Sequence[Row]) -> None:
        """Write rows, one by one where the database refuses them together, and keep those it refuses alone."""
        try:
            self._write(rows)
        except RowsRefused as error:
            if len(rows) > 1:
                for row in rows:
                    self._write_or_set_aside([row])
                return
            with (self._directory / REFUSED).open("a") as file:
                file.write(json.dumps({"why": error.what, "row": rows[0].model_dump(mode="json")}) + "\n")
            self.num_refused += 1

    def _closed(self) -> list[Path]:
        return sorted(self._directory.glob(f"*{CLOSED}"))

    def _orphans(self) -> list[Path]:
        """Return open files whose writer is gone."""
        return [path for path in sorted(self._directory.glob(f"*{OPEN}")) if _has_no_writer(path)]

    def _lost(self) -> Iterator[Path]:
        """Yield what writers that are gone had under way, once nothing else of theirs is left."""
        for path in sorted(self._directory.glob(f"*{BEGUN}")):
            own = f"*-{path.stem}"
            left = (*self._directory.glob(f"{own}{CLOSED}"), *self._directory.glob(f"{own}{OPEN}"))
            if not left and _has_no_writer(path):
                yield path

    def _rows(self, path: Path) -> list[Row]:
        found: list[Row] = []
        for line in path.read_bytes().splitlines():
            if not line.strip():
                continue  # a row that was forgotten (serving.forget)
            try:
                found.append(ROW.validate_json(line))
            except ValidationError:
                self.num_damaged += 1
        return found


def _begun(directory: Path, writer: str) -> tuple[Path, IO[bytes]]:
    """Return a new open file, locked before it has the name by which others find it; later ones sort later."""
    path = directory / f"{time.time_ns():020d}-{writer}{NEW}"
    file = path.open("ab", buffering=0)
    fcntl.flock(file, fcntl.LOCK_EX)
    return path.rename(path.with_suffix(OPEN)), file


def _has_no_writer(path: Path) -> bool:
    with suppress(OSError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return path.stat().st_ino == os.fstat(file.fileno()).st_ino  # else its writer has put another in its place
    return False
