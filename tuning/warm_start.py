"""A job and what is known of its base → the points that a search tries without being asked, each in its place; pure.

First comes what is known from elsewhere: a prior on the learning rate from "LoRA Without Regret" (Schulman et al. 2025,
https://thinkingmachines.ai/blog/lora/). LoRA's best rate is about ten times full tuning's and nearly independent of the
rank, and for some families of models it is known how it falls with their width. Third come the job's own values, which
every winner is compared with: they have to be tried, but a search that knows no better begins with them only where
nothing else is known. The second trial is the search's, as far as there is no second prior.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isclose, log
from typing import TYPE_CHECKING

from cluster.sweep_spec import Choice, Dimension
from cluster.train_spec import LEARNING_RATES, Method
from tuning.space import METHOD, RATE, Plain, Values, inside, method_named, moved_rate, own_values, packed

if TYPE_CHECKING:
    from cluster.spec import JobSpec

OWN_PLACE = 2
"""The place, from 0, of the job's own values behind a prior. Replayed with room for 7 trainings, being the first one
cost them most of what a search gains (benchmarks/results/sweep_quality.md)."""
FULL_RATE, LORA_TIMES, WIDTH = 5e-5, 10.0, 2000
EXPONENTS = {"llama": 0.781, "qwen2": 0.0775, "qwen3": 0.0775}
"""By model type: how fast the best learning rate falls with the hidden size, in the authors' fit."""
Points = dict[int, dict[str, Plain]]


@dataclass(frozen=True)
class Base:
    """What of a base model decides its usual learning rate."""

    model_type: str
    hidden_size: int


def usual_rate(method: Method, base: Base | None) -> float:
    """Return the learning rate that suits a method on a base; the job file's default where the family is unknown.

    Schulman et al. 2025 fit 5e-5 · m · (2000 / hidden size)^p, m = 10 for LoRA and 1 for full tuning.
    """
    exponent = EXPONENTS.get(base.model_type) if base else None
    if base is None or exponent is None:
        return LEARNING_RATES[method]
    return FULL_RATE * (1.0 if method == "full" else LORA_TIMES) * (WIDTH / base.hidden_size) ** exponent


def warm_starts(job: JobSpec, base: Base | None = None) -> Points:
    """Return the points to try by their place among the trials, from 0; a point names only keys whose value is allowed.

    The job's own values are among them however few the trials are. A grid has all of its points anyway.
    """
    assert job.sweep is not None, "a job with a sweep block"
    if job.sweep.search == "grid":
        return {}
    dimensions, own = job.sweep.dimensions(), own_values(job)
    priors: list[dict[str, Plain]] = []
    for prior in _priors(job, dimensions, own, base):
        point = _allowed(prior, dimensions)
        if point and point not in priors:
            priors.append(point)
    first, later = priors[:OWN_PLACE], priors[OWN_PLACE:]
    placed: Points = dict(enumerate(first))
    mine = _allowed(own, dimensions)
    if mine and mine not in priors:
        placed[min(OWN_PLACE, job.sweep.trials - 1) if first else 0] = mine
    placed |= dict(enumerate(later, OWN_PLACE + 1))
    return {place: point for place, point in placed.items() if place < job.sweep.trials}


def _allowed(point: Values, dimensions: Mapping[str, Dimension]) -> dict[str, Plain]:
    return {key: packed(value) for key, value in point.items() if inside(dimensions[key], value)}


def _priors(job: JobSpec, dimensions: Mapping[str, Dimension], own: Values, base: Base | None) -> list[Values]:
    """Return the job's values at the usual rate of its method, and under every other method with the rate moved."""
    if RATE not in dimensions:
        return []
    before: Method = job.train.method
    methods = dimensions.get(METHOD)
    rates: dict[Method, float] = {before: usual_rate(before, base)}
    if isinstance(methods, Choice):
        others: list[Method] = [method_named(str(option)) for option in methods.options if option != before]
        rates |= {after: moved_rate(job.train.learning_rate, before, after) for after in others}
    found: list[Values] = []
    for method, rate in rates.items():
        near = _nearest(dimensions[RATE], rate)
        if near is not None:
            changed: Values = {METHOD: method} if METHOD in dimensions else {}
            found.append(own | changed | {RATE: _same(near, own[RATE])})
    return found


def _nearest(found: Dimension, rate: float) -> float | None:
    """Return the allowed rate that is nearest on a logarithmic scale; None where the rate is beyond all of them."""
    if not isinstance(found, Choice):
        return rate if found.low <= rate <= found.high else None
    numbers = [option for option in found.options if isinstance(option, (int, float)) and option > 0]
    if not numbers or not min(numbers) <= rate <= max(numbers):
        return None
    return min(numbers, key=lambda option: abs(log(option / rate)))


def _same(rate: float, own: object) -> float:
    """Return the job's own rate where a rate differs from it by rounding only."""
    return own if isinstance(own, float) and isclose(own, rate) else rate
