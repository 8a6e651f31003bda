"""The Optuna study behind a sweep: its storage, its sampler, and the bookkeeping that makes a sweep resumable.

The study lies in a real storage (``HONE_HOME/optuna.db``, or PostgreSQL's schema ``hone_optuna``) under the run's id,
so `optuna-dashboard` opens it. It is the truth about what has been tried: a trial is told when it ends, and whoever
goes on with a run finds trials that nobody is running any more, marks them superseded and queues the same values
again, to go on in the same directory. Superseded trials count for nothing.
"""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import optuna
from optuna.samplers import BaseSampler, GPSampler, GridSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from tuning.judge import PROGRESS, VALUE
from tuning.space import grid, points, suggestions, unpacked
from tuning.trials import TRIALS, Assigned

if TYPE_CHECKING:
    from cluster.session import Settings
    from cluster.spec import JobSpec
    from tuning.warm_start import Points

STARTUP_TRIALS = 3
"""Trials before TPE models anything, warm starts among them; Optuna's 10 would be most of a small sweep."""
CONVERGED_AFTER = 12
REPETITIONS = 5
"""How often a sampler may suggest what was tried before chance takes its place."""
SUPERSEDED, DIRECTORY, WARM_START = "superseded", "directory", "warm_start"
AGAINST = "against"


@contextmanager
def open_study(job: JobSpec, run: str, settings: Settings, mode: str) -> Generator[optuna.Study]:
    """Yield the run's study, made now unless it is there; a tradeoff gives it a second direction, downwards.

    Its connections end with the block; one that a server has dropped during a long trial is made again.
    """
    quiet_optuna()
    modes = [mode, "min"] if is_traded(job) else [mode]
    with ExitStack() as held:
        with settings.making_tables("optuna") as url:
            storage = optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
            held.callback(storage.engine.dispose)
            study = optuna.create_study(
                storage=storage,
                study_name=run,
                directions=[StudyDirection.MAXIMIZE if mode == "max" else StudyDirection.MINIMIZE for mode in modes],
                load_if_exists=True,
            )
        yield study


def is_traded(job: JobSpec) -> bool:
    """Return whether the metric is weighed against something else, so that a trial has two values."""
    return job.sweep is not None and job.sweep.tradeoff is not None


def quiet_optuna() -> None:
    """Silence Optuna's line a trial, and its migrations'."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)


@contextmanager
def _experimental() -> Generator[None]:
    """Use what Optuna 5 calls experimental, or deprecated for its version 6 (the terminator), without its notices."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield


class WholeGrid(GridSampler):
    """Every point of a grid, ended by whoever counts the trials and not by the sampler, which would raise."""

    def after_trial(self, study: Any, trial: Any, state: Any, values: Any) -> None:
        """Nothing."""


def sampler_of(job: JobSpec, num_tried: int) -> BaseSampler:
    """Return who suggests values; one that goes on after ``num_tried`` trials does not repeat its first draws."""
    assert job.sweep is not None, "a job with a sweep block"
    seed = (job.sweep.seed + num_tried) % 2**32
    if job.sweep.search == "random":
        return RandomSampler(seed=seed)
    if job.sweep.search == "grid":
        return WholeGrid(grid(job), seed=job.sweep.seed)
    with _experimental():
        if job.sweep.search == "gp":
            return GPSampler(seed=seed, n_startup_trials=STARTUP_TRIALS, warn_independent_sampling=False)
        return TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS, multivariate=True, group=True, constant_liar=True)


def take_back(study: optuna.Study) -> list[int]:
    """Queue again what nobody is running any more, and return the numbers of those trials (at a resume)."""
    left = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    for trial in left:
        supersede(study, trial)
        study.enqueue_trial(trial.params, user_attrs={DIRECTORY: directory_of(trial)})
    return [trial.number for trial in left]


def close(study: optuna.Study) -> None:
    """Mark the trials that a budget cut as pruned: the search is over, and nobody goes on with them."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.PRUNED)


def supersede(study: optuna.Study, trial: FrozenTrial | optuna.Trial) -> None:
    """Mark a trial as one that counts for nothing, because its values are tried in another one."""
    study._storage.set_trial_user_attr(trial._trial_id, SUPERSEDED, True)  # pyright: ignore[reportPrivateUsage]
    study.tell(trial.number, state=TrialState.FAIL)


def directory_of(trial: FrozenTrial) -> str:
    """Return the directory of a trial: its own, or that of the trial which it goes on with."""
    return str(trial.user_attrs.get(DIRECTORY, f"{TRIALS}/{trial.number}"))


def counted(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that have ended and count."""
    ended = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    return [trial for trial in study.get_trials(deepcopy=False, states=ended) if not trial.user_attrs.get(SUPERSEDED)]


def has_converged(study: optuna.Study) -> bool:
    """Return whether Optuna expects no further gain (Ishibashi et al. 2023, arXiv 2301.12290, in its EMMR form).

    Optuna 6 takes its terminator out (optuna#6668), which is one reason why pyproject.toml stays below it; OptunaHub
    holds the same classes as `callbacks/terminator` (optunahub-registry#386).
    """
    with _experimental():
        from optuna.terminator import EMMREvaluator, MedianErrorEvaluator, Terminator

        improvement = EMMREvaluator(seed=0)
        error = MedianErrorEvaluator(improvement, warm_up_trials=0, n_initial_trials=CONVERGED_AFTER)
        return Terminator(improvement, error, min_n_trials=CONVERGED_AFTER).should_terminate(study)


def next_trial(
    study: optuna.Study, job: JobSpec, suggest: Callable[[optuna.Trial], None], starts: Points
) -> optuna.Trial:
    """Return a trial of values that were not tried; of a space of choices one by chance, where the sampler has none.

    A training is a function of its values, so what was tried before would only cost its time again. Warm starts
    (``starts``, by place) are given out when it is their turn.
    """
    counts = [trial for trial in study.get_trials(deepcopy=False) if not trial.user_attrs.get(SUPERSEDED)]
    tried = [trial.params for trial in counts if trial.state != TrialState.WAITING]
    _queue_due(study, starts, len(tried))
    for _ in range(REPETITIONS):
        trial = study.ask()
        suggest(trial)
        if trial.params not in tried:
            return trial
        supersede(study, trial)
    if left := [point for point in points(job) if point not in tried]:
        assert job.sweep is not None, "a job with a sweep block"
        study.enqueue_trial(random.Random(f"{job.sweep.seed} {len(counts)}").choice(left))
    trial = study.ask()
    suggest(trial)
    return trial


def _queue_due(study: optuna.Study, starts: Points, place: int) -> None:
    """Queue the warm starts whose place has come, each once in the life of the study."""
    queued = {trial.user_attrs.get(WARM_START) for trial in study.get_trials(deepcopy=False)}
    for due, point in sorted(starts.items()):
        if due <= place and due not in queued:
            study.enqueue_trial(point, user_attrs={WARM_START: due})


@dataclass(frozen=True)
class Ending:
    """How a trial ended, in the study's words; no value for a failure, a second one under a tradeoff."""

    state: TrialState
    value: float | None = None
    against: float | None = None

    @property
    def values(self) -> list[float] | None:
        """The values by the study's directions; None where there are none."""
        return [value for value in (self.value, self.against) if value is not None] or None


class StudySearch(OptunaSearch):
    """Ray Tune's Optuna search over a run's study, told what really became of each trial.

    ``ending`` says that of a trial's last report, ``is_over`` whether no further trial shall begin, ``starts`` what is
    tried in which place without asking the sampler.
    """

    def __init__(
        self,
        study: optuna.Study,
        job: JobSpec,
        mode: str,
        ending: Callable[[Assigned, Mapping[str, Any]], Ending | None],
        is_over: Callable[[], bool],
        starts: Points,
    ) -> None:
        tried = len(study.get_trials(deepcopy=False))
        super().__init__(
            space=suggestions(job),
            metric=[VALUE, AGAINST] if is_traded(job) else VALUE,  # pyright: ignore[reportArgumentType]
            mode=[mode, "min"] if is_traded(job) else mode,  # pyright: ignore[reportArgumentType]
            sampler=sampler_of(job, tried),
            study_name=study.study_name,
            storage=study._storage,  # pyright: ignore[reportPrivateUsage] (there is no other way to share it)
        )
        assert self._ot_study is not None, "a searcher with a space has its study"
        self._study, self._job, self._suggest = self._ot_study, job, suggestions(job)
        self._ending = ending
        self._is_over = is_over
        self._starts = starts
        self._assigned: dict[str, Assigned] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | Any:
        """Return a trial's configuration: its number, its directory and its values."""
        if self._is_over():
            return Searcher.FINISHED
        with warnings.catch_warnings():  # a Gaussian process thinks for more than a second, which is not the space
            warnings.filterwarnings("ignore", message="Define-by-run function")
            trial = next_trial(self._study, self._job, self._suggest, self._starts)
        self._ot_trials[trial_id] = trial
        frozen = trial.study._storage.get_trial(trial._trial_id)  # pyright: ignore[reportPrivateUsage]
        self._assigned[trial_id] = Assigned(directory_of(frozen), trial.number, trial.params, None)
        return asdict(self._assigned[trial_id])

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Report a value at a trial's progress, once: a trial that was tried again comes by the same places twice.

        A study of two directions takes no values on the way.
        """
        trial = self._ot_trials[trial_id]
        if len(trial.study.directions) > 1:
            return
        known = trial.study._storage.get_trial(trial._trial_id)  # pyright: ignore[reportPrivateUsage]
        if result.get(VALUE) is not None and result[PROGRESS] not in known.intermediate_values:
            trial.report(result[VALUE], result[PROGRESS])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the study how a trial ended; one that was interrupted or cut stays open for a session that goes on."""
        ending = Ending(TrialState.FAIL) if error else self._ending(self._assigned[trial_id], result or {})
        if ending is not None:
            study = self._ot_trials[trial_id].study
            study.tell(self._ot_trials[trial_id], ending.values, state=ending.state)
        self._completed_trials.add(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Keep nothing: the study is in its storage already."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see ``save``."""


def values_of(trial: FrozenTrial) -> dict[str, Any]:
    """Return a trial's values as the job's keys take them."""
    return {key: unpacked(value) for key, value in trial.params.items()}
