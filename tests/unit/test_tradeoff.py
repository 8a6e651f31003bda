"""Trials of two values: the front against its definition, who wins on it, whose weights may go, what was measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.finished_runs import history, trained
from tests.finished_sweeps import job, trial
from tests.plans import a_plan
from tuning import tradeoff
from tuning.contest import Contender, decide
from tuning.finals import finalists
from tuning.latency import NEW_TOKENS, REPEATS, seconds_a_token
from tuning.trials import TrialRecord

NUMBERS = st.integers(0, 5).map(float)


def paying(number: int, value: float, amount: float, rank: int = 8, name: str = "cost_worker_s") -> TrialRecord:
    found = trial(number, value, **{"train.lora.rank": rank})
    return found.model_copy(update={"against": {name: amount}})


def numbers(trials: list[TrialRecord]) -> list[int]:
    return [trial.number for trial in trials]


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=12), st.sampled_from(["min", "max"]))
def test_the_front_is_what_no_other_trial_beats(points: list[tuple[float, float]], mode: str) -> None:
    trials = [paying(number, value, cost) for number, (value, cost) in enumerate(points)]
    sign = 1.0 if mode == "max" else -1.0

    def beats(one: TrialRecord, other: TrialRecord) -> bool:
        (gain, cost), (gained, paid) = ((sign * (t.value or 0.0), t.against["cost_worker_s"]) for t in (one, other))
        equal = (gain, cost) == (gained, paid)
        return one.number < other.number if equal else gain >= gained and cost <= paid

    expected = {t.number for t in trials if not any(beats(other, t) for other in trials if other is not t)}
    found = tradeoff.front(trials, mode)
    assert set(numbers(found)) == expected
    costs = [t.against["cost_worker_s"] for t in found]
    assert costs == sorted(costs)


def test_the_cheapest_that_gives_up_little_enough_wins() -> None:
    trials = [paying(0, 0.60, 1.0), paying(1, 0.70, 2.0), paying(2, 0.71, 9.0), paying(3, 0.65, 3.0)]
    assert numbers(tradeoff.front(trials, "max")) == [0, 1, 2]
    for give_up, winners in ((0.0, [2]), (0.01, [1, 2]), (0.5, [0, 1, 2])):
        assert numbers(tradeoff.affordable(trials, "max", give_up)) == winners
    worse = [paying(4, 0.71, 9.0).model_copy(update={"state": "diverged", "against": {}, "value": None})]
    assert numbers(tradeoff.affordable([*trials, *worse], "max", 0.01)) == [1, 2]
    assert tradeoff.affordable([], "max", 0.01) == []


def test_trials_of_one_shape_share_its_least_latency_so_the_better_of_them_wins() -> None:
    """Trial 1 was measured in a quiet moment; it is the same model as trial 2, with worse weights."""
    trials = [paying(n, v, s, name="latency_s") for n, v, s in ((1, 0.700, 0.0010), (2, 0.705, 0.0013))]
    slow = paying(3, 0.706, 0.0030, rank=64, name="latency_s")
    assert tradeoff.paid([*trials, slow]) == {1: 0.0010, 2: 0.0010, 3: 0.0030}
    assert numbers(tradeoff.affordable([*trials, slow], "max", 0.01)) == [2, 3]
    assert tradeoff.told([*trials, slow], "max")[0] == {
        "params": trials[1].values,
        "value": 0.705,
        "latency_s": 0.0010,
    }


@given(
    st.lists(st.tuples(NUMBERS, NUMBERS, st.sampled_from([4, 8])), min_size=1, max_size=12),
    st.sampled_from(["latency_s", "cost_worker_s"]),
    st.integers(0, 3).map(float),
)
def test_the_weights_of_whoever_wins_at_the_end_were_kept_all_the_time(
    points: list[tuple[float, float, int]], name: str, give_up: float
) -> None:
    trials = [paying(number, value, paid, rank, name) for number, (value, paid, rank) in enumerate(points)]
    winner = tradeoff.affordable(trials, "max", give_up)[0]
    for many in range(winner.number + 1, len(trials) + 1):
        assert winner.number in numbers(tradeoff.may_win(trials[:many], "max", give_up))


def test_finalists_are_the_cheapest_that_may_win_the_best_of_all_and_the_jobs_own_values() -> None:
    own = trial(0, 0.5).model_copy(update={"against": {"cost_worker_s": 50.0}})
    points = ((1, 1.30, 1.0), (2, 1.29, 2.0), (3, 1.28, 3.0), (4, 1.27, 4.0), (5, 3.0, 0.5))
    others = [paying(number, 1 - value / 10, cost, rank=16) for number, value, cost in points]
    of = job(tradeoff={"against": "cost", "give_up": 0.1}, finalists=3)
    assert numbers(finalists(of, [own, *others], "max")) == [1, 2, 4, 0]
    one = job(tradeoff={"against": "cost", "give_up": 0.0}, finalists=3)
    assert numbers(finalists(one, [own, *others], "max")) == [4, 0], "none is trained again that cannot win"


def test_a_contest_under_a_tradeoff_is_won_by_the_cheapest_near_the_best_mean() -> None:
    cheap, dear = Contender(1, {1: 0.70, 2: 0.72}, pays=1.0), Contender(2, {1: 0.71, 2: 0.73}, pays=5.0)
    far = Contender(3, {1: 0.1, 2: 0.1}, pays=0.1)
    for give_up, winner in ((0.01, 1), (0.005, 2), (None, 2)):
        assert decide([cheap, dear, far], "max", None, give_up).winner == winner
    verdict = decide([cheap, dear, far], "max", 2, 0.01)
    assert verdict.lead is not None
    assert verdict.lead[0] == pytest.approx(-0.01), "it is worse than the job's own values, and says so"


def priced(**cluster: Any) -> dict[str, float]:
    of = job().model_copy(update={"cluster": job().cluster.model_copy(update=cluster)})
    made = a_plan(gpus_per_worker=0.5, workers=2)
    spent = trained(history()).model_copy(
        update={"seconds": 1000.0, "evaluation_s": 700.0, "saving_s": 100.0, "world_size": 2}
    )
    return tradeoff.training_cost(of, made, spent)


def test_a_training_costs_worker_seconds_or_dollars_where_a_gpu_has_a_price() -> None:
    assert priced() == {"cost_worker_s": 3600.0}
    assert priced(price_per_gpu_hour=3.0) == {"cost_usd": 1.5}


def test_a_token_takes_the_median_over_prompts_of_its_fastest_repeat() -> None:
    """Prompts of 1, 2 and 9 seconds a token; other work makes four tokens of five longer, others each time."""
    now, calls = [0.0], []

    def go_on(prompt: list[int], on_token: Callable[[], None]) -> None:
        calls.append(prompt[0])
        for place in range(NEW_TOKENS):
            is_quiet = (place + calls.count(prompt[0])) % REPEATS == 0
            now[0] += prompt[0] * (1.0 if is_quiet else 3.0)
            on_token()

    assert seconds_a_token(go_on, [[1], [2], [9]], lambda: now[0]) == 2.0
    assert calls[:7] == [1, 1, 2, 9, 1, 2, 9], "once to warm up, then in turn"
