"""A search whose storage fails ends with an error that says how to go on, wherever the storage failed."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.exceptions import StorageInternalError
from ray.tune.error import TuneError
from ray.tune.search import Searcher
from sqlalchemy.exc import OperationalError

from cluster.errors import RunStopped, StoreError
from cluster.progress import Progress
from cluster.run_context import RunContext
from cluster.runs import request_stop
from cluster.session import Settings
from cluster.store import Store
from tests.finished_sweeps import job
from tests.unit.test_trials import RUN, Untracked, arena, assigned
from tuning import tuner
from tuning.driver import Driver
from tuning.judge import Lenient
from tuning.storage_faults import storage_faults_named
from tuning.trials import TRIALS, read_trials

LOST = OperationalError("SELECT 1", {}, Exception("server closed the connection unexpectedly\n\tThis means that"))
LOCKED = OperationalError("INSERT INTO trials", {}, Exception("database is locked"))
FULL = OSError(28, "No space left on device", "/home/x/.hone/runs/trial.json")


class Failing(Searcher):
    """A searcher that raises in the handlers it was told to."""

    def __init__(self, **errors: Exception) -> None:
        super().__init__()
        self.errors = errors
        self.called: list[str] = []

    def _do(self, name: str) -> None:
        self.called.append(name)
        if name in self.errors:
            raise self.errors[name]

    def suggest(self, trial_id: str) -> Any:
        self._do("suggest")
        return {"x": 1}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self._do("result")

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self._do("complete")

    def save(self, checkpoint_path: str) -> None: ...

    def restore(self, checkpoint_path: str) -> None: ...


class Tuned:
    """Stands for Tune: what it does is a function of the searcher and the callbacks."""

    def __init__(self, fit: Callable[[], None]) -> None:
        self.fit = fit


class Full(Store):
    """A store that takes no more."""

    def put_text(self, text: str, *parts: str) -> None:
        raise StoreError(f"the disk is full: {self.path(*parts)} could not be written", "Free space there.")


class Blind(Store):
    """A store that cannot be looked at, once ``away`` is set."""

    away = threading.Event()

    def exists(self, *parts: str) -> bool:
        if self.away.is_set():
            raise StoreError("the storage refused status.json: it is away", "Check that it is reachable.")
        return super().exists(*parts)


def driver_of(tmp_path: Path, store: type[Store] = Store) -> Driver:
    settings = Settings.from_env({"HONE_HOME": str(tmp_path)}, tmp_path)
    ctx = RunContext(RUN, job(), settings, store(str(tmp_path)), Untracked(), Progress(io.StringIO()))  # pyright: ignore
    return Driver(ctx, arena(str(tmp_path)), TRIALS, 12)


def drive(
    monkeypatch: pytest.MonkeyPatch,
    driver: Driver,
    searcher: Searcher,
    fit: Callable[[Searcher, tuner.Callbacks], None],
) -> None:
    def tuned(of: Driver, guarded: Searcher, *_: object) -> Tuned:
        return Tuned(lambda: fit(guarded, tuner.Callbacks(of)))

    monkeypatch.setattr(tuner, "_tuner", tuned)
    monkeypatch.setattr(tuner, "LOOK_EVERY_S", 0.01)
    tuner.drive(driver, searcher, Lenient(driver.arena.verdicts), 12)


def trains(searcher: Searcher, _callbacks: object) -> None:
    """Two trials one after the other, as Tune asks and tells."""
    for number in range(2):
        if str(searcher.suggest(str(number))) == Searcher.FINISHED:
            return
        searcher.on_trial_result(str(number), {"value": 1.0})
        searcher.on_trial_complete(str(number), {})


@pytest.mark.parametrize("handler", ["suggest", "result", "complete"])
@pytest.mark.parametrize("error", [LOST, LOCKED, StorageInternalError("commit"), FULL], ids=lambda e: type(e).__name__)
def test_a_study_that_is_lost_ends_the_search_with_the_way_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, handler: str, error: Exception
) -> None:
    searcher = Failing(**{handler: error})
    with pytest.raises(StoreError) as raised:
        drive(monkeypatch, driver_of(tmp_path), searcher, trains)
    assert f"hone resume {RUN}" in str(raised.value)
    assert "\n" not in raised.value.what
    assert searcher.called[-1] == handler, "nothing is asked or told after it"


def test_what_tune_wraps_in_a_traceback_is_still_the_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrapped(_searcher: Searcher, _callbacks: object) -> None:
        try:
            raise LOST
        except OperationalError:
            raise TuneError("Traceback (most recent call last): ..")  # noqa: B904 (as Ray Tune does)

    with pytest.raises(StoreError, match="server closed the connection") as raised:
        drive(monkeypatch, driver_of(tmp_path), Failing(), wrapped)
    assert "Traceback" not in str(raised.value)


def test_an_error_that_is_not_the_storages_stays_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        drive(monkeypatch, driver_of(tmp_path), Failing(suggest=ZeroDivisionError("a mistake of ours")), trains)


def test_a_request_to_stop_stays_one_whatever_was_handled_before_it() -> None:
    def stopped() -> None:
        with storage_faults_named(RUN):
            try:
                raise FULL
            except OSError:
                raise RunStopped("stopped, as asked")  # noqa: B904 (the storage stands behind it)

    with pytest.raises(RunStopped):
        stopped()


def test_a_full_disk_ends_the_search_and_records_no_failed_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = driver_of(tmp_path, Full)

    def fails(_searcher: Searcher, callbacks: tuner.Callbacks) -> None:
        callbacks.on_trial_start(1, [], Tried())
        callbacks.on_trial_error(1, [], Tried())

    with pytest.raises(StoreError, match="the disk is full") as raised:
        drive(monkeypatch, driver, Failing(), fails)
    assert "Free space there. " in raised.value.remedy
    assert f"hone resume {RUN}" in raised.value.remedy
    assert read_trials(driver.ctx.store, RUN) == []


class Tried:
    """Stands for a trial of Tune's."""

    config = vars(assigned(0))

    def get_pickled_error(self) -> Exception:
        return RuntimeError("its actor died")


def test_what_the_watcher_cannot_look_at_ends_a_search_that_would_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Blind.away.clear()
    driver = driver_of(tmp_path, Blind)
    done = threading.Event()

    def goes_on(_searcher: Searcher, _callbacks: object) -> None:
        Blind.away.set()
        done.wait(30)

    try:
        with pytest.raises(StoreError, match="it is away") as raised:
            drive(monkeypatch, driver, Failing(), goes_on)
        assert f"hone resume {RUN}" in str(raised.value)
    finally:
        done.set()
        Blind.away.clear()


def test_a_request_to_stop_is_seen_while_trials_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = driver_of(tmp_path)

    def until_stopped(_searcher: Searcher, callbacks: tuner.Callbacks) -> None:
        callbacks.on_trial_start(1, [], Tried())
        request_stop(driver.ctx.store, RUN)
        for _ in range(3000):
            if driver.arena.verdicts.read("trials/0") is not None:
                return
            threading.Event().wait(0.01)

    drive(monkeypatch, driver, Failing(), until_stopped)
    assert driver.why_over == "interrupted"
    assert driver.arena.verdicts.read("trials/0") == "interrupted"
