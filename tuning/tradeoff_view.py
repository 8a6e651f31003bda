"""A sweep's trials under a tradeoff → the part of its page that shows both values, the front, and the choice on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cluster.pages import Section
from cluster.train_spec import mode_of
from tuning.plots import Dot, Kind, Scale, scatter
from tuning.table import number_text
from tuning.tradeoff import UNITS, affordable, front, paid

if TYPE_CHECKING:
    from cluster.spec import JobSpec
    from tuning.trials import TrialRecord


def tradeoff_section(
    job: JobSpec,
    trials: Sequence[TrialRecord],
    kind: Callable[[TrialRecord], Kind],
    named: Callable[[TrialRecord], str],
) -> Section | None:
    """Return the plot of what trials pay and reach, the front drawn through; None where nothing was traded."""
    assert job.sweep is not None, "a job with a sweep block"
    traded, metric = job.sweep.tradeoff, job.train.best_by
    costs = paid(trials)
    shown = [(trial, trial.value) for trial in trials if trial.number in costs and trial.value is not None]
    if traded is None or not shown:
        return None
    unit = UNITS[next(iter(shown[0][0].against))]
    dots = [Dot(costs[trial.number], value, kind(trial), named(trial)) for trial, value in shown]
    kept = front(trials, mode_of(metric))
    line = [(costs[trial.number], trial.value) for trial in kept if trial.value is not None]
    near = affordable(trials, mode_of(metric), traded.give_up)
    body = scatter(
        f"{metric} against {traded.against}", f"across: {unit}", Scale.of([dot.x for dot in dots]), dots, line
    )
    lead = (
        f"The line joins the front: {_counted(len(kept))} that no other one beats in one value without losing in the "
        f"other. The search's choice is the cheapest of it that gives up at most {number_text(traded.give_up)} of the "
        f"best {metric}: {named(near[0])}, of {_counted(len(near))} near enough."
    )
    if traded.against == "latency":
        lead += " Trials of one base, method and adapter share the least latency that was measured for any of them."
    return Section("Trade-off", body, lead)


def _counted(number: int) -> str:
    return "1 trial" if number == 1 else f"{number} trials"
