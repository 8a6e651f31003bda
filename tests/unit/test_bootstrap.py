"""The bootstrap: same rows from the same seed, intervals that hold what they promise, pairing that pays."""

from __future__ import annotations

import numpy as np
import pytest

from trainers import bootstrap
from trainers.bootstrap import bootstrap_intervals, from_mean, from_sums, paired_intervals, resampled_weights


def test_each_resample_draws_as_many_rows_as_there_are() -> None:
    weights_RN = np.concatenate(list(resampled_weights(7, seed=3, resamples=50)))
    assert weights_RN.shape == (50, 7)
    assert (weights_RN.sum(axis=1) == 7).all()


def test_rows_are_drawn_uniformly() -> None:
    weights_RN = np.concatenate(list(resampled_weights(10, seed=0, resamples=4000)))
    # A row's weight is Binomial(10, 1/10): mean 1, variance 0.9; its mean over 4,000 has a standard error of 0.015.
    assert weights_RN.mean(axis=0) == pytest.approx(np.ones(10), abs=0.075)
    assert weights_RN.var(axis=0) == pytest.approx(np.full(10, 0.9), abs=0.12)


def test_the_seed_alone_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    metric = {"mean": from_mean(np.random.default_rng(1).normal(size=31))}
    once = bootstrap_intervals(metric, 31, seed=4, resamples=100)
    assert bootstrap_intervals(metric, 31, seed=4, resamples=100) == once
    assert bootstrap_intervals(metric, 31, seed=5, resamples=100) != once
    monkeypatch.setattr(bootstrap, "BLOCK_ELEMENTS", 31 * 7)
    smaller_blocks = bootstrap_intervals(metric, 31, seed=4, resamples=100)["mean"]
    assert (smaller_blocks.low, smaller_blocks.high) == pytest.approx((once["mean"].low, once["mean"].high), abs=1e-12)


def test_a_metrics_interval_does_not_depend_on_the_others() -> None:
    values = np.random.default_rng(1).normal(size=(2, 40))
    alone = bootstrap_intervals({"b": from_mean(values[1])}, 40, seed=0)
    both = bootstrap_intervals({"a": from_mean(values[0]), "b": from_mean(values[1])}, 40, seed=0)
    assert both["b"] == alone["b"]


def test_the_spread_is_the_standard_error() -> None:
    values = np.random.default_rng(2).normal(size=400)
    interval = bootstrap_intervals({"mean": from_mean(values)}, 400, seed=0, resamples=2000)["mean"]
    # 2000 resamples give the 2.5 % quantiles to about 6 % of the interval's width.
    expected = 2 * 1.96 * values.std() / np.sqrt(400)
    assert interval.high - interval.low == pytest.approx(expected, rel=0.1)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(400):
        values = generator.exponential(size=100)
        interval = bootstrap_intervals({"mean": from_mean(values)}, 100, seed=trial, resamples=300)["mean"]
        covered += interval.low <= 1.0 <= interval.high
    # Nominal 95 %; skewed data and 300 resamples cost about 2 points; the count's standard error is 1.2 points.
    assert 0.895 <= covered / 400 <= 0.985


def test_paired_intervals_cover_the_difference_and_are_narrower_than_unpaired_ones() -> None:
    generator = np.random.default_rng(1)
    covered, widths = 0, []
    for trial in range(200):
        hardness = generator.normal(size=80)
        left = from_mean(hardness + 0.3 + 0.2 * generator.normal(size=80))
        right = from_mean(hardness + 0.2 * generator.normal(size=80))
        interval = paired_intervals({"m": left}, {"m": right}, 80, seed=trial, resamples=200)["m"]
        covered += interval.low <= 0.3 <= interval.high
        widths.append(interval.high - interval.low)
    assert covered / 200 >= 0.88
    unpaired = 2 * 1.96 * np.sqrt(2 * 1.04 / 80)
    assert np.mean(widths) < unpaired / 3


def test_the_difference_of_a_model_with_itself_is_exactly_zero() -> None:
    metric = {"mean": from_mean(np.random.default_rng(0).random(20))}
    interval = paired_intervals(metric, metric, 20, seed=0)["mean"]
    assert (interval.value, interval.low, interval.high) == (0.0, 0.0, 0.0)


def test_only_metrics_of_both_models_are_compared() -> None:
    metric = from_mean(np.random.default_rng(0).random(20))
    assert set(paired_intervals({"a": metric, "b": metric}, {"b": metric}, 20, seed=0)) == {"b"}


def test_mostly_undefined_resamples_give_no_interval() -> None:
    # Defined only where the single marked row is drawn, in 1 - (1 - 1/20)^20 = 64 % of resamples; then in none.
    marked = np.eye(20)[:, :1]
    sometimes = from_sums(marked, lambda sums: np.where(sums[:, 0] > 0, 1.0, np.nan))
    seldom = from_sums(marked, lambda sums: np.where(sums[:, 0] == 1, 1.0, np.nan))
    found = bootstrap_intervals({"sometimes": sometimes, "seldom": seldom}, 20, seed=0)
    assert set(found) == {"sometimes"}


def test_fewer_than_two_rows_have_no_interval() -> None:
    assert bootstrap_intervals({"mean": from_mean(np.ones(1))}, 1, seed=0) == {}
    assert bootstrap_intervals({"mean": from_mean(np.ones(0))}, 0, seed=0) == {}
