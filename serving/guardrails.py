"""Requests of an arm, and how many were bad → evidence that its rate of bad ones is above a bound.

One-sided, and exact at any number of requests: an arm is held to its bound from its first answers on. For a rate p
above the bound b, the likelihood ratio of p against b has an expectation of at most 1 after every request while the
rate is at most b; so has its mean over a fixed set of p, and the evidence exceeds 1/α at any time with probability at
most α (Ville; betting as in Waudby-Smith and Ramdas 2024, arXiv 2010.09686). The set is fixed by multiples of the
bound's odds, from a fifth above it to a hundredfold, so it needs two counts and no order: the database can count.

Requests are counted, not units, since the bound is a rate of requests, and each in the arm that answered it. "At most
b" speaks of every request given those before: an outage in which all requests fail is a breach as long as it outweighs
the rest of the counts, also where the rate over a month will be below. Forced requests are left out.

Slow is judged among answered requests only; a failed one is in the error rate. A cancelled or refused one is neither:
its caller went away, or asked for what no arm gives.

A request that was turned away for want of room is no answer of the model's: how often that happens follows from how
much of the traffic an arm has and how many replicas. So it counts in neither rate, and has a bound of its own
(`overload_rate`), over all requests that were sent to the arm. Nor does one count that was lost with its ingress.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import exp, fsum, log, log1p

from cluster.records import Record
from serving.design import Design
from serving.ledger_rows import Exposure

ODDS_MULTIPLES = (1.2, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)
LARGEST_LOG = 690.0  # evidence is shown as a finite float


@dataclass(frozen=True)
class Tally:
    """Counts over an arm's requests; `+` joins those of two stretches.

    ``requests`` are those that it began on, ``overloaded`` those that it turned away.
    """

    requests: int = 0
    failed: int = 0
    answered: int = 0
    slow: int = 0
    overloaded: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.requests + other.requests,
            self.failed + other.failed,
            self.answered + other.answered,
            self.slow + other.slow,
            self.overloaded + other.overloaded,
        )


class Bound(Record):
    """One bound on one arm: the rate seen, and the evidence that the true one is above the bound."""

    rate: float | None
    bound: float
    requests: int
    evidence: float
    ok: bool


def tallies_of(exposures: Iterable[Exposure], design: Design, as_of_s: float) -> dict[str, Tally]:
    """Return every arm's counts, each request once and in the arm that answered it."""
    slow = design.guardrails.slow
    tallies = dict.fromkeys(design.arms, Tally())
    seen: set[str] = set()
    for row in exposures:
        if row.forced or row.time_s > as_of_s or row.arm not in tallies or row.request in seen:
            continue
        seen.add(row.request)
        if row.status in ("overloaded", "lost"):
            tallies[row.arm] += Tally(overloaded=int(row.status == "overloaded"))
            continue
        latency_s = row.latency_s if row.status == "ok" else None
        is_slow = slow is not None and latency_s is not None and latency_s > slow.latency_s
        tallies[row.arm] += Tally(1, int(row.status == "failed"), int(latency_s is not None), int(is_slow))
    return tallies


def bounds_of(tallies: Mapping[str, Tally], design: Design) -> dict[str, dict[str, Bound]]:
    """Return arm → name of the bound → how it stands, for the bounds that were declared."""
    spec = design.guardrails
    bounds: dict[str, dict[str, Bound]] = {}
    for arm in design.arms:
        tally = tallies.get(arm, Tally())
        bounds[arm] = {}
        if spec.error_rate is not None:
            bounds[arm]["error_rate"] = bound_of(tally.failed, tally.requests, spec.error_rate, design.bound_alpha)
        if spec.overload_rate is not None:
            sent = tally.requests + tally.overloaded
            bounds[arm]["overload_rate"] = bound_of(tally.overloaded, sent, spec.overload_rate, design.bound_alpha)
        if spec.slow is not None:
            bounds[arm]["slow"] = bound_of(tally.slow, tally.answered, spec.slow.rate, design.bound_alpha)
    return bounds


def bound_of(bad: int, requests: int, bound: float, alpha: float) -> Bound:
    """Return how ``bad`` of ``requests`` stand against a rate of ``bound`` at most."""
    evidence = log_evidence(bad, requests, bound)
    return Bound(
        rate=bad / requests if requests else None,
        bound=bound,
        requests=requests,
        evidence=exp(min(evidence, LARGEST_LOG)),
        ok=evidence < -log(alpha),
    )


def log_evidence(bad: int, requests: int, bound: float) -> float:
    """Return ln of the mean likelihood ratio of rates above ``bound`` (in 0..1, exclusive) against it."""
    # With odds m·b/(1−b), p/b is m/(1−b+m·b) and (1−p)/(1−b) is 1/(1−b+m·b).
    logs = [bad * log(multiple) - requests * log1p((multiple - 1) * bound) for multiple in ODDS_MULTIPLES]
    highest = max(logs)
    return highest + log(fsum(exp(one - highest) for one in logs) / len(logs))
