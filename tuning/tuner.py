"""Ray Tune around a searcher and a judge, with its own reporters, loggers and restore switched off.

A trial's curve and record lie in its directory, the study knows what is missing, and one compact table tells the user
(``tuning.driver``). A trial of one worker takes that worker's processors; one of several takes none for its driver,
which only waits, while Ray Train reserves the workers'. So a cluster can be filled to the last processor.
"""

from __future__ import annotations

import logging
import shutil
import threading
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.tune.search import Searcher

from cluster.errors import StoreError
from cluster.runs import request_stop
from cluster.session import environment
from cluster.stopping import stop_on_signal
from trainers.train import in_thread, ray_directory
from tuning.driver import Driver
from tuning.judge import Judge
from tuning.objective import run_trial
from tuning.storage_faults import FirstFault, storage_faults_named
from tuning.trials import Assigned

if TYPE_CHECKING:
    from cluster.records import Plan
    from cluster.run_context import RunContext

LOOK_EVERY_S = 0.5
LOOK_REMOTE_EVERY_S = 2.0
RETRIES = 1
QUIET_TUNE = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the new reporter prints its configuration at any verbosity
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # files that nobody reads
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that diverges at once has no value
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # causes are in the table
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # the study is the truth
    "TUNE_WARN_THRESHOLD_S": "60",
}


class Guarded(Searcher):
    """A searcher whose errors end the search, in the thread that waits for it; after one nothing is asked or told."""

    def __init__(self, searcher: Searcher, fault: FirstFault) -> None:
        super().__init__(searcher.metric, searcher.mode)
        self._searcher, self._fault = searcher, fault

    def suggest(self, trial_id: str) -> Any:
        """Return what the searcher suggests."""
        if not self._fault.happened:
            with self._fault.kept():
                return self._searcher.suggest(trial_id)
        return Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Hand on a report."""
        if not self._fault.happened:
            with self._fault.kept():
                self._searcher.on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Hand on how a trial ended."""
        if not self._fault.happened:
            with self._fault.kept():
                self._searcher.on_trial_complete(trial_id, result, error)

    def save(self, checkpoint_path: str) -> None:
        """Keep nothing: the study is in its storage already."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see ``save``."""


class Callbacks(tune.Callback):
    """Tune's events, handed to the driver."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_info: Any) -> None:
        """A trial trains."""
        self._tell(self._driver.started, Assigned(**trial.config))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_info: Any
    ) -> None:
        """A trial reported."""
        self._tell(self._driver.reported, Assigned(**trial.config), result)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_info: Any) -> None:
        """A trial failed for good."""
        self._tell(self._driver.failed, Assigned(**trial.config), trial.get_pickled_error())

    def _tell(self, event: Callable[..., None], *about: object) -> None:
        fault = self._driver.fault
        if not fault.happened:
            with fault.kept():
                event(*about)


def drive(driver: Driver, searcher: Searcher, judge: Judge, trials: int) -> None:
    """Run that many trials to their end; returns early, with what there is, where the search is over before.

    Raises StoreError where the study or the store failed, in a handler of Tune's or beside it: trials that were
    running go on from their newest checkpoints at a resume.
    """
    ctx, fault = driver.ctx, driver.fault
    attempt = f"{ctx.run}-{uuid.uuid4().hex[:6]}"
    logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)  # lists failed trials, which the table tells with why
    with storage_faults_named(ctx.run), environment(QUIET_TUNE), stop_on_signal(partial(_ask_to_stop, ctx)):
        try:
            with _watched(driver):
                guarded = Guarded(searcher, fault)
                tuner = _tuner(driver, guarded, judge, trials, attempt, ray_directory(ctx.store))
                in_thread(tuner.fit, fault.raise_it)
            fault.raise_it()
            driver.show(at_once=True)
        except BaseException as error:
            fault.keep(error)  # Tune's thread lives on until its Ray ends, which fails every trial
            raise
        finally:
            ctx.progress.close()
            shutil.rmtree(Path(ray_directory(ctx.store), attempt), ignore_errors=True)


@contextmanager
def _watched(driver: Driver) -> Generator[None]:
    """Let the driver look about every so often beside the block; what it cannot look at ends the search.

    Storage far away may be back the next time.
    """
    store, stop = driver.ctx.store, threading.Event()

    def watch() -> None:
        while not stop.wait(LOOK_EVERY_S if store.is_local else LOOK_REMOTE_EVERY_S):
            with driver.fault.kept(), nullcontext() if store.is_local else suppress(StoreError):
                driver.look()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


def _tuner(driver: Driver, searcher: Searcher, judge: Judge, trials: int, attempt: str, storage: str) -> tune.Tuner:
    arena = driver.arena
    trainable = tune.with_resources(tune.with_parameters(run_trial, arena=arena), resources_of(arena.plan(arena.job)))
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=judge,
            num_samples=trials,
            max_concurrent_trials=arena.at_once,
            reuse_actors=True,
            trial_name_creator=lambda trial: trial.trial_id,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=attempt,
            storage_path=storage,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            callbacks=[Callbacks(driver)],
        ),
    )


def resources_of(plan: Plan) -> dict[str, float]:
    """Return what Tune reserves for a trial: its worker, or next to nothing for one that waits for a worker group."""
    if plan.workers > 1:
        return {"CPU": 0, "memory": 1.0}  # a request must not be empty
    return {"CPU": plan.cpus_per_worker, **({"GPU": plan.gpus_per_worker} if plan.gpus_per_worker else {})}


def _ask_to_stop(ctx: RunContext) -> None:
    ctx.progress.say("stopping the trials; once more leaves at once")
    request_stop(ctx.store, ctx.run)
