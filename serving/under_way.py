"""Requests that an ingress has begun on and not ended, on disk: a killed one leaves a trace of each.

A row of what is known at a request's beginning is one ``write`` to a file of the process's own, and is taken out again
when the request's own row is in the spool. The file of a process that was killed thus holds what it had under way, and
perhaps some that it had ended: their own rows are known by the same request and were there before, so the ledger passes
over what is written a second time. Left out: who reads what a dead process left, which is the spool's.
"""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

from cluster.durable import append_whole
from serving.ledger_rows import Exposure

ENDING = ".begun"
MOST_BYTES = 1 << 20
"""Of a file that is never empty, since something is always under way: then it is written anew."""


class UnderWay:
    """One process's requests under way. Raises OSError where the disk takes no row."""

    def __init__(self, directory: Path, writer: str) -> None:
        self._path = directory / f"{writer}{ENDING}"
        self._lock = threading.Lock()
        self._lines: dict[str, bytes] = {}
        self._size_bytes = 0
        self._file = self._path.open("ab", buffering=0)
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def begin(self, row: Exposure) -> None:
        """Take the row of a request that begins."""
        line = row.model_dump_json().encode() + b"\n"
        with self._lock:
            self._size_bytes = append_whole(self._file, line, self._size_bytes)
            self._lines[row.request] = line

    def end(self, request: str) -> None:
        """Forget a request whose own row is kept; one that never began is none."""
        with self._lock:
            if self._lines.pop(request, None) is None:
                return
            if not self._lines:
                os.ftruncate(self._file.fileno(), 0)
                self._size_bytes = 0
            elif self._size_bytes > MOST_BYTES + 2 * sum(map(len, self._lines.values())):
                self._write_anew()

    def close(self) -> None:
        """End; what is still under way is left for whoever looks after this process's rows."""
        with self._lock:
            if not self._lines:
                self._path.unlink(missing_ok=True)
            self._file.close()

    def _write_anew(self) -> None:
        """Replace the file by one that holds only what is under way, locked before it has the old one's name."""
        fresh = self._path.with_suffix(".again")
        file = fresh.open("ab", buffering=0)
        fcntl.flock(file, fcntl.LOCK_EX)
        whole = b"".join(self._lines.values())
        if file.write(whole) != len(whole):
            file.close()
            fresh.unlink()
            return
        fresh.rename(self._path)
        self._file.close()
        self._file, self._size_bytes = file, len(whole)
