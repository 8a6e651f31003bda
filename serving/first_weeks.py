"""A release's users by time → whether a mean of theirs (an outcome, a share of failures) is what it was at first.

The first two weeks are the reference; what comes after is watched in periods of four weeks. Both means have intervals
that hold at every look (``serving.sequential``: the beta-binomial mixture, exact for values in 0..1), the reference's
at half the error budget, period k's at half of what is left to it, 1/(k(k+1)); where two do not meet, the mean has
changed. That is stricter than a test of the difference, needs no assumption on either, and stays valid while the
periods go on for years.

A user counts once in the first weeks and once in every period, with their first request there: counted as requests,
users who come often would make any two weeks differ.

Left out: values outside of 0..1; which cause a change has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum

from pydantic import Field

from cluster.records import Interval, Record
from serving.drift_report import Change
from serving.ledger_rows import Exposure, Outcome
from serving.sequential import bounded_mean_interval

ALPHA = 0.05
FIRST_S, PERIOD_S = 14 * 86400.0, 28 * 86400.0
TIGHTEST_AT = 500
LEAST_UNITS = 30
"""On either side, before anything is said."""


class Watched(Record):
    """What is remembered of one mean: the first weeks once they are over, and the period that is watched now."""

    began_s: float
    first: tuple[float, int] | None = Field(default=None, description="sum and number of the first weeks' values")
    number: int = 1
    since_s: float
    changed_s: float | None = Field(default=None, description="the look at which a change was found")

    @classmethod
    def begun(cls, began_s: float) -> Watched:
        """Return a watch of what begins at ``began_s``."""
        return cls(began_s=began_s, since_s=began_s + FIRST_S)


@dataclass(frozen=True, slots=True)
class Valued:
    """One user's first value in a stretch of time."""

    time_s: float
    unit: str
    value: float


def first_a_unit(values: Iterable[Valued], since_s: float, until_s: float) -> list[float]:
    """Return one value a unit, its first in the stretch."""
    found: dict[str, Valued] = {}
    for one in values:
        if since_s <= one.time_s < until_s and (one.unit not in found or one.time_s < found[one.unit].time_s):
            found[one.unit] = one
    return [one.value for one in found.values()]


def watched(before: Watched, name: str, values: Sequence[Valued], now_s: float) -> tuple[Watched, Change]:
    """Return what is known now, and what is to be remembered. ``values`` are all since ``before.began_s``."""
    if any(not 0 <= one.value <= 1 for one in values):
        return before, Change(name=name, reason="its values are not all in 0..1")
    ends_s = before.began_s + FIRST_S
    if now_s < ends_s:
        days = (ends_s - now_s) / 86400
        return before, Change(name=name, reason=f"the release's first weeks end in {days:.1f} days")
    state = before
    if state.first is None:
        early = first_a_unit(values, state.began_s, ends_s)
        state = state.model_copy(update={"first": (fsum(early), len(early))})
    while now_s >= state.since_s + PERIOD_S:
        state = state.model_copy(update={"number": state.number + 1, "since_s": state.since_s + PERIOD_S})
    return _compared(state, name, first_a_unit(values, state.since_s, now_s), now_s)


def _compared(state: Watched, name: str, late: Sequence[float], now_s: float) -> tuple[Watched, Change]:
    assert state.first is not None, "the first weeks are over"
    total, num = state.first
    if num < LEAST_UNITS or len(late) < LEAST_UNITS:
        what = f"{num} users in the first weeks and {len(late)} now, {LEAST_UNITS} are needed of each"
        return state, Change(name=name, units=len(late), reason=what, changed=state.changed_s is not None)
    reference = bounded_mean_interval(total, num, ALPHA / 2, TIGHTEST_AT)
    alpha = ALPHA / 2 / (state.number * (state.number + 1))
    now = bounded_mean_interval(fsum(late), len(late), alpha, TIGHTEST_AT)
    is_apart = now.low > reference.high or now.high < reference.low
    if is_apart and state.changed_s is None:
        state = state.model_copy(update={"changed_s": now_s})
    return state, Change(
        name=name,
        value=now.value,
        interval=Interval(value=now.value, low=now.low, high=now.high),
        reference=reference,
        units=len(late),
        changed=state.changed_s is not None,
        decided=True,
    )


def outcome_name(outcomes: Iterable[Outcome], declared: str | None) -> str | None:
    """Return the outcome that is watched: the experiment's, else the one that most feedback is about."""
    if declared is not None:
        return declared
    counts: dict[str, int] = {}
    for row in outcomes:
        if row.value is not None:
            counts[row.name] = counts.get(row.name, 0) + 1
    return max(counts, key=lambda name: (counts[name], name)) if counts else None


def judged(
    exposures: Iterable[Exposure], outcomes: Iterable[Outcome], name: str, horizon_s: float, now_s: float
) -> list[Valued]:
    """Return the value of every judged request whose horizon is over; judged again, the last judgement counts."""
    last: dict[str, tuple[float, float]] = {}
    for row in outcomes:
        if row.name == name and row.value is not None:
            last[row.request] = max(last.get(row.request, (row.time_s, row.value)), (row.time_s, row.value))
    return [
        Valued(row.time_s, row.unit, last[row.request][1])
        for row in exposures
        if row.request in last and row.time_s + horizon_s <= now_s
    ]


def failures(exposures: Iterable[Exposure]) -> list[Valued]:
    """Return 1 for every request that failed and 0 for those that went well; refused and cancelled ones are neither."""
    worth: Mapping[str, float] = {"failed": 1.0, "ok": 0.0}
    return [Valued(row.time_s, row.unit, worth[row.status]) for row in exposures if row.status in worth]
