"""A run's history → the report's section of curves: losses, the metric that chose the weights, rate, gradient, speed.

A step's own numbers are noisy, so they are drawn faintly, and over them the mean of the steps around each: a centred
mean does not lag behind the curve as a running one does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import nan
from typing import TYPE_CHECKING

from markupsafe import Markup

from cluster.curves import MAX_POINTS, Mark, Point, Series, curve, smoothed
from cluster.pages import Section, element, joined

if TYPE_CHECKING:
    from cluster.records import Plan, TrainedWeights
    from cluster.spec import TrainSpec

MIN_POINTS, MIN_WINDOW = 40, 5
WINDOWS = 50
"""Stretches of its length over which a curve is averaged: one of 1,000 steps by 21."""

History = Sequence[dict[str, float]]


def curves_section(history: History, trained: TrainedWeights, plan: Plan, train: TrainSpec) -> Section:
    """Return the curves of a run, with the step marked whose weights were kept."""
    validation = points(history, "validation_loss")
    is_best = "kept" if train.best_by_is_generated else "best"
    best = Mark(trained.best_step, f"{is_best}: step {trained.best_step:,}") if validation else None
    losses = [*with_mean("training", points(history, "loss"))]
    if validation:
        losses.append(Series("validation", validation, "second", has_dots=True))
    body = [curve("Loss", "in nats per target token,", losses, best)]
    body.append(element("div", joined(_further(history, plan, train, best)), "figures"))
    return Section("Curves", joined(body), _lead(history, trained, plan, train))


def _further(history: History, plan: Plan, train: TrainSpec, best: Mark | None) -> Iterator[Markup]:
    name = train.best_by
    if best and name != "loss" and (found := points(history, f"validation_{name}")):
        mark = Mark(best.at, f"best: {dict(found).get(best.at, nan):.4g} at step {best.at:,.0f}")
        yield curve(f"Validation {name}", "", [Series(name, found, "second", has_dots=True)], mark)
    if found := points(history, "learning_rate"):
        yield curve("Learning rate", "", [Series("learning rate", found)], is_linear=True)
    found = points(history, "grad_norm")
    if any(norm for _, norm in found):
        level = Mark(train.max_grad_norm, f"clipped at {train.max_grad_norm:g}") if train.max_grad_norm else None
        yield curve("Gradient norm", "before clipping,", list(with_mean("gradient norm", found)), level=level)
    if found := points(history, "examples_per_s"):
        workers = f"of {plan.workers} workers together," if plan.workers > 1 else "of one worker,"
        yield curve("Examples a second", workers, list(with_mean("examples a second", found)), is_linear=True)


def points(history: History, name: str) -> list[Point]:
    """Return a number of the history over the steps at which it was noted."""
    return [(row["step"], row[name]) for row in history if name in row]


def with_mean(name: str, found: Sequence[Point]) -> Iterator[Series]:
    """Yield a noisy series faintly and its mean over the steps around each; a short one as it is."""
    window = max(MIN_WINDOW, len(found) // WINDOWS // 2 * 2 + 1)
    if len(found) < MIN_POINTS:
        yield Series(name, found)
        return
    yield Series(f"{name}, each step", found, "faint")
    yield Series(f"mean of the {window} steps around", smoothed(found, window))


def _lead(history: History, trained: TrainedWeights, plan: Plan, train: TrainSpec) -> str:
    said = [f"One step is {train.batch_size} examples, an epoch {plan.steps_per_epoch:,} steps."]
    if not points(history, "validation_loss"):
        said.append("There is no validation split: the weights of the last step were kept.")
    elif train.best_by_is_generated:
        from trainers.validation_scores import MAX_EXAMPLES

        said.append(f"The {train.best_by} on at most {MAX_EXAMPLES} validation examples chose the weights.")
    if not any(norm for _, norm in points(history, "grad_norm")):
        said.append(f"Gradient norms are not known: the engine does not say them at ZeRO stage {trained.zero_stage}.")
    if trained.stopped_early:
        said.append(f"Stopped early after {trained.steps:,} of {plan.steps:,} steps: no evaluation was better.")
    if len(history) > MAX_POINTS:
        said.append(f"Lines are thinned to {MAX_POINTS} points; their ends and extremes are kept.")
    return " ".join(said)
