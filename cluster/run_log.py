"""What a run says, kept in its directory: ``hone logs`` reads it where no cluster keeps a log of its own.

The text is replaced in one piece, at once in a local home and every few seconds elsewhere. A line that cannot be kept
is no reason to end a run, so storage that fails is passed over here; the run's stages will meet it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cluster.errors import StoreError
from cluster.runs import RUNS

if TYPE_CHECKING:
    from cluster.progress import Progress
    from cluster.store import Store

LOG = "log.txt"
KEEP_EVERY_S = 5.0


class RunLog:
    """The log of one run; goes on where an earlier process of the run ended."""

    def __init__(self, store: Store, run: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._run, self._clock = store, run, clock
        self._text = read_log(store, run)
        self._kept_s = -KEEP_EVERY_S

    def line(self, text: str) -> None:
        """Add a line, with the time (UTC)."""
        self._text += f"{datetime.now(UTC):%H:%M:%S} {text}\n"
        if self._store.is_local or self._clock() - self._kept_s >= KEEP_EVERY_S:
            self.keep()

    def keep(self) -> None:
        """Write down what was said."""
        self._kept_s = self._clock()
        with suppress(StoreError):
            self._store.put_text(self._text, RUNS, self._run, LOG)


def read_log(store: Store, run: str) -> str:
    """Return what a run has said so far; empty where nothing is kept."""
    with suppress(StoreError):
        if store.exists(RUNS, run, LOG):
            return store.get_text(RUNS, run, LOG)
    return ""


@contextmanager
def logged(store: Store, run: str, progress: Progress) -> Generator[RunLog]:
    """Keep what ``progress`` says under the block in the run's directory."""
    log = RunLog(store, run)
    with progress.heard_by(log.line):
        try:
            yield log
        finally:
            log.keep()
