"""The ``speed:`` block of the job file, and the metrics of a release's speed that a gate rule may name.

Measured by ``serving.speed``, decided on by ``trainers.gate``: neither imports the other, so what both know is here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import Field

from cluster.blocks import Block

SPEED_METRICS = {
    "p50_latency_s": "seconds from a request to the end of its answer, median",
    "p95_latency_s": "the same, of the slowest twentieth the quickest",
    "p50_time_to_first_token_s": "seconds from a request to the first text of its answer, median",
    "p95_time_to_first_token_s": "the same, of the slowest twentieth the quickest",
    "tokens_per_s": "tokens written in a second, over all requests at once",
    "requests_per_s": "requests answered in a second",
}
"""Name → meaning; more is better of what counts per second, less of what is counted in seconds."""
_WORD = re.compile(r"[A-Za-z_]\w*")


class SpeedSpec(Block):
    """How a release's speed is measured where a gate rule names one of its metrics."""

    concurrency: int = Field(default=8, ge=1, description="Requests under way at the same time, at least 1.")
    requests: int = Field(default=64, ge=1, description="Requests that are timed, prompts of the tests, at least 1.")
    warm_up: int = Field(default=8, ge=0, description="Requests before those, which are not timed.")


def names_speed(rules: Sequence[str]) -> bool:
    """Return whether a gate rule speaks of speed."""
    return any(word in SPEED_METRICS for rule in rules for word in _WORD.findall(rule))
