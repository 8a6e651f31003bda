"""A sweep over a recorded grid: real searches and judges ask for trials, whose curves are read instead of trained.

Time is simulated: so many workers take trials from one evaluation to the next, a whole training as long as any other,
until the budget, in whole trainings, is used up. What a search then believes to be best is compared with the grid's
best.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import optuna
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from cluster.spec import JobSpec
from tuning.judge import FULL, PROGRESS, VALUE, Halving
from tuning.space import suggestions, unpacked
from tuning.study import next_trial, sampler_of
from tuning.warm_start import Base, warm_starts

Curve = list[tuple[int, float]]
WORKERS = 2
BASE = Base("llama", 64)
"""What the grid was trained on: the 260K model, by its config.json."""


@dataclass(frozen=True)
class Oracle:
    """A recorded grid: its job, and every point's curve of (progress, lowest loss so far)."""

    job: JobSpec
    curves: Mapping[str, Curve]

    @classmethod
    def read(cls, path: Path) -> Oracle:
        """Read a file that `sweep_quality.py --record` wrote."""
        head, *rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        return cls(JobSpec.model_validate(head["job"]), {name_of(row["values"]): row["curve"] for row in rows})

    @property
    def best(self) -> float:
        """The lowest final loss of all points."""
        return min(curve[-1][1] for curve in self.curves.values())


def name_of(values: Mapping[str, Any]) -> str:
    """Return a point's name, the same for the same values."""
    return json.dumps(dict(sorted(values.items())))


class Search(Protocol):
    """One contestant: what it tries, when it gives a trial up, and what it believes to be best."""

    def ask(self) -> tuple[int, dict[str, Any]] | None:
        """Return the next trial's number and values; None where there is nothing left to try."""
        ...

    def stops(self, number: int, place: int, progress: int, value: float) -> bool:
        """Take a trial's ``place``-th evaluation in, counted from 1, and return whether it shall end here."""
        ...

    def ended(self, number: int, value: float, *, whole: bool) -> None:
        """Learn that a trial ended, on its whole budget or before."""
        ...


@dataclass
class Belief:
    """The best of the trials that ran their whole budget; of the others where none did."""

    whole: list[tuple[float, str]] = field(default_factory=list)
    partial: list[tuple[float, str]] = field(default_factory=list)

    @property
    def best(self) -> str:
        """The name of the point that is believed to be best."""
        return min(self.whole or self.partial)[1]


def regrets(oracle: Oracle, search: Search, budgets: list[float]) -> list[float]:
    """Return how much worse than the grid's best point the one believed in is, after each budget (rising)."""
    belief, found = Belief(), []
    busy: list[tuple[int, int, int, str, int]] = []
    order, spent = count(), 0

    def begin(now: int) -> None:
        asked = search.ask()
        if asked is not None:
            number, values = asked
            name = name_of(values)
            heapq.heappush(busy, (now + oracle.curves[name][0][0], next(order), number, name, 0))

    for _ in range(WORKERS):
        begin(0)
    for budget in budgets:
        while busy and spent < budget * FULL:
            now, _, number, name, place = heapq.heappop(busy)
            curve = oracle.curves[name]
            progress, value = curve[place]
            spent += progress - (curve[place - 1][0] if place else 0)
            whole = place + 1 == len(curve)
            belief.partial.append((value, name))
            if whole:
                belief.whole.append((value, name))
            if whole or search.stops(number, place + 1, progress, value):
                search.ended(number, value, whole=whole)
                begin(now)
            else:
                ahead = curve[place + 1][0] - progress
                heapq.heappush(busy, (now + ahead, next(order), number, name, place + 1))
        found.append(oracle.curves[belief.best][-1][1] - oracle.best)
    return found


class Notes:
    """Stop notes in memory, for a judge without a run."""

    def __init__(self) -> None:
        self.told: set[str] = set()

    def tell(self, trial: str, why: str) -> None:
        """Note that a trial shall end."""
        self.told.add(trial)

    def read(self, trial: str) -> str | None:
        """Return whether it shall."""
        return "pruned" if trial in self.told else None


@dataclass(frozen=True)
class Asked:
    """A trial as Ray's schedulers know one."""

    trial_id: str

    @property
    def config(self) -> dict[str, str]:
        """Its configuration, of which a judge reads the name."""
        return {"name": self.trial_id}


class Ours:
    """The product's own sampler, warm starts, bookkeeping and judge."""

    def __init__(self, job: JobSpec, seed: int, *, judge: Callable[[Any], Any]) -> None:
        assert job.sweep is not None, "a grid's job has a sweep block"
        self._job = job.model_copy(update={"sweep": job.sweep.model_copy(update={"search": "tpe", "seed": seed})})
        self._study = optuna.create_study(sampler=sampler_of(self._job, 0))
        self._starts = warm_starts(self._job, BASE)
        self._suggest = suggestions(self._job)
        self._judge = judge(Notes())
        self._trials: dict[int, optuna.Trial] = {}

    def ask(self) -> tuple[int, dict[str, Any]] | None:
        """Ask as the product's searcher does."""
        trial = next_trial(self._study, self._job, self._suggest, self._starts)
        self._trials[trial.number] = trial
        self._judge.on_trial_add(None, Asked(str(trial.number)))
        return trial.number, {key: unpacked(value) for key, value in trial.params.items()}

    def stops(self, number: int, place: int, progress: int, value: float) -> bool:
        """Let the judge decide."""
        self._trials[number].report(value, progress)
        self._judge.on_trial_result(None, Asked(str(number)), {PROGRESS: progress, VALUE: value})
        return self._judge.verdicts.read(str(number)) is not None

    def ended(self, number: int, value: float, *, whole: bool) -> None:
        """Tell the study."""
        state = optuna.trial.TrialState.COMPLETE if whole else optuna.trial.TrialState.PRUNED
        self._study.tell(self._trials[number], value if whole else None, state=state)
        self._judge.on_trial_complete(None, Asked(str(number)), {PROGRESS: FULL, VALUE: value})


class PlainOptuna:
    """Optuna as it is shipped: its sampler and its pruner (the median rule), every default kept."""

    def __init__(self, job: JobSpec, seed: int) -> None:
        self._study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
        self._suggest = suggestions(job)
        self._trials: dict[int, optuna.Trial] = {}

    def ask(self) -> tuple[int, dict[str, Any]] | None:
        """Ask the study."""
        trial = self._study.ask()
        self._suggest(trial)
        self._trials[trial.number] = trial
        return trial.number, {key: unpacked(value) for key, value in trial.params.items()}

    def stops(self, number: int, place: int, progress: int, value: float) -> bool:
        """Let its pruner decide."""
        self._trials[number].report(value, place)
        return self._trials[number].should_prune()

    def ended(self, number: int, value: float, *, whole: bool) -> None:
        """Tell the study."""
        state = optuna.trial.TrialState.COMPLETE if whole else optuna.trial.TrialState.PRUNED
        self._study.tell(self._trials[number], value if whole else None, state=state)


class Chance:
    """Random search without repetition; nothing ends early unless a scheduler of Ray's is given."""

    def __init__(self, oracle: Oracle, seed: int, scheduler: AsyncHyperBandScheduler | None = None) -> None:
        names = sorted(oracle.curves)
        self._left = [names[place] for place in np.random.default_rng(seed).permutation(len(names))]
        self._numbers = count()
        self._scheduler = scheduler

    def ask(self) -> tuple[int, dict[str, Any]] | None:
        """Draw a point that was not tried."""
        if not self._left:
            return None
        number = next(self._numbers)
        if self._scheduler:
            self._scheduler.on_trial_add(None, Asked(str(number)))  # pyright: ignore[reportArgumentType]
        return number, json.loads(self._left.pop())

    def stops(self, number: int, place: int, progress: int, value: float) -> bool:
        """Let the scheduler decide, whose time is a number of evaluations."""
        if not self._scheduler:
            return False
        result = {"training_iteration": place, VALUE: value}
        asked: Any = Asked(str(number))
        return self._scheduler.on_trial_result(None, asked, result) == TrialScheduler.STOP  # pyright: ignore

    def ended(self, number: int, value: float, *, whole: bool) -> None:
        """Nothing: a trial's last value decides nothing any more."""


def shipped_asha() -> AsyncHyperBandScheduler:
    """Return Ray's successive halving with every default kept."""
    return AsyncHyperBandScheduler(metric=VALUE, mode="min")


def our_judge(grace_frac: float, reduction: int) -> Callable[[Any], Halving]:
    """Return how the product's judge is made."""
    return lambda notes: Halving(notes, "min", grace_frac, reduction)
