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
MOST_CAUSES, MOST_LETTERS = 3, 18
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
    """Return the newest trials as a table, and below it causes of failures, the best so far and the time left.

    A key has a column of its own, after what changes while a trial trains: a narrow terminal cuts lines at their end.
    """
    metric, rungs = facts
    pays = next((name for trial in trials for name in trial.against), None)
    shown = [*trials, *live][-MOST_LINES:]
    keys = list(dict.fromkeys(key for it in shown for key in _values(it)))
    head = ["trial", "state", metric, *([pays] if pays else []), *(["rung"] if rungs else []), "done"]
    rows = [[*_row(it, rungs, pays), *_cells(_values(it), keys)] for it in shown]
    lines = columns([[*head, *(key.removeprefix("train.") for key in keys)], *rows]) if rows else []
    failed = [trial for trial in trials if trial.why and trial in shown][-MOST_CAUSES:]
    lines += [f"  {_name(trial.name)} {STATES[trial.state]}: {trial.why}" for trial in failed]
    return [*lines, f"  {_summary(trials, facts, total, left_s)}"]


def _values(it: TrialRecord | Live) -> Mapping[str, Any]:
    return it.assigned.values if isinstance(it, Live) else it.values


def _cells(values: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    """Return a trial's values by key, the ends of long ones; a key that does not apply to it stays empty."""
    texts = (number_text(values[key]) if key in values else "" for key in keys)
    return [text if len(text) <= MOST_LETTERS else f"…{text[1 - MOST_LETTERS :]}" for text in texts]


def _name(name: str) -> str:
    return name.partition("/")[2]


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


def _row(it: TrialRecord | Live, rungs: Sequence[int], pays: str | None) -> list[str]:
    name, state, against = (it.assigned.name, "trains", {}) if isinstance(it, Live) else (it.name, it.state, it.against)
    paid = [number_text(against.get(pays, ""))] if pays is not None else []
    rung = [f"{rungs_passed(it.progress, rungs)}/{len(rungs)}"] if rungs else []
    value = "" if it.value is None else f"{it.value:.4f}"
    return [_name(name), STATES[state], value, *paid, *rung, f"{it.progress / FULL:.0%}"]


def values_text(values: Mapping[str, Any]) -> str:
    """Return a trial's values in one line, keys without their block."""
    return " ".join(f"{key.removeprefix('train.')}={number_text(value)}" for key, value in values.items())


def number_text(value: Any) -> str:
    """Return a value with as many digits as tell it from others."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
