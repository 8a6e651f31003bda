"""A metric as a function of row weights → its 95 % interval, and that of the paired difference of two models.

A bootstrap resample of N rows is a row of weights: how often each row was drawn, summing to N. A metric that can be
computed from such weights for many resamples at once (`Weighted`) needs no loop over resamples and no second pass over
texts: most of them are a function of summed per-example statistics, so R resamples are one product, (R, N) @ (N, K).
The weights follow from the seed alone, so every metric and every model meets the same resampled rows. That makes a
difference between two models *paired*: what a hard row does to both of them cancels (Efron and Tibshirani 1993,
*An Introduction to the Bootstrap*, chapter 13 for percentile intervals; Koehn 2004, W04-3250, for paired resampling).

Left out: studentised and BCa intervals, resampling of groups of rows, and tests that may be watched while data come
in (a running experiment needs those). Percentile intervals are a little short on few rows, and of no width when every
row has the same score.

Legend: N rows, R resamples, K statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from cluster.records import Interval

Floats = NDArray[np.float64]
Weighted = Callable[[Floats], Floats]
"""Weights (R, N), each row summing to N → values (R,), NaN where the metric is undefined."""

LEVEL = 0.95
RESAMPLES = 1000
BLOCK_ELEMENTS = 2_000_000  # weights held at a time: 16 MB


def from_sums(statistics_NK: Floats, value: Callable[[Floats], Floats]) -> Weighted:
    """Return the metric that is ``value`` of the weighted column sums of ``statistics_NK``: (R, K) → (R,)."""

    def weighted(weights_RN: Floats) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return value(weights_RN @ statistics_NK)

    return weighted


def from_mean(values_N: Floats) -> Weighted:
    """Return the metric that is the weighted mean of one value per example."""
    return from_sums(np.column_stack([values_N, np.ones(len(values_N))]), lambda sums_RK: sums_RK[:, 0] / sums_RK[:, 1])


def value_of(weighted: Weighted, num_examples: int) -> float | None:
    """Return the metric on the rows as they are, or None where it is undefined or not finite."""
    if num_examples == 0:
        return None
    value = float(weighted(np.ones((1, num_examples)))[0])
    return value if np.isfinite(value) else None


def resampled_weights(num_examples: int, seed: int, resamples: int = RESAMPLES) -> Iterator[Floats]:
    """Yield blocks of weights (R', N) that together hold ``resamples`` draws of N rows with replacement."""
    generator = np.random.default_rng(seed)
    block = max(1, BLOCK_ELEMENTS // num_examples)
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn_RN = generator.integers(num_examples, size=(rows, num_examples))
        drawn_RN += np.arange(rows)[:, None] * num_examples
        counts = np.bincount(drawn_RN.ravel(), minlength=rows * num_examples)
        yield counts.reshape(rows, num_examples).astype(np.float64)


def bootstrap(metrics: Mapping[str, Weighted], num_examples: int, seed: int, resamples: int) -> dict[str, Floats]:
    """Return each metric's values (R,) on the same resampled rows, a function of the seed and nothing else."""
    blocks: dict[str, list[Floats]] = {name: [] for name in metrics}
    for weights_RN in resampled_weights(num_examples, seed, resamples):
        for name, weighted in metrics.items():
            blocks[name].append(weighted(weights_RN))
    return {name: np.concatenate(parts) for name, parts in blocks.items()}


def percentile_interval(value: float, resampled_R: Floats, level: float = LEVEL) -> Interval | None:
    """Return the central ``level`` of the resampled values around ``value``.

    Resamples where the metric is undefined (AUC without one of the classes) are left out; None when they are more than
    half, since what is left then says little about the metric.
    """
    defined = resampled_R[np.isfinite(resampled_R)]
    if 2 * len(defined) <= len(resampled_R):
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value=value, low=float(low), high=float(high))


def bootstrap_intervals(
    metrics: Mapping[str, Weighted], num_examples: int, seed: int, resamples: int = RESAMPLES
) -> dict[str, Interval]:
    """Return every metric with its interval, without those undefined on the rows; below two rows there is none."""
    if num_examples < 2:
        return {}
    values = {name: value_of(weighted, num_examples) for name, weighted in metrics.items()}
    resampled = bootstrap(metrics, num_examples, seed, resamples)
    intervals = {
        name: percentile_interval(value, resampled[name]) for name, value in values.items() if value is not None
    }
    return {name: interval for name, interval in intervals.items() if interval is not None}


def paired_intervals(
    left: Mapping[str, Weighted],
    right: Mapping[str, Weighted],
    num_examples: int,
    seed: int,
    resamples: int = RESAMPLES,
) -> dict[str, Interval]:
    """Return left − right with its interval for every metric of both, both computed on the same resampled rows."""
    shared = [name for name in left if name in right]
    differences = {name: difference(left[name], right[name]) for name in shared}
    return bootstrap_intervals(differences, num_examples, seed, resamples)


def difference(left: Weighted, right: Weighted) -> Weighted:
    """Return the metric left − right on the same weights."""
    return lambda weights_RN: left(weights_RN) - right(weights_RN)
