"""The test by betting: fair without drift, the same however one looks, and each row, user and prompt counted once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from serving import drift_test
from serving.drift_judge import PAYOFFS, Judge, Rows, scores_of
from serving.drift_test import ALPHA, BATCH, PASS_S, STAKES, Course, Live, Pass, Reference, is_enough, play

NOTHING = Rows([], [csr_matrix((0, 6))])


def rows_of(values: np.ndarray, first_mark: int = 0) -> Rows:
    return Rows(list(range(first_mark, first_mark + len(values))), [csr_matrix(values)])


def drawn(num: int, seed: int, shift: float = 0.0, first_mark: int = 0) -> Rows:
    values = np.random.default_rng(seed).normal(size=(num, 6)) / 3
    values[:, 0] += shift
    return rows_of(values, first_mark)


def reference(num: int = 600, seed: int = 0) -> Reference:
    return Reference(f"{seed + 1:x}", drawn(num, seed))


def live(rows: Rows, units: Sequence[int] | None = None, every_s: float = 1.0) -> Live:
    num = len(rows.marks)
    times = [every_s * place for place in range(num)]
    return Live([f"r{place:05d}" for place in range(num)], list(range(num)) if units is None else units, times, rows)


def begun() -> Pass:
    return Pass.begun(1, 1, -1.0)


def test_drift_is_found_and_no_drift_is_not():
    found = play(begun(), reference(), live(drawn(400, 1, shift=0.6)), NOTHING)
    assert found.found_s is not None
    assert found.state.evidence >= found.state.threshold
    nothing = play(begun(), reference(), live(drawn(400, 1)), NOTHING)
    assert nothing.found_s is None


def test_the_bet_is_fair_while_both_sides_are_alike():
    """Ville's inequality needs an expected fortune of at most 1; here it is measured, with all fortunes' spread."""
    courses = [
        play(begun(), reference(600, seed), live(drawn(300, 1000 + seed)), NOTHING) for seed in range(60)
    ]  # fmt: skip
    ends = [course.state.evidence for course in courses]
    assert np.mean(ends) <= 1 + 3 * np.std(ends) / len(ends) ** 0.5
    # One pass spends 2.5 %: more than five of 60 with p = 0.003.
    assert sum(course.found_s is not None for course in courses) <= 5


def looked(rows: Live, sizes: Sequence[int]) -> Course:
    """Play the same rows in several looks, each of which sees all rows so far."""
    state, course = begun(), None
    for size in sizes:
        seen = Live(
            rows.requests[:size], rows.units[:size], rows.times_s[:size], rows.rows.picked(range(size))
        )  # fmt: skip
        earlier = [seen.requests.index(request) for request in state.live]
        course = play(state, reference(), seen, seen.rows.picked(earlier))
        state = Pass.model_validate_json(course.state.model_dump_json())
        if course.found_s is not None:
            break
    assert course is not None
    return course


@pytest.mark.parametrize("shift", [0.0, 0.25])
def test_how_often_one_looks_changes_nothing(shift: float):
    rows = live(drawn(600, 5, shift=shift))
    once, often = looked(rows, [600]), looked(rows, [*range(7, 600, 31), 600])
    assert (often.found_s, often.state.batches, often.waiting) == (once.found_s, once.state.batches, once.waiting)
    assert often.state.evidence == pytest.approx(once.state.evidence, rel=1e-9)


def test_a_users_second_row_and_a_repeated_prompt_are_passed_over():
    rows = drawn(4 * BATCH, 1)
    twice = play(begun(), reference(), live(rows, units=[place // 2 for place in range(4 * BATCH)]), NOTHING)
    assert (twice.state.batches, twice.waiting) == (2, 0)
    same = replace(rows, marks=[place // 4 for place in range(4 * BATCH)])
    repeated = play(begun(), reference(), live(same), NOTHING)
    assert (repeated.state.batches, repeated.waiting) == (1, 0)


def test_one_user_who_floods_is_one_row():
    flood = live(drawn(3000, 1, shift=3.0), units=[7] * 3000)
    found = play(begun(), reference(), flood, NOTHING)
    assert (found.found_s, found.state.batches, found.waiting) == (None, 0, 1)


def test_fewer_rows_than_a_batch_wait():
    course = play(begun(), reference(), live(drawn(BATCH - 1, 1)), NOTHING)
    assert (course.state, course.waiting) == (begun(), BATCH - 1)


def test_a_pass_that_has_used_the_sketch_begins_anew_with_a_smaller_budget():
    course = play(begun(), reference(300), live(drawn(1000, 1)), NOTHING)
    assert course.state.number > 1
    assert course.state.threshold == course.state.number * (course.state.number + 1) / ALPHA
    assert len(course.state.units) == course.state.batches * BATCH
    budgets = [1 / Pass.begun(1, number, 0.0).threshold for number in range(1, 2000)]
    assert sum(budgets) < ALPHA


def test_users_come_again_in_the_next_pass():
    num = drift_test.PASS_BATCHES * BATCH + 50
    rows = drawn(2 * num, 1)
    units = [place % num for place in range(2 * num)]
    course = play(begun(), reference(2000), live(rows, units, every_s=PASS_S / num), NOTHING)
    assert course.state.number > 1


def test_a_few_users_who_stay_the_same_are_asked_again_after_a_week():
    num = 3 * BATCH
    units = [place % num for place in range(4 * num)]
    course = play(begun(), reference(2000), live(drawn(4 * num, 1), units, every_s=PASS_S / num), NOTHING)
    assert course.state.number > 1


def test_a_late_change_is_found_too():
    before, after = drawn(500, 1), drawn(500, 2, shift=0.8, first_mark=500)
    both = before.followed_by(after, 1000)
    course = play(begun(), reference(2000), live(both), NOTHING)
    assert course.found_s is not None
    assert 500 < course.found_s < 900


def test_a_rows_missing_block_wins_and_loses_nothing():
    judge = Judge.of(drawn(200, 1), drawn(200, 2, shift=1.0), drawn(100, 3))
    empty = Rows(list(range(BATCH)), [csr_matrix((BATCH, 6))])
    assert not np.any(judge.gains(drawn(BATCH, 4), empty))
    assert np.mean(judge.gains(drawn(BATCH, 4), drawn(BATCH, 5, shift=1.0))[0]) > 0.2


def test_gains_lie_within_one_so_that_no_stake_ruins():
    judge = Judge.of(drawn(200, 1), drawn(200, 2, shift=5.0), drawn(100, 3))
    gains = judge.gains(drawn(BATCH, 4, shift=9.0), drawn(BATCH, 5, shift=-9.0))
    assert len(gains) == PAYOFFS * len(scores_of(1))
    assert min(gain.min() for gain in gains) >= -1
    assert max(STAKES) < 1


def test_a_small_sketch_is_not_enough():
    assert not is_enough(reference(drift_test.LEAST_REFERENCE - 1))
    assert is_enough(reference(drift_test.LEAST_REFERENCE))
