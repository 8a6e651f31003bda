"""Who won a sweep, and whether that can be told from the job's own values → a tone, a sentence and what it rests on.

The same words stand on the terminal, in the JSON result and on the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tuning.table import number_text
from tuning.tradeoff import UNITS, paid

if TYPE_CHECKING:
    from cluster.pages import Tone
    from cluster.spec import JobSpec, SweepSpec
    from tuning.trials import TrialRecord

LOST = ("diverged", "failed")


def compared(job: JobSpec, finals: Mapping[str, Any], trials: Sequence[TrialRecord]) -> tuple[Tone, str, str]:
    """Return whether the winner can be told from the job's own values, as a tone, a sentence and what it rests on."""
    winner, metric = f"Trial {finals['winner']} won", job.train.best_by
    if job.sweep is not None and job.sweep.tradeoff is not None:
        return _traded(job, finals, trials, job.sweep.tradeoff.give_up)
    if finals["own"] is None:
        return "note", f"{winner}.", "The job's own values lie outside the space, so nothing compares them."
    if finals["winner"] == finals["own"]:
        return "note", "The job's own values won.", "Nothing that was tried is better."
    if finals["lead"] is None:
        return "warning", f"{winner}; whether it beats the job's own values is not known.", finals["no_lead"]
    value, low, high = finals["lead"]
    lead = f"It leads by {value:.4g} {metric}, 95 % interval {low:.4g} to {high:.4g}, over the same seeds."
    if low > 0:
        return "good", f"{winner} and beats the job's own values.", lead
    return "warning", f"{winner}, but cannot be told from the job's own values.", lead


def no_lead(sweep: SweepSpec, own: TrialRecord | None, runs: Sequence[TrialRecord]) -> str:
    """Return why a winner has no lead over the job's own values; empty where these are not in the space.

    ``own`` is their trial in the search, ``runs`` are the finals.
    """
    if own is None:
        return ""
    if own.state in LOST:
        return f"In the search the job's own values {own.state}: {own.why}."
    for record in runs:
        if record.number == own.number and record.state in LOST:
            return f"Trained again with seed {record.seed} the job's own values {record.state}: {record.why}."
    key = "sweep.seeds" if sweep.finalists > 1 else "sweep.finalists"
    return f"Every set of values was trained with one seed, so chance cannot be told from gain: raise {key}."


def _traded(
    job: JobSpec, finals: Mapping[str, Any], trials: Sequence[TrialRecord], give_up: float
) -> tuple[Tone, str, str]:
    """Say what the winner of a tradeoff pays, and what it pays it for."""
    winner, own, lead, metric = finals["winner"], finals["own"], finals["lead"], job.train.best_by
    why = f"the cheapest of those at most {number_text(give_up)} {metric} behind the best"
    if winner == own:
        return "note", "The job's own values won.", f"They are {why}."
    costs = paid(trials)
    names = next(trial.against for trial in trials if trial.number == winner)
    unit = UNITS.get(next(iter(names), ""), "")
    more = f"It pays {number_text(costs[winner])} {unit}" if winner in costs else "What it pays is not known"
    more += f", the job's own values {number_text(costs[own])}." if own in costs else "."
    if lead is not None:
        value, low, high = lead
        better = f"{abs(value):.4g} {'better' if value >= 0 else 'worse'}"
        more += f" Its {metric} is {better} than theirs, 95 % interval {low:.4g} to {high:.4g}, over the same seeds."
    return "good", f"Trial {winner} won: {why}.", more
