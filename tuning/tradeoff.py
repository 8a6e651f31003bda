"""Trials with two values each, the metric and what they pay → the Pareto front, and which trial of it wins; pure.

The front holds the trials that no other one beats in one value without losing in the other. The winner is the cheapest
of those that are at most ``give_up`` worse than the best in the metric's own units. Latency is a property of the
model's shape, so trials of one shape pay the least that any of them was measured at: otherwise the luckiest
measurement among equals would win. Costs differ between trials of one shape, and stay as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cluster.tradeoff_spec import MODEL_KEYS
from tuning.contest import SLACK

if TYPE_CHECKING:
    from cluster.records import Metrics, Plan, TrainedWeights
    from cluster.spec import JobSpec
    from tuning.trials import TrialRecord

LATENCY, WORKER_S, USD = "latency_s", "cost_worker_s", "cost_usd"
UNITS = {LATENCY: "seconds a generated token", WORKER_S: "worker-seconds of training", USD: "US dollars of training"}
"""What a trial may pay in, by the name it is kept under."""


def training_cost(job: JobSpec, plan: Plan, trained: TrainedWeights) -> Metrics:
    """Return what a training cost under its name: worker-seconds, or US dollars where a GPU's price is known.

    Steps, evaluations and saving count, over all attempts; starting and waiting do not.
    """
    worker_s = (trained.seconds + trained.evaluation_s + trained.saving_s) * trained.world_size
    price = job.cluster.price_per_gpu_hour
    if price and plan.gpus_per_worker:
        return {USD: worker_s / 3600 * plan.gpus_per_worker * price}
    return {WORKER_S: worker_s}


def paid(trials: Iterable[TrialRecord]) -> dict[int, float]:
    """Return what each trial pays, by its number: the mean of its trainings' costs, or its model's least latency."""
    amounts: dict[int, list[float]] = {}
    by_shape: dict[str, list[float]] = {}
    shapes: dict[int, str] = {}
    for trial in trials:
        for name, amount in trial.against.items():
            amounts.setdefault(trial.number, []).append(amount)
            if name == LATENCY:
                shapes[trial.number] = _shape(trial.values)
                by_shape.setdefault(shapes[trial.number], []).append(amount)
    return {
        number: min(by_shape[shapes[number]]) if number in shapes else sum(found) / len(found)
        for number, found in amounts.items()
    }


def _shape(values: Mapping[str, Any]) -> str:
    return json.dumps([values.get(key) for key in MODEL_KEYS])


def front(trials: Sequence[TrialRecord], mode: str) -> list[TrialRecord]:
    """Return the complete trials that no other one beats, the cheapest and worst first; of equals the earlier one."""
    sign, costs = _sign(mode), paid(trials)
    known = [(trial, trial.value) for trial in trials if trial.number in costs and trial.value is not None]
    ordered = sorted(known, key=lambda known: (costs[known[0].number], -sign * known[1], known[0].number))
    kept: list[tuple[TrialRecord, float]] = []
    for trial, value in ordered:
        if not kept or sign * value > sign * kept[-1][1]:
            kept.append((trial, value))
    return [trial for trial, _ in kept]


def affordable(trials: Sequence[TrialRecord], mode: str, give_up: float) -> list[TrialRecord]:
    """Return the front's trials that are at most ``give_up`` worse than the best, the cheapest first: it wins."""
    found = front(trials, mode)
    return [trial for trial in found if _is_near(trial.value, found[-1].value, mode, give_up)]


def finalists(trials: Sequence[TrialRecord], mode: str, give_up: float, most: int) -> list[TrialRecord]:
    """Return the candidates: the cheapest, and as the last of several the best, which the others are measured by."""
    found = affordable(trials, mode, give_up)
    if most == 1 or len(found) <= most:
        return found[:most]
    return [*found[: most - 1], found[-1]]


def may_win(trials: Sequence[TrialRecord], mode: str, give_up: float) -> list[TrialRecord]:
    """Return the trials whose weights may be wanted, now or after further trials and measurements.

    A shape's latency may still fall, so each shape keeps the best of its own.
    """
    groups: dict[str, list[TrialRecord]] = {}
    for trial in trials:
        groups.setdefault(_shape(trial.values) if LATENCY in trial.against else "", []).append(trial)
    kept = [trial for group in groups.values() for trial in front(group, mode)]
    if not kept:
        return []
    best = max((trial.value for trial in kept if trial.value is not None), key=lambda value: _sign(mode) * value)
    return [trial for trial in kept if _is_near(trial.value, best, mode, give_up)]


def told(trials: Sequence[TrialRecord], mode: str) -> list[dict[str, Any]]:
    """Return the front for the result's JSON: values set, value reached, and what it pays under its name."""
    costs = paid(trials)
    return [
        {"params": trial.values, "value": trial.value, next(iter(trial.against)): costs[trial.number]}
        for trial in front(trials, mode)
    ]


def _is_near(value: float | None, best: float | None, mode: str, give_up: float) -> bool:
    if value is None or best is None:
        return False
    return _sign(mode) * (best - value) <= give_up + SLACK


def _sign(mode: str) -> float:
    return 1.0 if mode == "max" else -1.0
