"""Ray Tune's schedulers, made cooperative: what would kill a trial becomes a verdict that the trial reads and obeys.

A scheduler's STOP kills the trial's actor; a training nested in it then leaks its placement group, and the sweep waits
for ever (ray#54305, #62753, #65447, Ray 2.60). So the decision is Ray's own (asynchronous successive halving, Li et
al. 2018, arXiv 1810.05934, or the median rule of Vizier), but a STOP is written to the trial's directory, which every
worker looks at anyway for `hone stop`, and the scheduler says CONTINUE. Time is a trial's progress, the thousandths of
its own full budget, so that trials with other batch sizes or epochs compare. The budget's end lies beyond every rung:
a trial that reaches it ends by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, Literal

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.schedulers.async_hyperband import _Bracket  # pyright: ignore[reportPrivateUsage]

from cluster.runs import RUNS, STOP
from cluster.store import Store

if TYPE_CHECKING:
    from cluster.spec import SweepSpec, TrainSpec

FULL = 1000
"""A trial's whole budget, in units of progress."""
BEYOND = FULL + 1
GRACE_BEYOND_WARMUP = 0.1
REDUCTION = 3
MIN_OTHERS = 3
PROGRESS, VALUE, EXPLODED = "progress", "value", "exploded"
Why = Literal["pruned", "diverged", "budget", "interrupted"]


@dataclass(frozen=True)
class Verdicts:
    """The stop notes of a run's trials, each in the trial's own directory."""

    store: Store
    run: str

    def tell(self, trial: str, why: Why) -> None:
        """Ask a trial (``trials/N``) to return at its next report; the first reason stays."""
        if self.read(trial) is None:
            self.store.put_json({"stop": True, "why": why}, RUNS, self.run, trial, STOP)

    def read(self, trial: str) -> Why | None:
        """Return why a trial shall stop; None where it shall go on."""
        if not self.store.exists(RUNS, self.run, trial, STOP):
            return None
        return self.store.get_json(RUNS, self.run, trial, STOP)["why"]

    def clear(self, trial: str) -> None:
        """Forget that a trial was to stop."""
        self.store.remove(RUNS, self.run, trial, STOP)


@dataclass
class _Past:
    """A finished trial of an earlier session, as Ray's bracket knows one."""

    trial_id: str


class Cooperative:
    """Mixed into a scheduler: its STOP becomes a verdict, and so does a loss that exploded."""

    verdicts: Verdicts
    told: set[str]

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Let the scheduler decide, once, and never end the trial here."""
        name = trial.config["name"]
        if name in self.told:
            return TrialScheduler.CONTINUE
        if result.get(EXPLODED):
            self._tell(name, "diverged")
        elif super().on_trial_result(tune_controller, trial, result) == TrialScheduler.STOP:  # pyright: ignore
            self._tell(name, "pruned")
        return TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Let the scheduler count a trial that was worth anything."""
        if VALUE in result:
            super().on_trial_complete(tune_controller, trial, result)  # pyright: ignore

    def remember(self, trial: str, values: Mapping[int, float]) -> None:
        """Take a trial of an earlier session into account: its values by progress."""

    def _tell(self, name: str, why: Why) -> None:
        self.told.add(name)
        self.verdicts.tell(name, why)


class _PatientBracket(_Bracket):
    """Ends nobody at a rung that fewer than ``reduction`` trials have reached: Ray's own ends the second of two."""

    def cutoff(self, recorded: Mapping[str, float]) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return what the next trial must reach; None while it is among the first ``reduction``."""
        return super().cutoff(recorded) if len(recorded) >= self.rf - 1 else None  # pyright: ignore


class Halving(Cooperative, ASHAScheduler):
    """Asynchronous successive halving that kills nothing."""

    def __init__(self, verdicts: Verdicts, mode: str, grace_frac: float, reduction: int) -> None:
        self.verdicts, self.told = verdicts, set()
        ASHAScheduler.__init__(
            self,
            time_attr=PROGRESS,
            metric=VALUE,
            mode=mode,
            max_t=BEYOND,
            grace_period=first_rung(grace_frac),
            reduction_factor=reduction,
        )
        self._brackets = [_PatientBracket(first_rung(grace_frac), BEYOND, reduction, 0)]

    def remember(self, trial: str, values: Mapping[int, float]) -> None:
        """Record what an earlier trial reached at each rung."""
        sign = 1.0 if self._mode == "max" else -1.0
        for progress, value in sorted(values.items()):
            for bracket in self._brackets:
                bracket.on_result(_Past(f"earlier {trial}"), progress, sign * value)  # pyright: ignore


class Median(Cooperative, MedianStoppingRule):
    """The median stopping rule that kills nothing, and never pauses: it waits for others while it goes on."""

    def __init__(self, verdicts: Verdicts, mode: str, grace_frac: float) -> None:
        self.verdicts, self.told = verdicts, set()
        MedianStoppingRule.__init__(
            self,
            time_attr=PROGRESS,
            metric=VALUE,
            mode=mode,
            grace_period=FULL * grace_frac,
            min_samples_required=MIN_OTHERS,
            min_time_slice=inf,  # pyright: ignore[reportArgumentType]
        )

    def remember(self, trial: str, values: Mapping[int, float]) -> None:
        """Count an earlier trial's curve among the others."""
        points = [{PROGRESS: progress, VALUE: value} for progress, value in sorted(values.items())]
        if points:
            self._results[_Key(f"earlier {trial}")] = points  # pyright: ignore


@dataclass(frozen=True)
class _Key:
    """Stands for a trial of an earlier session among the median rule's results."""

    name: str


class Lenient(Cooperative, FIFOScheduler):
    """Ends no trial for being worse than another."""

    def __init__(self, verdicts: Verdicts) -> None:
        self.verdicts, self.told = verdicts, set()
        FIFOScheduler.__init__(self)


Judge = Halving | Median | Lenient


def judge_of(sweep: SweepSpec, train: TrainSpec, verdicts: Verdicts, mode: str) -> Judge:
    """Return who ends trials under a sweep block."""
    if sweep.prune == "none":
        return Lenient(verdicts)
    if sweep.prune == "median":
        return Median(verdicts, mode, grace_frac(sweep, train))
    return Halving(verdicts, mode, grace_frac(sweep, train), sweep.reduction or REDUCTION)


def grace_frac(sweep: SweepSpec, train: TrainSpec) -> float:
    """Return the share of its budget before which no trial is ended: as asked, or 0.1 after the longest warm-up."""
    if sweep.grace is not None:
        return sweep.grace
    warmup = sweep.dimensions().get("train.warmup")
    longest = train.warmup
    if warmup is not None:
        ends = [*warmup.options] if hasattr(warmup, "options") else [warmup.high]  # pyright: ignore
        longest = max([longest, *(float(end) for end in ends if isinstance(end, (int, float)))])
    return min(0.99, longest + GRACE_BEYOND_WARMUP)


def first_rung(grace_frac: float) -> int:
    """Return the progress before which no trial is ended."""
    return max(1, round(FULL * grace_frac))


def rungs(sweep: SweepSpec, train: TrainSpec) -> list[int]:
    """Return the progress at which trials are compared; none without successive halving."""
    if sweep.prune != "asha":
        return []
    found = [first_rung(grace_frac(sweep, train))]
    while found[-1] * (sweep.reduction or REDUCTION) <= FULL:
        found.append(found[-1] * (sweep.reduction or REDUCTION))
    return found


def rungs_passed(progress: int, milestones: Sequence[int]) -> int:
    """Return how many rungs a trial has reached."""
    return sum(milestone <= progress for milestone in milestones)
