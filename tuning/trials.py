"""What one trial of a sweep leaves in its directory, written by the driver when the trial has ended.

A trial is a run inside the run: ``runs/RUN/trials/N`` (a final one ``runs/RUN/finals/N-seed-S``) holds its status, its
curve, its best weights while they may still win, and ``trial.json``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, JsonValue

from cluster.records import Metrics, Record, TrainedWeights
from cluster.runs import RUNS
from cluster.store import Store
from trainers.checkpoint import drop_checkpoints
from trainers.recorder import read_growing
from trainers.train_worker import OUTCOME
from tuning.space import Plain

TRIALS, FINALS = "trials", "finals"
TRIAL = "trial.json"
State = Literal["complete", "pruned", "diverged", "failed", "interrupted"]
CUT = "the search's time or money was used up"
ENDED: tuple[State, ...] = ("complete", "pruned", "diverged", "failed")


@dataclass(frozen=True)
class Assigned:
    """A trial's assignment, as the searcher made it."""

    name: str
    number: int
    values: Mapping[str, Plain]
    seed: int | None


class TrialRecord(Record):
    """One trial: what it tried, how far it came, and what that was worth."""

    name: str = Field(description="its directory in the run's, as trials/3")
    number: int = Field(description="its number in the study")
    values: dict[str, JsonValue] = Field(description="dotted key → value, as suggested")
    seed: int
    state: State
    value: float | None = Field(default=None, description="the best validation value that it reached")
    metrics: Metrics = Field(default_factory=dict)
    against: Metrics = Field(
        default_factory=dict, description="what it paid where there is a tradeoff: latency_s, cost_worker_s or cost_usd"
    )
    step: int = 0
    steps: int = 0
    progress: int = Field(default=0, description="thousandths of its full budget")
    seconds: float = 0.0
    why: str = ""
    trained: TrainedWeights | None = Field(default=None, description="the training's own record where it finished")

    @property
    def is_cut(self) -> bool:
        """Whether the search's budget ended it, and it goes on if the search is given more."""
        return self.state == "pruned" and self.why == CUT


def keep_trial(store: Store, run: str, record: TrialRecord) -> None:
    """Write a trial's record down."""
    store.put_json(record.model_dump(mode="json"), RUNS, run, record.name, TRIAL)


def forget_trial(store: Store, run: str, name: str) -> None:
    """Remove how a trial ended, so that it can be trained again."""
    for part in (OUTCOME, TRIAL):
        store.remove(RUNS, run, name, part)


def read_trials(store: Store, run: str, kind: str = TRIALS) -> list[TrialRecord]:
    """Return the trials that have ended, by number; ``kind`` is TRIALS or FINALS."""
    found = [
        TrialRecord.model_validate(store.get_json(RUNS, run, kind, name, TRIAL))
        for name in store.list(RUNS, run, kind)
        if store.exists(RUNS, run, kind, name, TRIAL)
    ]
    return sorted(found, key=lambda record: (record.number, record.seed))


def trial_place(store: Store, run: str, name: str) -> str:
    """Return where a trial lies, as any node opens it: a directory that all workers see, or a URL."""
    return store.path(RUNS, run, name)


def trial_history(store: Store, run: str, name: str) -> list[dict[str, float]]:
    """Return a trial's curve; whole lines only, since the trial may have been killed."""
    return read_growing(trial_place(store, run, name))


def best_trials(trials: Sequence[TrialRecord], mode: str, most: int, states: Sequence[State]) -> list[TrialRecord]:
    """Return the best of the trials that are in one of some states, the best first; of equals the earlier one."""
    sign = 1.0 if mode == "max" else -1.0
    scored = [trial for trial in trials if trial.state in states and trial.value is not None]
    return sorted(scored, key=lambda trial: (-sign * (trial.value or 0.0), trial.number))[:most]


def drop_weights(store: Store, run: str, kept: Sequence[str], ended: Sequence[TrialRecord]) -> None:
    """Remove weights and checkpoints of trials that have ended and are not kept; curves and records stay."""
    for trial in ended:
        drop_checkpoints(trial_place(store, run, trial.name), weights=trial.name not in kept)
