"""The search stage around its trials: what a spent budget leaves open, what goes on, and what the stage says."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from cluster.errors import RunFailed
from cluster.progress import Progress
from cluster.run_context import RunContext
from cluster.session import Settings
from cluster.spec import JobSpec
from cluster.store import Store
from tests import studies
from tests.studies import RUN, opening
from tests.unit.test_trials import Untracked, arena
from tuning import sweep
from tuning.driver import Driver
from tuning.study import StudySearch, counted, open_study
from tuning.trials import TRIALS, TrialRecord, keep_trial, read_trials

Session = Callable[[Driver, StudySearch], None]


class Planned(RunContext):
    """A run whose plan is of no matter but for its length."""

    def plan(self) -> Any:
        class Plan:
            steps_per_epoch, steps = 10, 30

        return Plan()


class Searches:
    """Runs the stage with what Tune would do in its place; ``said`` is what the user reads."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home, self._patch = home, monkeypatch
        self.store = Store(str(home))
        self.said = io.StringIO()

    def ctx(self, of: JobSpec) -> RunContext:
        settings = Settings.from_env({"HONE_HOME": str(self.home)}, self.home)
        return Planned(RUN, of, settings, self.store, Untracked(), Progress(self.said))  # pyright: ignore

    def run(self, of: JobSpec, session: Session) -> None:
        self._patch.setattr(sweep, "arena_of", lambda ctx, job: arena(str(self.home)))
        self._patch.setattr(sweep, "known_base", lambda base: None)
        self._patch.setattr(sweep, "drive", lambda driver, searcher, judge, missing: session(driver, searcher))
        sweep.run(self.ctx(of))


@pytest.fixture
def searches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Searches:
    return Searches(tmp_path, monkeypatch)


def record(name: str, number: int, value: float | None) -> TrialRecord:
    return TrialRecord(
        name=name, number=number, values={"x": number}, seed=0, state="complete", value=value, progress=1000
    )


def completes(driver: Driver, searcher: StudySearch, number: int, value: float = 1.0) -> str:
    """One trial from its suggestion to its end; returns its directory."""
    name = searcher.suggest(str(number))["name"]
    trial = searcher._ot_trials[str(number)]  # pyright: ignore[reportPrivateUsage]
    trial.study.tell(trial, value)
    keep_trial(driver.ctx.store, RUN, record(name, trial.number, value))
    return name


def cut(driver: Driver, searcher: StudySearch, number: int) -> str:
    """One trial that the budget ends; returns its directory."""
    given = searcher.suggest(str(number))
    driver.end("budget")
    driver.arena.verdicts.tell(given["name"], "budget")
    searcher.on_trial_complete(str(number), {"progress": 100, "result": '{"step": 10, "steps": 100}'})
    return given["name"]


def test_a_search_that_its_budget_ended_is_closed_with_what_it_has(searches: Searches) -> None:
    def session(driver: Driver, searcher: StudySearch) -> None:
        completes(driver, searcher, 0)
        cut(driver, searcher, 1)

    searches.run(studies.job(), session)
    told = searches.store.get_json("runs", RUN, "search.json")
    assert (told["trials"], told["pruned"], told["ended"]) == (2, 1, "its time or money was used up")
    with opening(searches.ctx(studies.job()).settings) as opened:
        states = [trial.state for trial in opened(studies.job()).trials]
    assert states == [TrialState.COMPLETE, TrialState.PRUNED], (
        "nothing stays open in the study of a search that is over"
    )


def test_trials_that_the_budget_cut_go_on_where_they_were_when_there_is_more_of_it(searches: Searches) -> None:
    names: list[str] = []
    with pytest.raises(RunFailed, match="used up") as raised:
        searches.run(studies.job(trials=2), lambda driver, searcher: names.append(cut(driver, searcher, 0)))
    assert f"hone resume {RUN} --set sweep.max_hours=" in raised.value.remedy
    again: list[str] = []

    def session(driver: Driver, searcher: StudySearch) -> None:
        again.extend(completes(driver, searcher, number) for number in range(2))

    searches.run(studies.job(trials=2), session)
    assert names[0] in again
    with opening(searches.ctx(studies.job()).settings) as opened:
        assert len(counted(opened(studies.job()))) == 2, (
            "the trial that was cut and one more, as many as were asked for"
        )
    assert [trial.is_cut for trial in read_trials(searches.store, RUN, TRIALS)] == [False, False]


def test_no_trial_begins_where_earlier_sessions_used_the_time_up(searches: Searches) -> None:
    of = studies.job(max_hours=1.0)
    settings = searches.ctx(of).settings
    with open_study(of, RUN, settings, "min") as study:
        study.ask()
        study.tell(0, 1.0)
    keep_trial(searches.store, RUN, record("trials/0", 0, 1.0))
    searches.store.put_json({"search_s": 3700.0, "trials_s": 0.0}, "runs", RUN, "spent.json")

    def session(driver: Driver, searcher: StudySearch) -> None:
        raise AssertionError("Tune was started")

    searches.run(of, session)
    assert searches.store.get_json("runs", RUN, "search.json")["ended"] == "its time or money was used up"


def prunes(driver: Driver, searcher: StudySearch, number: int) -> None:
    """One trial that the judge ends."""
    name = searcher.suggest(str(number))["name"]
    driver.arena.verdicts.tell(name, "pruned")
    searcher.on_trial_complete(str(number), {"progress": 100, "value": 2.0, "result": '{"step": 10, "steps": 100}'})


def one_of_many(driver: Driver, searcher: StudySearch) -> None:
    """A search of which one trial runs to its end, as under successive halving."""
    completes(driver, searcher, 0)
    for number in range(1, 4):
        prunes(driver, searcher, number)


def test_where_too_few_trials_ran_to_their_end_the_report_says_that_convergence_could_not_be_judged(
    searches: Searches,
) -> None:
    searches.run(studies.job(trials=40, until_converged=True), one_of_many)
    ended = searches.store.get_json("runs", RUN, "search.json")["ended"]
    assert "could not be judged: 1 trial ran to their end, and it takes 12 (pruned ones do not count)" in ended
    assert "cannot end this search" not in searches.said.getvalue(), "of 40 trials 12 may have run to their end"


def test_who_did_not_ask_for_convergence_is_told_nothing_of_it(searches: Searches) -> None:
    searches.run(studies.job(trials=4), one_of_many)
    assert searches.store.get_json("runs", RUN, "search.json")["ended"] == "its trials were used up"
    assert "converged" not in searches.said.getvalue()


@pytest.mark.parametrize(("asked", "warned"), [(12, True), (13, False)])
def test_a_search_too_small_to_be_judged_converged_says_so_before_it_begins(
    searches: Searches, asked: int, warned: bool
) -> None:
    begun: list[str] = []

    def session(driver: Driver, searcher: StudySearch) -> None:
        begun.append(searches.said.getvalue())
        completes(driver, searcher, 0)

    searches.run(studies.job(trials=asked, until_converged=True), session)
    assert (f"judged after 12 trials that ran to their end, and it has {asked}" in begun[0]) == warned
