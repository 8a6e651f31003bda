"""A sweep's page, table and choice of finalists, from records of trials."""

from __future__ import annotations

import re
from typing import Any

import pytest

from cluster.sweep_spec import Dimension, Integers, Range
from tests.finished_sweeps import RATE, TRADED, finished_sweep, job, traded_trials, trial, trials
from tests.page_outline import refuse_fetching_or_running
from tuning.contest import Contender, decide
from tuning.finals import finalists, other_seeds, own_trial
from tuning.importance import early_value, importances
from tuning.outcome import compared
from tuning.plots import Scale
from tuning.report import best_so_far, sweep_page
from tuning.table import Live, table_lines, trial_line
from tuning.trials import Assigned, best_trials


def test_the_page_shows_every_part_and_fetches_and_runs_nothing() -> None:
    runs = [trial(number, 0.6 + number / 100 + seed / 1000, seed=seed) for number in (9, 7, 0) for seed in (1, 2)]
    text = sweep_page(finished_sweep({"lead": [0.1, 0.05, 0.15], "half_width": 0.02}, runs))
    refuse_fetching_or_running(text)
    heads = re.findall(r"<h2>([^<]+)</h2>", text)
    assert heads == ["History", "Curves", "Parallel coordinates", "Importances", "Slices", "Finals", "Trials"]
    assert "beats the job&#39;s own values" in text
    assert "<b>q</b>" not in text, "what a user wrote is text"
    assert "the loss became nan" in text


@pytest.mark.parametrize(
    ("finals", "said"),
    [
        ({"lead": [0.1, 0.05, 0.15]}, "beats"),
        ({"lead": [0.1, -0.05, 0.25]}, "cannot be told"),
        ({"lead": None, "no_lead": "It diverged."}, "not known. It diverged."),
        ({"winner": 0}, "own values won"),
        ({"own": None}, "outside the space"),
    ],
)
def test_the_page_says_whether_the_winner_can_be_told_from_the_jobs_own_values(
    finals: dict[str, Any], said: str
) -> None:
    done = finished_sweep(finals)
    assert said in " ".join(compared(done.job, done.finals, done.trials))


def test_the_table_names_each_trials_state_and_the_best_that_ran_its_full_budget() -> None:
    live = [Live(Assigned("trials/12", 12, {"train.learning_rate": 1e-4}, None), 0.0, progress=333, value=1.25)]
    lines = table_lines(trials(), live, ("loss", [150, 450]), 20, 90.0)
    assert lines[0].split()[:6] == ["trial", "state", "loss", "rung", "done", "learning_rate"]
    assert re.search(r"^ +9 +done +0\.6000 +2/2 +100% ", lines[10])
    assert re.search(r"^ +12 +trains +1\.2500 +1/2 +33% +0\.0001$", lines[13])
    assert "  10 diverged: the loss became nan at step 3 of 600" in lines, "causes stand below the table"
    assert lines[-1].strip() == "12 of 20 trials, best loss 0.6000 (trials/9), about 1 min 30 s left"
    assert trial_line(trials()[10], ("loss", [])).endswith("17%  diverged: the loss became nan at step 3 of 600")


def test_a_key_has_a_column_of_its_own_that_is_empty_where_it_does_not_apply() -> None:
    some: list[dict[str, Any]] = [
        {"base": f"/quite/a/long/way/to/{name}", "train.lora.rank": rank} for name, rank in (("x", 4), ("y", 8))
    ]
    live = [Live(Assigned(f"trials/{n}", n, values, None), 0.0) for n, values in enumerate([*some, {"base": "z"}])]
    lines = table_lines([], live, ("loss", []), 3, None)
    assert [len(line) for line in lines[:3]] == [len(lines[0])] * 3
    assert lines[0].split() == ["trial", "state", "loss", "done", "base", "lora.rank"]
    assert lines[1].split()[-2:] == ["…e/a/long/way/to/x", "4"]
    assert lines[3].split()[-1] == "z"


def test_under_a_tradeoff_the_page_shows_the_front_and_the_table_what_each_trial_pays() -> None:
    told = traded_trials()
    text = sweep_page(finished_sweep({"winner": 9, "lead": [0.3, 0.2, 0.4]}, told=told, **TRADED))
    refuse_fetching_or_running(text)
    assert re.findall(r"<h2>([^<]+)</h2>", text)[:2] == ["History", "Trade-off"]
    assert "across: seconds a generated token" in text
    assert "0.0019" in text
    assert "Trial 9 won: the cheapest of those at most 0.1 loss behind the best." in text
    assert "It pays 0.0019 seconds a generated token, the job&#39;s own values 0.001." in text
    assert "Its loss is 0.3 better than theirs" in text
    lines = table_lines(told, [], ("loss", []), 12, None)
    assert "latency_s" in lines[0]
    assert re.search(r"^ +9 +done +0\.6000 +0\.0019 +100% ", lines[10])
    assert trial_line(told[9], ("loss", [])).endswith("loss 0.6000  latency_s 0.0019  done")


def test_under_a_tradeoff_the_jobs_own_values_may_win_for_their_price() -> None:
    done = finished_sweep({"winner": 0}, told=traded_trials(), **TRADED)
    assert compared(done.job, done.finals, done.trials) == (
        "note",
        "The job's own values won.",
        "They are the cheapest of those at most 0.1 loss behind the best.",
    )


def test_finalists_ran_their_full_budget_and_the_jobs_own_values_are_among_them() -> None:
    assert [t.number for t in finalists(job(finalists=2), trials(), "min")] == [9, 7, 0]
    assert [t.number for t in finalists(job(finalists=3), trials(), "min")] == [9, 7, 0]
    assert [t.number for t in finalists(job(finalists=5), trials(), "min")] == [9, 7, 0, 8, 6], "then the best pruned"
    own = own_trial(job(), trials())
    assert own is not None
    assert own.number == 0
    assert other_seeds(job(seeds=3)) == [1, 2, 3]


def test_of_equal_trials_the_earlier_one_is_better() -> None:
    assert [t.number for t in best_trials([trial(3, 1.0), trial(1, 1.0)], "max", 2, ("complete",))] == [1, 3]


def test_importance_goes_to_the_key_that_decides() -> None:
    space: dict[str, Dimension] = {
        "train.learning_rate": Range(0.0, 1.0, log=False),
        "train.dropout": Range(0.0, 1.0, log=False),
    }
    found = [
        trial(n, None, **{"train.learning_rate": (n * 7 % 40) / 40, "train.dropout": (n * 11 % 40) / 40})
        for n in range(40)
    ]
    by_rate = importances(found, {n: (n * 7 % 40) / 40 for n in range(40)}, space, "min")
    by_dropout = importances(found, {n: -(n * 11 % 40) / 40 for n in range(40)}, space, "max")
    assert by_rate[RATE] > 0.8
    assert by_dropout["train.dropout"] > 0.8
    assert importances(found[:3], {0: 1.0, 1: 2.0, 2: 3.0}, space, "min") == {}


def test_a_key_that_never_varied_has_no_importance() -> None:
    tried: list[dict[str, Any]] = [{"train.learning_rate": n / 10, "train.dropout": n % 3 / 10} for n in range(10)]
    found = [trial(n, 1.0 + n, **varied) for n, varied in enumerate(tried)]
    values: dict[str, Dimension] = {
        "train.learning_rate": Range(0.0, 1.0, log=False),
        "train.dropout": Range(0.0, 1.0, log=False),
        "train.lora.rank": Integers(4, 64),
    }
    assert set(importances(found, {t.number: t.value or 0.0 for t in found}, values, "min")) == {*values} - {
        "train.lora.rank"
    }


def test_the_best_so_far_is_drawn_in_steps() -> None:
    told = [trial(2, 0.5), trial(0, 0.9), trial(1, 0.1, "pruned"), trial(3, 0.7)]
    assert best_so_far(told, is_lower=True) == [(0, 0.9), (0, 0.9), (2, 0.9), (2, 0.5), (3, 0.5), (3, 0.5)]
    assert best_so_far(told, is_lower=False)[-1] == (3, 0.9)


def test_trials_are_judged_early_by_what_they_had_at_the_first_rung() -> None:
    curve = [(0.1, 3.0), (0.2, 2.0), (1.0, 1.0)]
    assert early_value(curve, 0.15, 1.0) == 2.0
    assert early_value(curve[:1], 0.15, 3.0) == 3.0
    assert early_value([], 0.15, None) is None


def test_scales_place_numbers_by_order_of_magnitude_and_names_in_turn() -> None:
    log = Scale.of([1e-4, 1e-2], is_log=True, ends=(1e-4, 1e-2))
    assert log.frac(1e-3) == pytest.approx(0.5)
    assert [label for _, label in log.ticks()] == ["1e-4", "0.001", "0.01"]
    assert [Scale.of(["a", "b"]).frac(name) for name in ("a", "b")] == [0.25, 0.75]
    assert Scale.of([True, False]).axis is None


def test_a_contest_is_won_by_the_mean_over_seeds_not_by_one_lucky_seed() -> None:
    lucky, steady = Contender(1, {1: 0.99, 2: 0.5}), Contender(2, {1: 0.8, 2: 0.8})
    assert decide([lucky, steady], "max", None).winner == 2
