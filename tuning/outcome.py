"""Who won a sweep, and whether that can be told from the job's own values → a tone, a sentence and what it rests on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tuning.table import number_text
from tuning.tradeoff import UNITS, paid

if TYPE_CHECKING:
    from cluster.pages import Tone
    from tuning.report import FinishedSweep


def compared(done: FinishedSweep) -> tuple[Tone, str, str]:
    """Return whether the winner can be told from the job's own values, as a tone, a sentence and what it rests on."""
    finals, winner = done.finals, f"Trial {done.finals['winner']} won"
    if done.job.sweep is not None and done.job.sweep.tradeoff is not None:
        return _traded(done, done.job.sweep.tradeoff.give_up)
    if finals["own"] is None:
        return "note", f"{winner}.", "The job's own values lie outside the space, so nothing compares them."
    if finals["winner"] == finals["own"]:
        return "note", "The job's own values won.", "Nothing that was tried is better."
    if finals["lead"] is None:
        why = (
            "Every set of values was trained with one seed, so chance cannot be told from gain: raise sweep.finalists."
        )
        return "warning", f"{winner}; whether it beats the job's own values is not known.", why
    value, low, high = finals["lead"]
    lead = f"It leads by {value:.4g} {done.metric}, 95 % interval {low:.4g} to {high:.4g}, over the same seeds."
    if low > 0:
        return "good", f"{winner} and beats the job's own values.", lead
    return "warning", f"{winner}, but cannot be told from the job's own values.", lead


def _traded(done: FinishedSweep, give_up: float) -> tuple[Tone, str, str]:
    """Say what the winner of a tradeoff pays, and what it pays it for."""
    winner, own, lead = done.finals["winner"], done.finals["own"], done.finals["lead"]
    why = f"the cheapest of those at most {number_text(give_up)} {done.metric} behind the best"
    if winner == own:
        return "note", "The job's own values won.", f"They are {why}."
    costs = paid(done.trials)
    unit = UNITS.get(next(iter(done.winner.against), ""), "")
    more = f"It pays {number_text(costs[winner])} {unit}" if winner in costs else "What it pays is not known"
    more += f", the job's own values {number_text(costs[own])}." if own in costs else "."
    if lead is not None:
        value, low, high = lead
        better = f"{abs(value):.4g} {'better' if value >= 0 else 'worse'}"
        more += (
            f" Its {done.metric} is {better} than theirs, 95 % interval {low:.4g} to {high:.4g}, over the same seeds."
        )
    return "good", f"Trial {winner} won: {why}.", more
