"""A trial's record → what the study is told of it: a value, a penalty, a state, or nothing where it may go on."""

from __future__ import annotations

from math import exp
from typing import TYPE_CHECKING

from optuna.trial import TrialState

from tuning.study import Ending

if TYPE_CHECKING:
    from cluster.spec import JobSpec
    from tuning.objective import Arena
    from tuning.trials import TrialRecord

WORST_SCORE = -1.0
"""The value of a trial that diverged, where scores lie in 0..1."""


def study_ending(record: TrialRecord, worst: float) -> Ending | None:
    """Return how the study is told of a trial: divergence as a value worse than any real one.

    None for one that was interrupted or cut by the budget: it stays open, and goes on if the search does.
    """
    match record.state:
        case "complete":
            return Ending(TrialState.COMPLETE, record.value, next(iter(record.against.values()), None))
        case "pruned":
            return None if record.is_cut else Ending(TrialState.PRUNED)
        case "diverged":
            return Ending(TrialState.COMPLETE, worst)
        case "failed":
            return Ending(TrialState.FAIL)
        case "interrupted":
            return None


def traded_ending(record: TrialRecord, worst: float, most_paid: float | None) -> Ending | None:
    """Return the same where a trial has two values: one that diverged pays the most that any other paid.

    So it stays off the front. Before any other has finished no price can be named, and it is a failure.
    """
    if record.state != "diverged":
        return study_ending(record, worst)
    return Ending(TrialState.FAIL) if most_paid is None else Ending(TrialState.COMPLETE, worst, most_paid)


def penalty(job: JobSpec, arena: Arena) -> float:
    """Return a finite value that is worse than any trial's real one: those beyond ``explodes_at`` count as diverged."""
    match job.train.best_by:
        case "loss":
            return arena.explodes_at
        case "perplexity":
            return exp(arena.explodes_at)
        case _:
            return WORST_SCORE
