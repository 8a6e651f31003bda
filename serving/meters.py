"""What an ingress replica counts, by arm and experiment, in Prometheus' text format; and what was lately, for people.

Labels are arms, experiments and statuses, never units, keys or request ids.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serving.recent import Recent

if TYPE_CHECKING:
    from serving.drift_report import Change

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
BY_ARM = ("endpoint", "experiment", "arm")


class Meters:
    """The counters of one endpoint, in a registry of their own."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self.recent = Recent()
        self._registry = CollectorRegistry()
        own: Any = {"registry": self._registry}
        self._requests = Counter("hone_requests", "Requests by how they ended", (*BY_ARM, "status"), **own)
        self._latency = Histogram("hone_latency_seconds", "Whole answers", BY_ARM, buckets=SECONDS, **own)
        self._first = Histogram("hone_first_token_seconds", "Time to first token", BY_ARM, buckets=SECONDS, **own)
        self._tokens = Counter("hone_tokens", "Tokens read (in) and written (out)", (*BY_ARM, "direction"), **own)
        self._running = Gauge("hone_running_requests", "Requests under way", BY_ARM, **own)
        self._weight = Gauge("hone_arm_probability", "Share of new units in force", BY_ARM, **own)
        self._refused = Counter("hone_refused", "Requests answered by no arm", ("endpoint", "status"), **own)
        self._feedback = Counter("hone_feedback", "Outcomes fed back", ("endpoint",), **own)
        self._lost = Counter("hone_ledger_errors", "Rows that the ledger's spool did not take", ("endpoint",), **own)
        self._drift = Gauge("hone_drift", "AUC of live against training prompts, 0.5 = alike", ("endpoint",), **own)
        self._flagged = Gauge("hone_drift_flagged", "Whether drift is proven", ("endpoint",), **own)
        self._looked = Gauge("hone_drift_looked_seconds", "When drift was last looked at", ("endpoint",), **own)
        self._outcome = _change_gauges("outcome", "The outcome's mean", self._registry)
        self._errors = _change_gauges("error_rate", "The share of failures", self._registry)

    def begun(self, experiment: str | None, arm: str) -> None:
        """Count a request in."""
        self._running.labels(self._endpoint, experiment or "", arm).inc()
        self.recent.begun(arm)

    def ended(
        self,
        experiment: str | None,
        arm: str,
        status: str,
        latency_s: float,
        first_token_s: float | None,
        tokens: tuple[int, int],
    ) -> None:
        """Count a request that has ended, however it did; ``tokens`` are those read and written."""
        labels = (self._endpoint, experiment or "", arm)
        self._running.labels(*labels).dec()
        self.recent.ended(arm, status, latency_s, first_token_s, tokens[1])
        self._requests.labels(*labels, status).inc()
        if status == "ok":
            self._latency.labels(*labels).observe(latency_s)
        if first_token_s is not None:
            self._first.labels(*labels).observe(first_token_s)
        self._tokens.labels(*labels, "in").inc(tokens[0])
        self._tokens.labels(*labels, "out").inc(tokens[1])

    def in_force(self, experiment: str | None, probabilities: dict[str, float]) -> None:
        """Show the split that is in force, and no longer one that was before."""
        self._weight.clear()
        for arm, probability in probabilities.items():
            self._weight.labels(self._endpoint, experiment or "", arm).set(probability)

    def drifted(self, drift: float | None, *, flagged: bool, at_s: float) -> None:
        """Show what a look at drift found; no number where it found none."""
        if drift is None:
            self._drift.clear()
        else:
            self._drift.labels(self._endpoint).set(drift)
        self._flagged.labels(self._endpoint).set(flagged)
        self._looked.labels(self._endpoint).set(at_s)

    def changed(self, outcome: Change | None, errors: Change | None) -> None:
        """Show how far both means are from those of the release's first weeks; no number where that is undecided."""
        for found, (by, flagged) in ((outcome, self._outcome), (errors, self._errors)):
            if found is None or found.value is None or found.reference is None:
                by.clear()
            else:
                by.labels(self._endpoint).set(found.value - found.reference.value)
            flagged.labels(self._endpoint).set(found is not None and found.changed)

    def refused(self, status: int) -> None:
        """Count a request that no arm was asked about."""
        self._refused.labels(self._endpoint, str(status)).inc()

    def fed_back(self) -> None:
        """Count an outcome."""
        self._feedback.labels(self._endpoint).inc()

    def ledger_refused(self) -> None:
        """Count a row that could not be kept."""
        self._lost.labels(self._endpoint).inc()

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)


def _change_gauges(name: str, what: str, registry: CollectorRegistry) -> tuple[Gauge, Gauge]:
    """Return the gauges of a mean against the release's first weeks: how far from there, and whether that is proven."""
    by = f"{what} minus that of the release's first weeks"
    proven = f"Whether it is proven that {what[0].lower()}{what[1:]} has changed since the release's first weeks"
    labels = ("endpoint",)
    return (
        Gauge(f"hone_{name}_change", by, labels, registry=registry),
        Gauge(f"hone_{name}_change_flagged", proven, labels, registry=registry),
    )
