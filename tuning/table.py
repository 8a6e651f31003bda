"""Trials → the compact table that a user watches: trial, values, rung, metric, state; best so far and time left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster.phases import duration
from cluster.tables import columns
from cluster.train_spec import mode_of
from tuning.judge import FULL, rungs_passed
from tuning.trials import Assigned, best_trials

if TYPE_CHECKING:
    from tuning.trials import TrialRecord

MOST_LINES = 16
STATES = {"complete": "done", "pruned": "pruned", "diverged": "diverged", "failed": "failed", "trains": "trains"}
Facts = tuple[str, Sequence[int]]
"""The metric's name, and the progress of each rung."""


@dataclass
class Live:
    """A trial that trains now: when it began, and how far it is."""

    assigned: Assigned
    began_s: float
    progress: int = 0
    value: float | None = None


def table_lines(
    trials: Sequence[TrialRecord], live: Sequence[Live], facts: Facts, total: int, left_s: float | None
) -> list[str]:
    """Return the newest trials as a table, and below it the best so far and the time left."""
    metric, rungs = facts
    pays = next((name for trial in trials for name in trial.against), None)
    shown = [_row(trial.name, trial.values, trial, trial.state, trial.why, rungs, pays) for trial in trials]
    shown += [_row(it.assigned.name, it.assigned.values, it, "trains", "", rungs, pays) for it in live]
    shown = shown[-MOST_LINES:]
    head = ["trial", "values", *(["rung"] if rungs else []), "done", metric, *([pays] if pays else []), "state"]
    lines = columns([head, *shown]) if shown else []
    return [*lines, f"  {_summary(trials, facts, total, left_s)}"]


def trial_line(trial: TrialRecord, facts: Facts) -> str:
    """Return one finished trial as a line of a log."""
    metric, rungs = facts
    value = "" if trial.value is None else f"  {metric} {trial.value:.4f}"
    value += "".join(f"  {name} {number_text(amount)}" for name, amount in trial.against.items())
    rung = f"  rung {rungs_passed(trial.progress, rungs)}/{len(rungs)}" if rungs else ""
    why = f": {trial.why}" if trial.why else ""
    where = f"  {trial.progress / FULL:.0%}" if trial.progress < FULL else ""
    return f"  {trial.name}  {values_text(trial.values)}{value}{rung}{where}  {STATES[trial.state]}{why}"


def _summary(trials: Sequence[TrialRecord], facts: Facts, total: int, left_s: float | None) -> str:
    metric, _ = facts
    mode = mode_of(metric)
    parts = [f"{len(trials)} of {total} trials"]
    if best := best_trials(trials, mode, 1, ("complete",)) or best_trials(trials, mode, 1, ("pruned",)):
        parts.append(f"best {metric} {best[0].value:.4f} ({best[0].name})")
    if left_s:
        parts.append(f"about {duration(left_s)} left")
    return ", ".join(parts)


def _row(
    name: str,
    values: Mapping[str, Any],
    seen: TrialRecord | Live,
    state: str,
    why: str,
    rungs: Sequence[int],
    pays: str | None,
) -> list[str]:
    rung = [f"{rungs_passed(seen.progress, rungs)}/{len(rungs)}"] if rungs else []
    shown = ["" if seen.value is None else f"{seen.value:.4f}"]
    if pays is not None:
        against = {} if isinstance(seen, Live) else seen.against
        shown.append(number_text(against.get(pays, "")))
    said = STATES[state] + (f": {why[:40]}" if why else "")
    return [name.partition("/")[2], values_text(values), *rung, f"{seen.progress / FULL:.0%}", *shown, said]


def values_text(values: Mapping[str, Any]) -> str:
    """Return a trial's values in one line, keys without their block."""
    return " ".join(f"{key.removeprefix('train.')}={number_text(value)}" for key, value in values.items())


def number_text(value: Any) -> str:
    """Return a value with as many digits as tell it from others."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
