"""What a trial leaves on disk, read back; which weights stay; what the driver makes of a trial's last report."""

from __future__ import annotations

import io
import json
from math import nan
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from cluster.capacity import Capacity, NodeCapacity
from cluster.errors import StoreError
from cluster.progress import Progress
from cluster.records import Plan
from cluster.run_context import RunContext
from cluster.session import Settings
from cluster.spec import JobSpec
from cluster.store import Store
from tests.finished_runs import history, trained
from tests.finished_sweeps import TRADED, job, trial
from tuning.driver import Driver
from tuning.endings import penalty, study_ending, traded_ending
from tuning.judge import FULL, PROGRESS, VALUE
from tuning.objective import RESULT, Arena, evaluations, progress_of
from tuning.readiness import variants
from tuning.study import CONVERGED_AFTER, Ending
from tuning.sweep import ENDED_BY, is_over, nothing_found
from tuning.trials import CUT, TRIALS, Assigned, drop_weights, keep_trial, read_trials, trial_place

RUN = "router-20260101-000000-abcd"


class Untracked:
    """Stands for a registry whose database is away."""

    def log_trial(self, *_: Any) -> None:
        raise StoreError("MLflow refused: it is away")


@pytest.fixture
def driver(tmp_path: Path) -> Driver:
    settings = Settings.from_env({"HONE_HOME": str(tmp_path)}, tmp_path)
    ctx = RunContext(RUN, job(), settings, Store(str(tmp_path)), Untracked(), Progress(io.StringIO()))  # pyright: ignore
    return Driver(ctx, arena(str(tmp_path)), TRIALS, 12)


def arena(home: str) -> Arena:
    node = NodeCapacity("here", 2, 0, 2**30)
    return Arena(RUN, home, job(), {}, Capacity((node,)), 2, explodes_at=12.0)


def assigned(number: int) -> Assigned:
    return Assigned(f"trials/{number}", number, {"train.learning_rate": 1e-4, "train.lora.targets": 'json:["q"]'}, None)


def ended(driver: Driver, number: int, progress: int, value: float | None, **told: Any) -> Any:
    result = {PROGRESS: progress, RESULT: json.dumps(told), "time_total_s": 5.0}
    return driver.ended(assigned(number), result | ({} if value is None else {VALUE: value}))


def test_records_come_back_by_number(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for number in (10, 2):
        keep_trial(store, RUN, trial(number, 1.0))
    assert [record.number for record in read_trials(store, RUN)] == [2, 10]


def test_weights_stay_only_where_they_may_win_and_curves_always(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    records = [trial(number, 1.0) for number in range(2)]
    for record in records:
        directory = Path(trial_place(store, RUN, record.name))
        for part in ("best-00000010", "step-00000020", ".aside"):
            (directory / part).mkdir(parents=True)
        (directory / "history.jsonl").touch()
    drop_weights(store, RUN, ["trials/1"], records)
    left = {path.relative_to(tmp_path / "runs" / RUN).as_posix() for path in tmp_path.rglob("*") if not path.is_dir()}
    assert left == {"trials/0/history.jsonl", "trials/1/history.jsonl"}
    assert [path.parent.name for path in tmp_path.rglob("best-*")] == ["1"]
    assert not list(tmp_path.rglob("step-*"))


def test_the_best_value_so_far_counts_and_one_that_is_not_finite_does_not() -> None:
    rows = [{"step": step, "validation_loss": loss} for step, loss in ((1, 3.0), (2, nan), (3, 2.0), (4, 2.5))]
    assert [(seen.step, seen.value, seen.best) for seen in evaluations(rows, "loss")] == [
        (1, 3.0, 3.0),
        (3, 2.0, 2.0),
        (4, 2.5, 2.0),
    ]
    scored = [{"step": 1, "validation_loss": 1.0, "validation_f1": 0.5}, {"step": 2, "loss": 0.1}]
    assert [seen.best for seen in evaluations(scored, "f1")] == [0.5]
    assert [progress_of(step, 600) for step in (0, 100, 600)] == [0, 167, FULL]


def test_each_last_report_becomes_the_record_that_the_study_is_told(driver: Driver) -> None:
    whole = trained(history())
    verdicts = driver.arena.verdicts
    verdicts.tell("trials/1", "pruned")
    verdicts.tell("trials/2", "budget")
    verdicts.tell("trials/5", "diverged")
    verdicts.tell("trials/6", "interrupted")
    found = [
        ended(driver, 0, FULL, whole.best_value, trained=whole.model_dump()),
        ended(driver, 1, 167, 2.0, step=100, steps=600),
        ended(driver, 2, 333, 1.5, step=200, steps=600),
        ended(driver, 3, 0, None, failure="it does not fit"),
        ended(driver, 4, 10, None, diverged="the loss became nan", step=0, steps=600),
        ended(driver, 5, 167, 50.0, step=100, steps=600),
        ended(driver, 6, 167, 2.0, step=100, steps=600),
    ]
    assert [record.state for record in found] == [
        "complete", "pruned", "pruned", "failed", "diverged", "diverged", "interrupted",
    ]  # fmt: skip
    assert [record.number for record in read_trials(driver.ctx.store, RUN)] == [0, 1, 2, 3, 4, 5], "none interrupted"
    assert "time or money" in found[2].why
    assert found[0].values["train.lora.targets"] == ["q"]
    assert (found[1].progress, found[1].step, found[1].steps, found[1].seconds) == (167, 100, 600, 5.0)
    worst = penalty(job(), driver.arena)
    endings = [study_ending(record, worst) for record in found]
    assert [ending and (ending.state.name, ending.value) for ending in endings] == [
        ("COMPLETE", whole.best_value),
        ("PRUNED", None),
        None,
        ("FAIL", None),
        ("COMPLETE", worst),
        ("COMPLETE", worst),
        None,
    ]
    assert worst == 12.0


def test_a_trial_of_two_values_that_diverged_is_off_the_front_or_a_failure(tmp_path: Path) -> None:
    settings = Settings.from_env({"HONE_HOME": str(tmp_path)}, tmp_path)
    of = job(**TRADED)
    ctx = RunContext(RUN, of, settings, Store(str(tmp_path)), Untracked(), Progress(io.StringIO()))  # pyright: ignore
    driver = Driver(ctx, arena(str(tmp_path)), TRIALS, 12)
    diverged = ended(driver, 0, 10, None, diverged="the loss became nan", step=0, steps=600)
    assert traded_ending(diverged, 12.0, driver.most_paid()) == Ending(TrialState.FAIL)
    whole = trained(history())
    for number, latency_s in ((1, 0.002), (2, 0.004)):
        told = {"trained": whole.model_dump(), "against": {"latency_s": latency_s}}
        record = ended(driver, number, FULL, whole.best_value, **told)
        assert record.against == {"latency_s": latency_s}
        ending = traded_ending(record, 12.0, driver.most_paid())
        assert ending == Ending(TrialState.COMPLETE, whole.best_value, latency_s)
    ending = traded_ending(ended(driver, 3, 10, None, diverged="nan", step=0, steps=600), 12.0, driver.most_paid())
    assert ending is not None
    assert ending.values == [12.0, 0.002], "both were of one shape, and share its least latency"


def test_the_run_asked_to_stop_ends_the_search_and_tells_the_trials(driver: Driver) -> None:
    from cluster.runs import request_stop

    driver.started(assigned(0))
    driver.look()
    assert not driver.is_over()
    request_stop(driver.ctx.store, RUN)
    driver.look()
    assert driver.is_over()
    assert driver.arena.verdicts.read("trials/0") == "interrupted"


def test_a_search_whose_time_is_used_up_ends_with_what_it_has(tmp_path: Path) -> None:
    settings = Settings.from_env({"HONE_HOME": str(tmp_path)}, tmp_path)
    of = job(max_hours=1e-9)
    ctx = RunContext(RUN, of, settings, Store(str(tmp_path)), Untracked(), Progress(io.StringIO()))  # pyright: ignore
    driver = Driver(ctx, arena(str(tmp_path)), TRIALS, 12)
    driver.started(assigned(0))
    driver.look()
    assert driver.why_over == "budget"
    assert driver.arena.verdicts.read("trials/0") == "budget"


def test_a_search_that_has_converged_begins_no_further_trial_and_lets_the_others_end(driver: Driver) -> None:
    study, sweep = optuna.create_study(), driver.ctx.job.sweep
    assert sweep is not None
    asked = sweep.model_copy(update={"until_converged": True})
    space: dict[str, Any] = {"x": optuna.distributions.FloatDistribution(0.0, 1.0)}
    driver.started(assigned(0))
    for number in range(CONVERGED_AFTER - 1):
        point = {"x": number / CONVERGED_AFTER}
        study.add_trial(optuna.trial.create_trial(params=point, distributions=space, value=(point["x"] - 0.3) ** 2))
    assert not is_over(driver, study, asked), "so few trials show nothing"
    study.add_trials([study.best_trial] * 20)
    assert not is_over(driver, study, sweep), "the job has to ask for it"
    assert is_over(driver, study, asked)
    assert ENDED_BY[driver.why_over] == "no better value was to be expected", "which the report says"
    assert driver.arena.verdicts.read("trials/0") is None


class Planned(RunContext):
    """A run whose final trainings take four GPUs."""

    def plan(self) -> Plan:
        return Plan.model_construct(workers=4, gpus_per_worker=1.0)


def priced(tmp_path: Path, clock: Clock, **sweep: Any) -> Driver:
    """A driver of a search whose trials take one GPU, a minute of which costs a dollar."""
    settings = Settings.from_env({"HONE_HOME": str(tmp_path)}, tmp_path)
    plain = job(workers=1).model_dump() | {"cluster": {"price_per_gpu_hour": 60.0}}
    of = JobSpec.model_validate(plain | {"sweep": plain["sweep"] | sweep})
    ctx = Planned(RUN, of, settings, Store(str(tmp_path)), Untracked(), Progress(io.StringIO()))  # pyright: ignore
    return Driver(ctx, arena(str(tmp_path)), TRIALS, 12, clock)


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_searchs_money_pays_for_each_trial_with_the_workers_that_trials_have(tmp_path: Path) -> None:
    clock = Clock()
    driver = priced(tmp_path, clock, max_cost=2.5)
    driver.started(assigned(0))
    driver.started(assigned(1))
    for now_s, why in ((60.0, ""), (80.0, "budget")):
        clock.now_s = now_s
        driver.look()
        assert driver.why_over == why
    assert driver.arena.verdicts.read("trials/0") == "budget"


def test_attempts_that_failed_and_trials_that_were_interrupted_have_cost_what_they_took(tmp_path: Path) -> None:
    clock = Clock()
    driver = priced(tmp_path, clock, max_cost=2.5)
    driver.started(assigned(0))
    clock.now_s = 60.0
    driver.started(assigned(0))  # the second attempt
    clock.now_s = 120.0
    driver.arena.verdicts.tell("trials/0", "interrupted")
    ended(driver, 0, 167, 2.0, step=100, steps=600)
    assert read_trials(driver.ctx.store, RUN) == []
    again = priced(tmp_path, clock, max_cost=2.5)
    again.look()
    assert not again.is_over()
    again.started(assigned(0))
    clock.now_s = 160.0
    again.look()
    assert again.why_over == "budget"


def test_the_hours_of_a_killed_session_count(tmp_path: Path) -> None:
    clock = Clock()
    for session, why in ((1, ""), (2, ""), (3, "budget")):
        driver = priced(tmp_path, clock, max_hours=1.25)
        clock.now_s += 1800.0
        driver.look()
        assert driver.why_over == why, session
    spent = driver.ctx.store.get_json("runs", RUN, "spent.json")
    assert spent == {"search_s": 5400.0, "trials_s": 0.0}, "nothing ended, and it is written down"


def test_a_trial_that_the_budget_cut_keeps_its_checkpoint_and_is_there_again_when_it_goes_on(driver: Driver) -> None:
    directory = Path(trial_place(driver.ctx.store, RUN, "trials/0"))
    for number in (0, 1):
        (directory.parent / str(number) / "step-00000020").mkdir(parents=True)
    driver.arena.verdicts.tell("trials/0", "budget")
    driver.arena.verdicts.tell("trials/1", "pruned")
    assert ended(driver, 0, 167, 2.0, step=100, steps=600).is_cut
    assert not ended(driver, 1, 167, 2.0, step=100, steps=600).is_cut
    assert [path.parent.name for path in directory.parent.glob("*/step-*")] == ["0"]


def test_where_the_budget_ended_every_trial_more_of_it_is_the_way_on() -> None:
    cut = trial(0, None, "pruned").model_copy(update={"why": CUT})
    for trials in ([], [cut], [cut, trial(10, None, "diverged")]):
        what, remedy = nothing_found(trials, RUN)
        assert "time or money was used up" in what
        assert f"hone resume {RUN} --set sweep.max_hours=" in remedy
    assert "diverged" in nothing_found([trial(10, None, "diverged")], RUN)[0]


def test_every_shape_of_data_and_method_in_the_space_is_planned_beforehand() -> None:
    space = {
        "train.method": "choice(full, lora)",
        "train.max_length": "choice(64, 128)",
        "train.dropout": "uniform(0, 0.1)",
    }
    found = [(variant.train.method, variant.train.max_length) for variant in variants(job(space=space))]
    assert found == [("full", 64), ("full", 128), ("lora", 64), ("lora", 128)]
    assert list(variants(job(space={"train.dropout": "uniform(0, 0.1)"}))) == []
