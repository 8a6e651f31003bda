"""A release's users by time → whether a mean of theirs (an outcome, a share of failures) is what it was at first.

The first two weeks are the reference; what comes after is watched in periods of four weeks. Both means have intervals
that hold at every look (``serving.sequential``: the beta-binomial mixture, exact for values in 0..1), the reference's
at half the error budget, period k's at half of what is left to it, 1/(k(k+1)); where two do not meet, the mean has
changed. That is stricter than a test of the difference, needs no assumption on either, and stays valid while the
periods go on for years.

A user counts once in the first weeks and once in every period, with their first request there: counted as requests,
users who come often would make any two weeks differ. Requests come from the ledger user by user, so that one user's at
a time are in memory, however many there are.

Left out: values outside of 0..1; which cause a change has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from pydantic import Field

from cluster.records import Interval, Record
from serving.drift_report import Change
from serving.ledger_rows import Ending, Judgement
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

    @property
    def read_from_s(self) -> float:
        """From when on requests are needed: the first weeks' only until they are known."""
        return self.began_s if self.first is None else self.since_s


@dataclass(frozen=True, slots=True)
class Valued:
    """What one request of a user is worth."""

    time_s: float
    unit: str
    value: float


Stretch = tuple[float, float]
"""From when on, and until before when."""
Total = tuple[float, int]
"""Sum and number of values."""


def first_a_unit(values: Iterable[Valued], stretches: Sequence[Stretch]) -> list[Total] | None:
    """Return the total over every stretch of each unit's first value there; None where a value is not in 0..1.

    ``values`` come unit by unit, a unit's in any order.
    """
    sums, counts = [0.0] * len(stretches), [0] * len(stretches)
    for _, theirs in groupby(values, lambda one: one.unit):
        first: dict[int, Valued] = {}
        for one in theirs:
            if not 0 <= one.value <= 1:
                return None
            for place, (since_s, until_s) in enumerate(stretches):
                is_first = place not in first or one.time_s < first[place].time_s
                if is_first and since_s <= one.time_s < until_s:
                    first[place] = one
        for place, one in first.items():
            sums[place] += one.value
            counts[place] += 1
    return list(zip(sums, counts, strict=True))


def watched(before: Watched, name: str, values: Iterable[Valued], now_s: float) -> tuple[Watched, Change]:
    """Return what is known now, and what is to be remembered.

    ``values`` are all since ``before.read_from_s``, unit by unit.
    """
    ends_s = before.began_s + FIRST_S
    state = before
    while now_s >= state.since_s + PERIOD_S:
        state = state.model_copy(update={"number": state.number + 1, "since_s": state.since_s + PERIOD_S})
    totals = first_a_unit(values, [(before.began_s, ends_s), (state.since_s, now_s)])
    if totals is None:
        return before, Change(name=name, reason="its values are not all in 0..1")
    if now_s < ends_s:
        days = (ends_s - now_s) / 86400
        return before, Change(name=name, reason=f"the release's first weeks end in {days:.1f} days")
    early, late = totals
    if state.first is None:
        state = state.model_copy(update={"first": early})
    return _compared(state, name, late, now_s)


def _compared(state: Watched, name: str, late: Total, now_s: float) -> tuple[Watched, Change]:
    assert state.first is not None, "the first weeks are over"
    (total, num), (total_now, num_now) = state.first, late
    if num < LEAST_UNITS or num_now < LEAST_UNITS:
        what = f"{num} users in the first weeks and {num_now} now, {LEAST_UNITS} are needed of each"
        return state, Change(name=name, units=num_now, reason=what, changed=state.changed_s is not None)
    reference = bounded_mean_interval(total, num, ALPHA / 2, TIGHTEST_AT)
    alpha = ALPHA / 2 / (state.number * (state.number + 1))
    now = bounded_mean_interval(total_now, num_now, alpha, TIGHTEST_AT)
    is_apart = now.low > reference.high or now.high < reference.low
    if is_apart and state.changed_s is None:
        state = state.model_copy(update={"changed_s": now_s})
    return state, Change(
        name=name,
        value=now.value,
        interval=Interval(value=now.value, low=now.low, high=now.high),
        reference=reference,
        units=num_now,
        changed=state.changed_s is not None,
        decided=True,
    )


def outcome_name(counts: Mapping[str, int], declared: str | None) -> str | None:
    """Return the outcome that is watched: the experiment's, else the one that most feedback is about."""
    if declared is not None:
        return declared
    return max(counts, key=lambda name: (counts[name], name)) if counts else None


def judged(judgements: Iterable[Judgement], horizon_s: float, now_s: float) -> Iterator[Valued]:
    """Yield the value of every judged request whose horizon is over; judged again, the last judgement counts.

    ``judgements`` come request by request.
    """
    for _, said in groupby(judgements, lambda one: one.request):
        last = max(said, key=lambda one: (one.said_s, one.value))
        if last.time_s + horizon_s <= now_s:
            yield Valued(last.time_s, last.unit, last.value)


def failures(endings: Iterable[Ending]) -> Iterator[Valued]:
    """Yield 1 for every request that failed and 0 for those that went well; refused and cancelled ones are neither."""
    worth: Mapping[str, float] = {"failed": 1.0, "ok": 0.0}
    for one in endings:
        if one.status in worth:
            yield Valued(one.time_s, one.unit, worth[one.status])
