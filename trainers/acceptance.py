"""The gate stage: the evaluation's scores and the job's rules → a decision, kept with its numbers.

``base`` in a rule means the better of the base as it is and the base with few-shot examples in its prompt, metric by
metric: tuning must beat prompting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.records import Metrics
from trainers.evaluation import Scored, read_scored
from trainers.gate import Scores, decide
from trainers.metrics import METRICS

SPEED = "speed.json"

if TYPE_CHECKING:
    from cluster.pipeline import RunContext


def run(ctx: RunContext) -> None:
    """Decide and leave ``runs/RUN/gate.json``."""
    scored = read_scored(ctx)
    champion = scored.of("champion") or None
    scores = Scores(scored.of("tuned"), best_base(scored), champion, frozenset(scored.slices), _speed(ctx))
    report = decide(ctx.job.gate, scores)
    ctx.store.put_json(report.model_dump(mode="json"), "runs", ctx.run, "gate.json")
    ctx.progress.say(f"gate: {report.decision}")


def _speed(ctx: RunContext) -> Metrics:
    """Return what the speed stage measured, if the job has one."""
    if not ctx.store.exists("runs", ctx.run, SPEED):
        return {}
    return ctx.store.get_json("runs", ctx.run, SPEED)["metrics"]


def best_base(scored: Scored) -> dict[str, Metrics] | None:
    """Return the base's scores per test, each metric the better of zero-shot and few-shot; None if not scored."""
    plain, prompted = scored.of("base"), scored.of("base_few_shot")
    if not plain:
        return None
    best: dict[str, Metrics] = {}
    for test, metrics in plain.items():
        other = prompted.get(test, {})
        best[test] = {name: _better(name, value, other.get(name, value)) for name, value in metrics.items()}
    return best


def _better(name: str, a: float, b: float) -> float:
    return max(a, b) if METRICS[name].higher_is_better else min(a, b)
