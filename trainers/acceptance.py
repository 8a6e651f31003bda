"""The gate stage: what the evaluation found and the job's rules → a decision, kept with its numbers.

``base`` in a rule means the better of the base as it is and the base with few-shot examples in its prompt, metric by
metric: tuning must beat prompting. What further looks found stands among the scores, under the names that rules use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.acceptance_records import Acceptance
from cluster.records import Metrics
from trainers.evaluation import Scored, read_acceptance, read_scored
from trainers.gate import Scores, decide
from trainers.look_numbers import is_better_higher, numbers_of, with_looks

SPEED = "speed.json"

if TYPE_CHECKING:
    from cluster.run_context import RunContext


def run(ctx: RunContext) -> None:
    """Decide and leave ``runs/RUN/gate.json``."""
    report = decide(ctx.job.gate, gate_scores(read_scored(ctx), read_acceptance(ctx), _speed(ctx)))
    ctx.store.put_json(report.model_dump(mode="json"), "runs", ctx.run, "gate.json")
    ctx.progress.say(f"gate: {report.decision}")


def _speed(ctx: RunContext) -> Metrics:
    """Return what the speed stage measured, if the job has one."""
    if not ctx.store.exists("runs", ctx.run, SPEED):
        return {}
    return ctx.store.get_json("runs", ctx.run, SPEED)["metrics"]


def gate_scores(scored: Scored, found: Acceptance, speed: Metrics | None = None) -> Scores:
    """Return everything that rules may speak of: scores and looks of each model, and the facts of the release."""
    numbers = numbers_of(found, "tuned")
    champion = scored.of("champion")
    facts = {number.name: number.value for number in numbers if not number.test and number.value is not None}
    return Scores(
        test=with_looks(scored.of("tuned"), numbers),
        base=best_base(scored, found),
        champion=with_looks(champion, numbers_of(found, "champion")) if champion else None,
        slices=frozenset(scored.slices),
        facts=facts | (speed or {}),
        notes={(number.test, number.name): number.note for number in numbers if number.note},
    )


def best_base(scored: Scored, found: Acceptance | None = None) -> dict[str, Metrics] | None:
    """Return the base's scores per test, each metric the better of zero-shot and few-shot; None if not scored."""
    if not scored.of("base"):
        return None
    plain, prompted = (
        with_looks(scored.of(role), numbers_of(found, role) if found else []) for role in ("base", "base_few_shot")
    )
    best: dict[str, Metrics] = {}
    for test, metrics in plain.items():
        other = prompted.get(test, {})
        best[test] = {name: _better(name, value, other.get(name, value)) for name, value in metrics.items()}
    return best


def _better(name: str, a: float, b: float) -> float:
    return max(a, b) if is_better_higher(name) else min(a, b)
