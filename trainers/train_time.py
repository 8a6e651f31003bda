"""How long stages and parts of training took → the report's section on time.

Stages are timed where they are run, over all attempts. Inside training the loop counts steps, evaluations and waiting
for checkpoints, and a run that goes on from a checkpoint keeps its sums; what is left of the stage is start-up,
waiting for workers, and steps that were done again after a failure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cluster.charts import Bar, bars
from cluster.pages import Section, element, facts, joined
from cluster.phases import StageTime, duration, stage_times

if TYPE_CHECKING:
    from cluster.phases import Phase
    from cluster.records import Plan, TrainedWeights

REST = "start-up, waiting, steps done again"


def stages_timed(phases: Sequence[Phase], trained: TrainedWeights) -> list[StageTime]:
    """Return what each stage took but for the report's own; training at least as long as its loop counted."""
    inside_s = trained.seconds + trained.evaluation_s + trained.saving_s
    return [
        StageTime(time.stage, max(time.took_s, inside_s), time.attempts, time.is_known)
        if time.stage == "train"
        else time
        for time in stage_times(phases)
        if time.stage != "report"
    ]


def inside_training(trained: TrainedWeights, stages: Sequence[StageTime]) -> dict[str, float]:
    """Return the parts of the training stage in seconds; they add up to it where all its attempts are known."""
    parts = {"steps": trained.seconds, "evaluations": trained.evaluation_s, "checkpoints": trained.saving_s}
    whole = next((time for time in stages if time.stage == "train"), None)
    if whole is not None and whole.is_known:
        parts[REST] = whole.took_s - sum(parts.values())
    return parts


def time_section(phases: Sequence[Phase], trained: TrainedWeights, plan: Plan) -> Section:
    """Return the time of each stage and of the parts of training."""
    stages = stages_timed(phases, trained)
    blocks = []
    if stages:
        total_s = sum(time.took_s for time in stages)
        blocks += [bars([_bar(time, total_s) for time in stages]), facts(_totals(stages, plan))]
    parts = inside_training(trained, stages)
    blocks.append(element("h3", "Inside training"))
    blocks.append(bars([Bar(name, took_s, _shown(took_s, sum(parts.values()))) for name, took_s in parts.items()]))
    return Section("Time", joined(blocks), "From reading the data to the registered release, by the clock.")


def _bar(time: StageTime, total_s: float) -> Bar:
    shown = _shown(time.took_s, total_s)
    label = f"{time.stage} ({time.attempts} attempts)" if time.attempts > 1 else time.stage
    return Bar(label, time.took_s, shown if time.is_known else f"at least {shown}")


def _shown(took_s: float, total_s: float) -> str:
    return f"{duration(took_s)} · {took_s / total_s if total_s else 0:.0%}"


def _totals(stages: Sequence[StageTime], plan: Plan) -> list[tuple[str, str]]:
    total_s = sum(time.took_s for time in stages)
    unknown = "" if all(time.is_known for time in stages) else "at least "
    told = [("all stages", f"{unknown}{duration(total_s)}")]
    if unknown:
        told.append(("not timed", "an attempt whose process was killed: nothing can say when"))
    if plan.hours is not None:
        told.append(("planned", f"{duration(3600 * plan.hours)} of training ({plan.hours_source})"))
    return told
