"""Ray's own schedulers as judges: they decide as Ray does, and never end a trial themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from cluster.spec import JobSpec
from cluster.store import Store
from tuning.judge import (
    BEYOND,
    EXPLODED,
    FULL,
    PROGRESS,
    VALUE,
    Halving,
    Judge,
    Lenient,
    Median,
    Verdicts,
    grace_frac,
    judge_of,
    rungs,
    rungs_passed,
)

RUN = "a-20260101-000000-abcd"


@dataclass(eq=False)
class Tried:
    """What a scheduler sees of a Tune trial."""

    number: int
    status: str = "RUNNING"
    config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.config = {"name": f"trials/{self.number}"}

    @property
    def trial_id(self) -> str:
        return f"id-{self.number}"


class Controller:
    """A Tune controller with other trials waiting, which is when Ray's median rule would pause."""

    def get_live_trials(self) -> list[Tried]:
        return [Tried(99, status="PENDING")]


@pytest.fixture
def verdicts(tmp_path: Path) -> Verdicts:
    return Verdicts(Store(str(tmp_path)), RUN)


def spec(**sweep: Any) -> JobSpec:
    block = {"space": {"train.learning_rate": "loguniform(1e-5, 1e-2)"}, **sweep}
    return JobSpec.model_validate({"name": "a", "base": "b", "data": "c", "sweep": block})


def judge(verdicts: Verdicts, mode: str = "min", **sweep: Any) -> Judge:
    job = spec(**sweep)
    assert job.sweep is not None
    return judge_of(job.sweep, job.train, verdicts, mode)


def told(judge: Judge, trial: Tried, progress: int, value: float, **more: Any) -> str:
    return judge.on_trial_result(Controller(), trial, {PROGRESS: progress, VALUE: value, **more})


def losses(trials: int) -> Iterator[tuple[int, float, int]]:
    """Trials whose losses fall at their own rate, in the order of their reports."""
    for progress in range(100, FULL, 100):
        for number in range(trials):
            yield number, (1 + (number * 7919) % 13) / progress, progress


def test_halving_stops_exactly_whom_rays_asha_stops_once_a_rung_is_peopled(verdicts: Verdicts) -> None:
    ours = judge(verdicts, grace=0.1)
    assert isinstance(ours, Halving)
    theirs = ASHAScheduler(
        time_attr=PROGRESS, metric=VALUE, mode="min", max_t=BEYOND, grace_period=100, reduction_factor=3
    )
    trials = [Tried(number) for number in range(12)]
    for trial in trials:
        ours.on_trial_add(None, trial)  # pyright: ignore[reportArgumentType]
        theirs.on_trial_add(None, trial)  # pyright: ignore[reportArgumentType]
    for number, start in enumerate((3.0, 5.0)):
        curve = {progress: start / progress for progress in (100, 300, 900)}
        ours.remember(str(number), curve)
        for progress, loss in curve.items():
            theirs._brackets[0].on_result(Tried(100 + number), progress, -loss)  # pyright: ignore
    stopped: set[int] = set()
    for number, loss, progress in losses(12):
        if number in stopped:
            continue
        assert told(ours, trials[number], progress, loss) == TrialScheduler.CONTINUE
        result = {PROGRESS: progress, VALUE: loss}
        if theirs.on_trial_result(None, trials[number], result) == TrialScheduler.STOP:  # pyright: ignore
            stopped.add(number)
    assert 4 <= len(stopped) < 12
    assert {number for number in range(12) if verdicts.read(f"trials/{number}") == "pruned"} == stopped


def test_halving_ends_nobody_before_as_many_as_its_factor_are_at_the_rung(verdicts: Verdicts) -> None:
    asha = judge(verdicts, grace=0.1)
    for number, loss in enumerate((1.0, 2.0, 3.0)):
        trial = Tried(number)
        asha.on_trial_add(None, trial)  # pyright: ignore[reportArgumentType]
        told(asha, trial, 100, loss)
    assert [verdicts.read(f"trials/{number}") for number in range(3)] == [None, None, "pruned"]


def test_a_trial_that_was_told_to_stop_is_not_judged_again(verdicts: Verdicts) -> None:
    asha = judge(verdicts, grace=0.1)
    bad = Tried(2)
    for trial in (Tried(0), Tried(1), bad):
        asha.on_trial_add(None, trial)  # pyright: ignore[reportArgumentType]
        told(asha, trial, 100, 1.0 + trial.number)
    assert verdicts.read("trials/2") == "pruned"
    verdicts.clear("trials/2")
    assert told(asha, bad, 350, 4.0) == TrialScheduler.CONTINUE
    assert verdicts.read("trials/2") is None


def test_reaching_the_full_budget_is_no_reason_to_stop(verdicts: Verdicts) -> None:
    asha = judge(verdicts, grace=0.1)
    trial = Tried(0)
    asha.on_trial_add(None, trial)  # pyright: ignore[reportArgumentType]
    for progress in (100, 500, FULL):
        told(asha, trial, progress, 1.0)
    assert verdicts.read("trials/0") is None


@pytest.mark.parametrize("prune", ["asha", "median", "none"])
def test_a_loss_that_exploded_is_stopped_under_every_judge(verdicts: Verdicts, prune: str) -> None:
    lenient = judge(verdicts, prune=prune)
    trial = Tried(0)
    lenient.on_trial_add(None, trial)  # pyright: ignore[reportArgumentType]
    assert told(lenient, trial, 10, 50.0, **{EXPLODED: True}) == TrialScheduler.CONTINUE
    assert verdicts.read("trials/0") == "diverged"


def test_the_median_rule_stops_the_worse_and_never_pauses(verdicts: Verdicts) -> None:
    median = judge(verdicts, prune="median", grace=0.1)
    assert isinstance(median, Median)
    trials = [Tried(number) for number in range(5)]
    for place, trial in enumerate(trials):
        median.on_trial_add(None, trial)  # pyright: ignore[reportArgumentType]
        for progress in (100, 200, 300):
            assert told(median, trial, progress, 1.0 + place) == TrialScheduler.CONTINUE
        median.on_trial_complete(None, trial, {PROGRESS: FULL, VALUE: 1.0 + place})
    assert [verdicts.read(f"trials/{number}") for number in range(5)] == [None, None, None, "pruned", "pruned"]


def test_nobody_is_pruned_where_nobody_shall_be(verdicts: Verdicts) -> None:
    lenient = judge(verdicts, prune="none")
    assert isinstance(lenient, Lenient)
    for number in range(6):
        trial = Tried(number)
        lenient.on_trial_add(None, trial)  # pyright: ignore[reportArgumentType]
        told(lenient, trial, 500, float(number))
    assert not any(verdicts.read(f"trials/{number}") for number in range(6))


def test_trials_of_an_earlier_session_are_the_yardstick_of_later_ones(verdicts: Verdicts) -> None:
    for mode, good, bad in (("min", 1.0, 2.0), ("max", 2.0, 1.0)):
        asha = judge(verdicts, mode, grace=0.1)
        for number in range(2):
            asha.remember(f"trials/{number}", {100: good, 350: good})
        trial = Tried(2)
        asha.on_trial_add(None, trial)  # pyright: ignore[reportArgumentType]
        told(asha, trial, 100, bad)
        assert verdicts.read("trials/2") == "pruned"
        verdicts.clear("trials/2")


def test_earlier_trials_count_in_the_median_too(verdicts: Verdicts) -> None:
    median = judge(verdicts, prune="median", grace=0.1)
    for number in range(3):
        median.remember(f"trials/{number}", {100: 1.0, 200: 1.0, FULL: 1.0})
    trial = Tried(7)
    median.on_trial_add(None, trial)  # pyright: ignore[reportArgumentType]
    told(median, trial, 200, 2.0)
    assert verdicts.read("trials/7") == "pruned"


def test_the_first_reason_to_stop_stays(verdicts: Verdicts) -> None:
    verdicts.tell("trials/0", "pruned")
    verdicts.tell("trials/0", "interrupted")
    assert verdicts.read("trials/0") == "pruned"


def test_grace_begins_after_the_longest_warm_up_of_the_space() -> None:
    for space, warmup in (
        ({}, 0.05),
        ({"train.warmup": "uniform(0.0, 0.2)"}, 0.2),
        ({"train.warmup": [0.0, 0.3]}, 0.3),
    ):
        job = spec(space={"train.learning_rate": "loguniform(1e-5, 1e-2)", **space})
        assert job.sweep is not None
        assert grace_frac(job.sweep, job.train) == pytest.approx(warmup + 0.1)


def test_rungs_multiply_by_the_reduction_up_to_the_full_budget() -> None:
    job = spec(grace=0.1, reduction=3)
    assert job.sweep is not None
    assert rungs(job.sweep, job.train) == [100, 300, 900]
    assert [rungs_passed(progress, [100, 300, 900]) for progress in (0, 100, 299, 300, FULL)] == [0, 1, 1, 2, 3]
    assert rungs(spec(prune="none").sweep, job.train) == []  # pyright: ignore[reportArgumentType]
