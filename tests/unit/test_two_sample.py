"""The classifier between two sets: its AUC against an independent oracle, and half where nothing tells them apart."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.stats import mannwhitneyu

from serving.two_sample import auc, cross_fitted_auc


def two_sets(shift: float, num: int = 300, seed: int = 0) -> tuple[csr_matrix, np.ndarray]:
    draw = np.random.default_rng(seed)
    is_live = np.repeat([False, True], num)
    rows = draw.normal(size=(2 * num, 8)) / 3
    rows[is_live, 0] += shift
    return csr_matrix(rows), is_live


def test_the_area_is_the_mann_whitney_statistic():
    draw = np.random.default_rng(0)
    live, reference = draw.integers(0, 9, 60).astype(float), draw.integers(0, 7, 80).astype(float)
    expected = mannwhitneyu(live, reference).statistic / (60 * 80)
    assert auc(live, reference).value == pytest.approx(expected, abs=1e-12)


def test_delongs_variance_is_what_samples_show():
    draw = np.random.default_rng(0)
    areas = [auc(draw.normal(0.5, 1, 80), draw.normal(0, 1, 120)) for _ in range(400)]
    # 400 samples give the variance itself to 7 % (one standard error); three of them allowed.
    assert np.var([one.value for one in areas]) == pytest.approx(np.mean([one.variance for one in areas]), rel=0.21)


def test_alike_sets_are_half_and_shifted_ones_are_not():
    alike = [cross_fitted_auc(*two_sets(0.0, seed=seed)) for seed in range(40)]
    assert np.mean([one.value for one in alike]) == pytest.approx(0.5, abs=0.02)
    # Of 40 intervals at 95 % more than six miss with p = 0.003.
    assert sum(one.low <= 0.5 <= one.high for one in alike) >= 34
    assert cross_fitted_auc(*two_sets(0.5)).low > 0.7


def test_the_same_rows_give_the_same_area():
    assert cross_fitted_auc(*two_sets(0.2)) == cross_fitted_auc(*two_sets(0.2))
