"""What a study promises on every storage: what was tried is tried once, in whichever session, and told as it ended."""

from __future__ import annotations

from collections.abc import Iterator

import optuna
import pytest
from optuna.trial import TrialState

from cluster.session import Settings
from tests.studies import RUN, TRADED, Opened, job, opening, search
from tuning.judge import PROGRESS, VALUE
from tuning.study import Ending, counted, take_back


@pytest.fixture
def opened(settings: Settings) -> Iterator[Opened]:
    with opening(settings) as found:
        yield found


@pytest.fixture
def elsewhere(settings: Settings) -> Iterator[optuna.storages.RDBStorage]:
    """The storage as anyone else opens it by its URL, optuna-dashboard for one."""
    with settings.making_tables("optuna") as url:
        storage = optuna.storages.RDBStorage(url)
    yield storage
    storage.engine.dispose()


STARTS = {
    0: {"train.learning_rate": 2e-5, "train.batch_size": 16},
    2: {"train.learning_rate": 1e-3, "train.batch_size": 16},
}


def test_warm_starts_are_tried_in_their_places_and_only_once(opened: Opened) -> None:
    searcher = search(opened(job()), job(), starts=STARTS)
    first, second = searcher.suggest("a"), searcher.suggest("b")
    assert first == {"name": "trials/0", "number": 0, "values": STARTS[0], "seed": None}
    assert second["values"] not in STARTS.values(), "the search's own"
    searcher.on_trial_complete("a", {})
    del searcher  # killed: b was running
    again = opened(job())
    assert take_back(again) == [1]
    searcher = search(again, job(), starts=STARTS)
    assert searcher.suggest("b again")["values"] == second["values"]
    assert searcher.suggest("c")["values"] == STARTS[2]
    searcher = search(opened(job()), job(), starts=STARTS)
    assert searcher.suggest("d")["values"] not in (*STARTS.values(), second["values"])


def test_after_a_kill_what_was_running_is_queued_again_in_its_own_directory(opened: Opened) -> None:
    study = opened(job())
    searcher = search(study, job())
    configs = [searcher.suggest(name) for name in ("a", "b", "c")]
    searcher.on_trial_complete("a", {})
    del searcher  # killed: b and c were running

    again = opened(job())
    assert take_back(again) == [1, 2]
    assert [trial.number for trial in counted(again)] == [0]
    searcher = search(again, job())
    for number, before in ((3, configs[1]), (4, configs[2])):
        config = searcher.suggest(f"again-{number}")
        assert config["number"] == number
        assert (config["name"], config["values"]) == (before["name"], before["values"])
        searcher.on_trial_complete(f"again-{number}", {})
    assert len(counted(again)) == 3
    assert take_back(again) == []
    assert searcher.suggest("new")["name"] == "trials/5"


def test_a_trial_taken_back_twice_still_goes_on_in_its_first_directory(opened: Opened) -> None:
    first = search(opened(job()), job()).suggest("a")
    for number in (1, 2):
        study = opened(job())
        take_back(study)
        config = search(study, job()).suggest("again")
        assert (config["number"], config["name"], config["values"]) == (number, first["name"], first["values"])


def test_an_interrupted_trial_stays_open_for_the_next_session(opened: Opened) -> None:
    study = opened(job())
    searcher = search(study, job(), {"trials/0": None})
    searcher.suggest("a")
    searcher.on_trial_complete("a", {})
    assert counted(study) == []
    assert take_back(study) == [0]


def test_the_study_is_told_each_ending(opened: Opened, elsewhere: optuna.storages.RDBStorage) -> None:
    study = opened(job())
    endings: dict[str, Ending | None] = {
        "trials/1": Ending(TrialState.PRUNED),
        "trials/2": Ending(TrialState.COMPLETE, 12.5),
        "trials/3": Ending(TrialState.FAIL),
    }
    searcher = search(study, job(), endings)
    for name in "abcde":
        searcher.suggest(name)
        searcher.on_trial_result(name, {PROGRESS: 167, VALUE: 3.0})
        searcher.on_trial_result(name, {PROGRESS: 167, VALUE: 4.0})  # a second attempt comes by again
        searcher.on_trial_result(name, {PROGRESS: 333, VALUE: 2.0})
    for name in "abcd":
        searcher.on_trial_complete(name, {})
    searcher.on_trial_complete("e", None, error=True)
    found = optuna.load_study(study_name=RUN, storage=elsewhere).trials
    states = [trial.state.name for trial in found]
    assert states == ["COMPLETE", "PRUNED", "COMPLETE", "FAIL", "FAIL"]
    assert [trial.value for trial in found] == [1.0, 2.0, 12.5, None, None]
    assert found[1].intermediate_values == {167: 3.0, 333: 2.0}
    assert len(counted(study)) == 5


def test_a_study_of_two_values_is_told_both_and_goes_on_with_them(opened: Opened) -> None:
    of = job(**TRADED)
    study = opened(of, mode="max")
    endings: dict[str, Ending | None] = {
        f"trials/{number}": Ending(TrialState.COMPLETE, 0.5 + number / 100, 10.0 + number) for number in range(8)
    }
    endings |= {"trials/1": Ending(TrialState.FAIL), "trials/2": Ending(TrialState.PRUNED), "trials/9": None}
    searcher = search(study, of, endings)
    for number in range(10):
        searcher.suggest(str(number))
        searcher.on_trial_result(str(number), {PROGRESS: 500, VALUE: 0.4})
        searcher.on_trial_complete(str(number), {}, error=number == 8)
    del searcher
    again = opened(of, mode="max")
    assert [direction.name for direction in again.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert take_back(again) == [9]
    done = counted(again)
    assert [trial.values for trial in done[:4]] == [[0.5, 10.0], None, None, [0.53, 13.0]]
    assert [trial.state.name for trial in done] == ["COMPLETE", "FAIL", "PRUNED", *["COMPLETE"] * 5, "FAIL"]
    searcher = search(again, of)
    assert searcher.suggest("again")["name"] == "trials/9"
    assert searcher.suggest("new")["number"] == 11


def test_studies_of_several_runs_lie_side_by_side(opened: Opened, elsewhere: optuna.storages.RDBStorage) -> None:
    first, second = (opened(job(), f"a-20260101-00000{n}-abcd") for n in (0, 1))
    search(first, job()).suggest("a")
    assert (len(first.trials), len(second.trials)) == (1, 0)
    assert optuna.get_all_study_names(elsewhere) == [first.study_name, second.study_name]
