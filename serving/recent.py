"""The requests of the last minute by arm, in the memory of one ingress replica: what an administrator looks at now.

Prometheus keeps what is counted over time, the ledger every row; this answers without asking either.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

WINDOW_S, LEAST_SPAN_S = 60.0, 1.0
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
    """What an arm did in the last ``span_s`` seconds; times are of requests that went well, None where none did."""

    span_s: float
    running: int
    requests: int
    failed: int
    overloaded: int
    requests_per_s: float
    tokens_per_s: float
    p50_s: float | None
    p95_s: float | None
    first_token_p50_s: float | None


class Recent:
    """The last requests of every arm, at most ``MOST_KEPT`` each."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._since_s = clock, clock()
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
        """Return what an arm did in the last ``window_s`` seconds, or since this began or the oldest request kept."""
        now_s, kept = self._clock(), self._ended[arm]
        oldest_s = kept[0].at_s if len(kept) == MOST_KEPT else self._since_s
        span_s = max(min(window_s, now_s - oldest_s), LEAST_SPAN_S)
        ended = [one for one in kept if one.at_s >= now_s - span_s]
        fine = [one for one in ended if one.status == "ok"]
        firsts = [one.first_token_s for one in fine if one.first_token_s is not None]
        return Load(
            span_s=span_s,
            running=self._running[arm],
            requests=len(ended),
            failed=sum(one.status == "failed" for one in ended),
            overloaded=sum(one.status == "overloaded" for one in ended),
            requests_per_s=len(ended) / span_s,
            tokens_per_s=sum(one.tokens_out for one in ended) / span_s,
            p50_s=_percentile([one.latency_s for one in fine], 50),
            p95_s=_percentile([one.latency_s for one in fine], 95),
            first_token_p50_s=_percentile(firsts, 50),
        )


def _percentile(values: list[float], percent: float) -> float | None:
    return float(np.percentile(values, percent)) if values else None
