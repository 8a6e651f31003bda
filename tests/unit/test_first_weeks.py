"""A release's means now against its first weeks: undecided until both are there, valid at every look, a user once."""

from __future__ import annotations

import numpy as np
import pytest

from serving.first_weeks import (
    FIRST_S,
    LEAST_UNITS,
    PERIOD_S,
    Valued,
    Watched,
    failures,
    first_a_unit,
    judged,
    outcome_name,
    watched,
)
from serving.ledger_rows import Ending, Judgement

BEGAN_S = 1e6


def values(rate: float, num: int, since_s: float, lasts_s: float, seed: int = 0) -> list[Valued]:
    draw = np.random.default_rng(seed)
    times = since_s + np.sort(draw.random(num)) * lasts_s
    return [
        Valued(float(time_s), f"u{since_s}{place}", float(draw.random() < rate)) for place, time_s in enumerate(times)
    ]


def test_nothing_is_said_before_the_first_weeks_are_over_and_with_few_users():
    _, early = watched(Watched.begun(BEGAN_S), "success", values(0.5, 200, BEGAN_S, 1000), BEGAN_S + FIRST_S / 2)
    assert (early.decided, early.changed, early.value) == (False, False, None)
    assert "7.0 days" in early.reason
    few = [*values(0.5, 200, BEGAN_S, FIRST_S), *values(0.5, LEAST_UNITS - 1, BEGAN_S + FIRST_S, 1000)]
    _, late = watched(Watched.begun(BEGAN_S), "success", few, BEGAN_S + FIRST_S + 2000)
    assert (late.decided, late.value) == (False, None)


def test_a_fall_is_found_and_stays_found():
    state, now_s = Watched.begun(BEGAN_S), BEGAN_S + FIRST_S + 1e5
    rows = [*values(0.8, 400, BEGAN_S, FIRST_S), *values(0.5, 400, BEGAN_S + FIRST_S, 1e5)]
    state, found = watched(state, "success", rows, now_s)
    assert (found.decided, found.changed) == (True, True)
    assert found.value == pytest.approx(0.5, abs=0.1)
    assert found.reference is not None
    assert found.reference.value == pytest.approx(0.8, abs=0.1)
    later = [row for row in rows if row.time_s >= BEGAN_S + FIRST_S]
    again, found = watched(state, "success", later, now_s + 10)
    assert found.changed
    assert again.changed_s == now_s


def test_alike_weeks_are_seldom_called_changed_however_often_one_looks():
    wrong = 0
    for seed in range(60):
        rows = [*values(0.6, 200, BEGAN_S, FIRST_S, seed), *values(0.6, 400, BEGAN_S + FIRST_S, PERIOD_S - 1, seed + 1)]
        state = Watched.begun(BEGAN_S)
        for now_s in np.linspace(BEGAN_S + FIRST_S, BEGAN_S + FIRST_S + PERIOD_S - 1, 20).tolist():
            state, found = watched(state, "success", [row for row in rows if row.time_s <= now_s], now_s)
        wrong += found.changed
    assert wrong <= 3, "5 % of 60"


def test_the_first_weeks_are_remembered_and_periods_follow_each_other():
    rows = values(0.8, 100, BEGAN_S, FIRST_S)
    state, _ = watched(Watched.begun(BEGAN_S), "success", rows, BEGAN_S + FIRST_S)
    assert state.first == (sum(row.value for row in rows), 100)
    later = values(0.8, 50, BEGAN_S + FIRST_S + 2 * PERIOD_S, 1000)
    after, found = watched(state, "success", later, BEGAN_S + FIRST_S + 2 * PERIOD_S + 2000)
    assert (after.first, after.number, after.since_s) == (state.first, 3, BEGAN_S + FIRST_S + 2 * PERIOD_S)
    assert found.units == 50


def test_values_that_are_no_shares_are_undecided():
    rows = [Valued(BEGAN_S, "u", 4.5)]
    _, found = watched(Watched.begun(BEGAN_S), "stars", rows, BEGAN_S + FIRST_S + 1)
    assert (found.decided, found.reason) == (False, "its values are not all in 0..1")


def test_a_user_counts_once_with_the_first_request():
    rows = [Valued(3.0, "a", 0.0), Valued(1.0, "a", 1.0), Valued(2.0, "b", 0.0), Valued(9.0, "c", 1.0)]
    assert first_a_unit(rows, [(0.0, 5.0)]) == [(1.0, 2)]


def test_a_user_counts_in_the_first_weeks_and_in_a_period_once_each():
    rows = [Valued(time_s, "a", value) for time_s, value in ((1.0, 1.0), (4.0, 0.0), (5.0, 0.5), (6.0, 1.0))]
    assert first_a_unit([*rows, Valued(7.0, "b", 0.25)], [(0.0, 5.0), (5.0, 9.0)]) == [(1.0, 1), (0.75, 2)]


def test_the_last_judgement_within_the_horizon_counts():
    said = [
        Judgement("u", 10.0, "a", 12.0, 1.0),
        Judgement("u", 10.0, "a", 13.0, 0.0),
        Judgement("v", 95.0, "b", 96.0, 1.0),
    ]
    assert list(judged(said, horizon_s=50.0, now_s=100.0)) == [Valued(10.0, "u", 0.0)]


def test_the_declared_outcome_or_else_the_most_common_one_is_watched():
    counts = {"stars": 1, "success": 2}
    assert outcome_name(counts, "solved") == "solved"
    assert outcome_name(counts, None) == "success"
    assert outcome_name({}, None) is None


def test_refused_and_cancelled_requests_are_no_failures():
    rows = [
        Ending("u", 1.0, "ok"),
        Ending("u", 1.0, "failed"),
        Ending("u", 1.0, "refused"),
        Ending("u", 1.0, "cancelled"),
    ]
    assert [one.value for one in failures(rows)] == [0.0, 1.0]
