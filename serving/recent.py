"""The requests of the last minutes by arm, in the memory of one ingress replica: what an administrator looks at now.

Prometheus keeps what is counted over time, the ledger every row; this answers without asking either.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

WINDOW_S = 60.0
MOST_KEPT = 10_000


@dataclass(frozen=True, slots=True)
class Ended:
    """One request that has ended."""

    at_s: float
    status: str
    latency_s: float
    first_token_s: float | None
    tokens_out: int


@dataclass(frozen=True, slots=True)
class Load:
    """What an arm did within the window; times are of requests that went well, None where there was none."""

    running: int
    requests: int
    failed: int
    requests_per_s: float
    tokens_per_s: float
    p50_s: float | None
    p95_s: float | None
    first_token_p50_s: float | None


class Recent:
    """The last requests of every arm, at most ``MOST_KEPT`` each."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._running: Counter[str] = Counter()
        self._ended: defaultdict[str, deque[Ended]] = defaultdict(partial(deque, maxlen=MOST_KEPT))

    def begun(self, arm: str) -> None:
        """Count a request in."""
        self._running[arm] += 1

    def ended(self, arm: str, status: str, latency_s: float, first_token_s: float | None, tokens_out: int) -> None:
        """Remember a request that has ended, however it did."""
        self._running[arm] -= 1
        self._ended[arm].append(Ended(self._clock(), status, latency_s, first_token_s, tokens_out))

    def load(self, arm: str, window_s: float = WINDOW_S) -> Load:
        """Return what an arm did in the last ``window_s`` seconds."""
        since_s = self._clock() - window_s
        ended = [one for one in self._ended[arm] if one.at_s > since_s]
        fine = [one for one in ended if one.status == "ok"]
        firsts = [one.first_token_s for one in fine if one.first_token_s is not None]
        return Load(
            running=self._running[arm],
            requests=len(ended),
            failed=sum(one.status == "failed" for one in ended),
            requests_per_s=len(ended) / window_s,
            tokens_per_s=sum(one.tokens_out for one in ended) / window_s,
            p50_s=_percentile([one.latency_s for one in fine], 50),
            p95_s=_percentile([one.latency_s for one in fine], 95),
            first_token_p50_s=_percentile(firsts, 50),
        )


def _percentile(values: list[float], percent: float) -> float | None:
    return float(np.percentile(values, percent)) if values else None
