"""Predictions → scores, their intervals, and the paired difference of two models.

Scores go through the `evaluate` modules, intervals through the same definitions as functions of row weights; the two
agree to the last digit because both come from `METRICS` (tests hold them to it). Whatever is undefined on the rows is
left out of every result.
"""

from __future__ import annotations

from collections.abc import Sequence

from cluster.records import Interval
from trainers.bootstrap import RESAMPLES, Weighted, bootstrap_intervals, paired_intervals, value_of
from trainers.metrics import METRICS, Predictions


def score(predictions: Predictions, names: Sequence[str]) -> dict[str, float]:
    """Return every named metric that is defined on these predictions."""
    from trainers.evaluate_modules import compute_all

    return compute_all(predictions, names)


def values(predictions: Predictions, names: Sequence[str]) -> dict[str, float]:
    """Return every named metric that is defined on these predictions, without the `evaluate` modules around it."""
    found = {
        name: value_of(metric, predictions.num_examples)
        for name, metric in weighted_metrics(predictions, names).items()
    }
    return {name: value for name, value in found.items() if value is not None}


def intervals(
    predictions: Predictions, names: Sequence[str], seed: int, resamples: int = RESAMPLES
) -> dict[str, Interval]:
    """Return every named metric with its 95 % percentile bootstrap interval over rows; none below two rows."""
    return bootstrap_intervals(weighted_metrics(predictions, names), predictions.num_examples, seed, resamples)


def paired_difference(
    a: Predictions, b: Predictions, names: Sequence[str], seed: int, resamples: int = RESAMPLES
) -> dict[str, Interval]:
    """Return a − b of every metric that both define, with its 95 % interval over the same resampled rows.

    Both must hold the same rows in the same order.
    """
    assert a.num_examples == b.num_examples, "a paired difference needs the same rows"
    assert a.references == b.references, "a paired difference needs the same rows in the same order"
    return paired_intervals(weighted_metrics(a, names), weighted_metrics(b, names), a.num_examples, seed, resamples)


def weighted_metrics(predictions: Predictions, names: Sequence[str]) -> dict[str, Weighted]:
    """Return every named metric that these predictions have the columns for, as a function of row weights."""
    if predictions.num_examples == 0:
        return {}
    weighted = {name: METRICS[name].weigh(predictions) for name in names}
    return {name: metric for name, metric in weighted.items() if metric is not None}
