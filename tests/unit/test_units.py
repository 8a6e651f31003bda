"""Rows to units: who counts, where, with which outcomes, and what is unusable."""

from __future__ import annotations

import random
from dataclasses import replace
from math import nan

import numpy as np
import pytest

from serving.design import Design
from serving.units import Exposure, Outcome, Units, folded

DESIGN = Design("e", ("a", "b"), "a", horizon_s=100)
LATE = 1e9


def shown(request: str, unit: str, arm: str, time_s: float, b: float = 0.5, forced: bool = False) -> Exposure:
    return Exposure(request, unit, arm, {"a": 1 - b, "b": b}, time_s, forced=forced)


def said(request: str, value: float, time_s: float, name: str = "success") -> Outcome:
    return Outcome(request, name, value, time_s)


def arms(units: Units) -> list[str]:
    return [units.arms[place] for place in units.arm_N]


def test_a_unit_counts_once_with_arm_and_probabilities_of_its_first_exposure() -> None:
    rows = [shown("3", "u", "b", 30, b=0.9), shown("1", "u", "a", 10, b=0.1), shown("2", "v", "b", 20)]
    units = folded(rows, [said("1", 1, 11), said("3", 0, 31), said("2", 1, 21)], DESIGN, LATE)
    assert arms(units) == ["a", "b"]
    assert units.probability_NA == pytest.approx(np.array([[0.9, 0.1], [0.5, 0.5]]))
    # The judgement of request 3, answered by b after the unit had crossed, is the unit's, and the unit is a's.
    assert units.value_N.tolist() == [0.5, 1.0]


def test_outcomes_after_the_horizon_do_not_count() -> None:
    rows = [shown("1", "u", "a", 10), shown("2", "u", "a", 60)]
    outcomes = [said("1", 1, 110), said("2", 0, 110.5)]
    assert folded(rows, outcomes, DESIGN, LATE).value_N.tolist() == [1.0]


def test_a_unit_waits_until_its_horizon_has_ended() -> None:
    rows = [shown("1", "u", "a", 0), shown("2", "v", "b", 50)]
    outcomes = [said("1", 1, 1), said("2", 1, 51)]
    counted = [folded(rows, outcomes, DESIGN, now).counted.tolist() for now in (99, 100, 149, 150)]
    assert counted == [[False, False], [True, False], [True, False], [True, True]]


def test_a_counted_unit_never_changes_and_counted_units_are_a_prefix() -> None:
    random_ = random.Random(0)
    rows = [
        shown(str(n), f"u{random_.randrange(40)}", random_.choice("ab"), random_.uniform(0, 500)) for n in range(200)
    ]
    outcomes = [said(row.request, random_.choice([0, 1]), row.time_s + random_.expovariate(0.02)) for row in rows]
    final = folded(rows, outcomes, replace(DESIGN, missing="zero"), LATE)
    for now in range(0, 700, 25):
        units = folded(rows, outcomes, replace(DESIGN, missing="zero"), now)
        prefix = units.num_matured
        assert units.counted.tolist() == [True] * prefix + [False] * (len(units.arm_N) - prefix)
        assert units.value_N[:prefix].tolist() == final.value_N[:prefix].tolist()
        assert units.arm_N.tolist() == final.arm_N[: len(units.arm_N)].tolist()


@pytest.mark.parametrize(("missing", "counted", "value"), [("exclude", [False, True], nan), ("zero", [True, True], 0)])
def test_a_missing_outcome_counts_as_declared(missing: str, counted: list[bool], value: float) -> None:
    design = replace(DESIGN, missing=missing)
    units = folded([shown("1", "u", "a", 0), shown("2", "v", "b", 1)], [said("2", 1, 2)], design, LATE)
    assert units.counted.tolist() == counted
    assert units.value_N.tolist() == pytest.approx([value, 1.0], nan_ok=True)


def test_forced_exposures_are_as_if_they_had_not_been() -> None:
    rows = [shown("1", "u", "b", 0, forced=True), shown("2", "u", "a", 50), shown("3", "w", "b", 5, forced=True)]
    units = folded(rows, [said("1", 0, 1), said("2", 1, 140), said("3", 1, 6)], DESIGN, LATE)
    assert arms(units) == ["a"]
    assert units.value_N.tolist() == [1.0]


def test_rows_may_come_in_any_order_and_repeatedly() -> None:
    rows = [shown(str(n), f"u{n % 7}", "ab"[n % 2], n * 3.0) for n in range(30)]
    outcomes = [said(str(n), n % 3 / 2, n * 3.0 + 1) for n in range(30)]
    once = folded(rows, outcomes, DESIGN, LATE)
    again = folded((rows + rows)[::-1], (outcomes + outcomes)[::-1], DESIGN, LATE)
    assert again.arm_N.tolist() == once.arm_N.tolist()
    assert again.value_N.tolist() == once.value_N.tolist()


def test_the_last_judgement_of_a_request_counts() -> None:
    outcomes = [said("1", 0, 5), said("1", 1, 9), said("1", 0, 7), said("1", 0, 300)]
    assert folded([shown("1", "u", "a", 0)], outcomes, DESIGN, LATE).value_N.tolist() == [1.0]


def test_other_outcomes_and_unknown_requests_are_not_ours() -> None:
    outcomes = [said("1", 0, 5, name="stars"), said("9", 0, 5), said("1", 1, 5)]
    assert folded([shown("1", "u", "a", 0)], outcomes, DESIGN, LATE).value_N.tolist() == [1.0]


def test_what_comes_after_the_look_is_not_seen() -> None:
    rows = [shown("1", "u", "a", 10), shown("2", "v", "b", 200)]
    units = folded(rows, [said("1", 0, 20), said("1", 1, 90)], replace(DESIGN, horizon_s=50), as_of_s=100)
    assert arms(units) == ["a"]
    assert units.value_N.tolist() == [0.0]


def test_probabilities_are_normalised_over_the_experiments_arms() -> None:
    row = Exposure("1", "u", "a", {"a": 0.2, "b": 0.3, "aside": 0.5}, 0)
    other = Exposure("2", "v", "aside", {"a": 0.2, "b": 0.3, "aside": 0.5}, 0)
    units = folded([row, other], [], DESIGN, LATE)
    assert units.probability_NA == pytest.approx(np.array([[0.4, 0.6]]))
    assert units.unusable == 0


@pytest.mark.parametrize(
    "row",
    [
        Exposure("1", "u", "a", {"a": 0.5, "b": 0.4}, 0),
        Exposure("1", "u", "a", {"a": 0.0, "b": 1.0}, 0),
        Exposure("1", "u", "a", {"b": 1.0}, 0),
        Exposure("1", "u", "a", {"a": nan, "b": 1.0}, 0),
        Exposure("1", "u", "a", {"a": 1.5, "b": -0.5}, 0),
    ],
)
def test_a_row_that_contradicts_itself_is_counted_as_unusable(row: Exposure) -> None:
    units = folded([row, shown("2", "v", "b", 1)], [], DESIGN, LATE)
    assert (arms(units), units.unusable) == (["b"], 1)


def test_an_outcome_that_is_no_number_is_unusable() -> None:
    units = folded([shown("1", "u", "a", 0)], [said("1", nan, 5)], DESIGN, LATE)
    assert (arms(units), units.unusable) == ([], 1)


def test_no_rows_are_no_units() -> None:
    units = folded([], [], DESIGN, LATE)
    assert (len(units.arm_N), units.probability_NA.shape, units.num_matured) == (0, (0, 2), 0)
