"""The console's looks at an experiment: worked out in a thread of their own, shown without waiting for it.

A look reads the whole experiment, so between two of them lies many times what one took: they take at most a twentieth
of a processor, and a database that does not answer keeps no page waiting.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from serving.endpoint import Endpoint
from serving.verdict import Verdict

LEAST_REST_S = 5.0
REST = 20


@dataclass(frozen=True)
class Look:
    """A verdict as it was at a time (in seconds since 1970), so long after the experiment's first request."""

    at_s: float
    since_s: float
    verdict: Verdict


class Looks:
    """The last known looks at one endpoint's experiment."""

    def __init__(
        self, work_out: Callable[[Endpoint], Sequence[Look]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._work_out, self._clock = work_out, clock
        self._lock = threading.Lock()
        self._experiment: str | None = None
        self._found: Sequence[Look] = ()
        self._trouble = ""
        self._is_working = False
        self._rest_until_s = 0.0

    def at(self, endpoint: Endpoint) -> tuple[Sequence[Look], str]:
        """Return what is known, and what keeps us from knowing more; begin to find out where it is time to."""
        experiment = None if endpoint.experiment is None else endpoint.experiment.name
        with self._lock:
            if experiment != self._experiment:
                self._experiment, self._found, self._trouble, self._rest_until_s = experiment, (), "", 0.0
            if experiment is not None and not self._is_working and self._clock() >= self._rest_until_s:
                self._is_working = True
                threading.Thread(target=self._look, args=(endpoint, experiment), daemon=True).start()
            return self._found, self._trouble

    def _look(self, endpoint: Endpoint, experiment: str) -> None:
        began_s = self._clock()
        found, trouble = None, ""
        try:
            found = self._work_out(endpoint)
        except Exception as error:  # noqa: BLE001 (whatever it is, the page says it and traffic can be moved)
            trouble = getattr(error, "what", "") or f"{type(error).__name__}: {error}"
        with self._lock:
            self._is_working = False
            if experiment == self._experiment:
                now_s = self._clock()
                self._rest_until_s = now_s + max(LEAST_REST_S, REST * (now_s - began_s))
                self._found, self._trouble = self._found if found is None else found, trouble
