"""What a search has used of its time and of its trials', over all sessions → ``runs/RUN/spent.json``, for its budget.

Counted while it goes on and not when something ends, so a session that was killed, a trial that was interrupted and an
attempt that failed cost what they took. Of a killed session at most ``KEEP_EVERY_S`` are missing.
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic import Field

from cluster.records import Record
from cluster.runs import RUNS, read_record
from cluster.store import Store

SPENT = "spent.json"
KEEP_EVERY_S = 5.0


class Spent(Record):
    """What the trials of a run have used so far."""

    search_s: float = Field(default=0.0, description="time in the search")
    trials_s: float = Field(default=0.0, description="time in trials, of each one that trained at the same time")


class Meter:
    """Counts on from what earlier sessions used."""

    def __init__(self, store: Store, run: str, clock: Callable[[], float]) -> None:
        self._store, self._run, self._clock = store, run, clock
        self.spent = read_record(Spent, store, run, SPENT) or Spent()
        self._at_s = self._kept_s = clock()

    def tick(self, training: int) -> None:
        """Count the time since the last call, in which so many trials trained."""
        now_s = self._clock()
        passed_s, self._at_s = now_s - self._at_s, now_s
        self.spent = Spent(search_s=self.spent.search_s + passed_s, trials_s=self.spent.trials_s + training * passed_s)

    def keep(self, *, at_once: bool = False) -> None:
        """Write down what was counted, every few seconds or at once."""
        if at_once or self._at_s - self._kept_s >= KEEP_EVERY_S:
            self._kept_s = self._at_s
            self._store.put_json(self.spent.model_dump(), RUNS, self._run, SPENT)
