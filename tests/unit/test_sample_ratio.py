"""The sample-ratio check: exact expectation, the published Bayes factor, and faults it must see."""

from __future__ import annotations

from itertools import product
from math import exp, lgamma, log

import numpy as np
import pytest

from serving.sample_ratio import CONCENTRATION, Ratio, ratio_after, ratio_of
from serving.units import Units

NOBODY = Ratio((0.0, 0.0), (0.0, 0.0))


def test_without_a_mismatch_the_evidence_has_expectation_one_whatever_the_weights_do() -> None:
    total = 0.0
    for course in product(range(3), repeat=5):
        shares, chance = [], 1.0
        for place, arm in enumerate(course):
            # The weights react to what has been seen.
            raw = np.array([1.0, 1.0 + course[:place].count(1), 0.2 + course[:place].count(0)])
            share = raw / raw.sum()
            shares.append(share)
            chance *= share[arm]
        found = ratio_after(Ratio((0.0,) * 3, (0.0,) * 3), np.array(course), np.array(shares))
        total += chance * exp(found.log_evidence)
    assert total == pytest.approx(1, abs=1e-12)


def test_with_unchanged_weights_it_is_the_dirichlet_multinomial_bayes_factor() -> None:
    share = np.array([0.2, 0.3, 0.5])
    arm_N = np.random.default_rng(0).choice(3, size=700, p=[0.3, 0.3, 0.4])
    counts = np.bincount(arm_N)
    prior = CONCENTRATION * share
    factor = lgamma(prior.sum()) - lgamma(prior.sum() + 700)
    factor += sum(lgamma(a + n) - lgamma(a) - n * log(q) for a, n, q in zip(prior, counts, share, strict=True))
    found = ratio_after(Ratio((0.0,) * 3, (0.0,) * 3), arm_N, np.tile(share, (700, 1)))
    assert found.log_evidence == pytest.approx(factor, abs=1e-9)
    assert found.peak >= found.log_evidence
    assert found.observed == tuple(counts)


def test_stretches_give_what_the_whole_gives() -> None:
    generator = np.random.default_rng(1)
    share_N = np.repeat([0.1, 0.5], 300)
    probability_NA = np.stack([1 - share_N, share_N], axis=1)
    arm_N = (generator.random(600) < 0.9 * share_N).astype(np.intp)
    whole = ratio_after(NOBODY, arm_N, probability_NA)
    parts = NOBODY
    for start, end in ((0, 10), (10, 10), (10, 450), (450, 600)):
        parts = ratio_after(parts, arm_N[start:end], probability_NA[start:end])
    assert (parts.log_evidence, parts.peak) == pytest.approx((whole.log_evidence, whole.peak), abs=1e-10)
    assert parts.observed == whole.observed


def test_an_arm_that_loses_units_is_seen_across_a_ramp_and_stays_seen() -> None:
    generator = np.random.default_rng(2)
    share_N = np.repeat([0.1, 0.5], 6000)
    lost_N = generator.random(12_000) < 0.2 * (np.arange(12_000) < 9000)
    arm_N = (generator.random(12_000) < share_N).astype(np.intp)
    kept_N = ~(lost_N & (arm_N == 1))
    probability_NA = np.stack([1 - share_N, share_N], axis=1)
    found = ratio_after(NOBODY, arm_N[kept_N], probability_NA[kept_N])
    assert not found.is_fine(0.005)
    fair = ratio_after(NOBODY, arm_N, probability_NA)
    assert fair.is_fine(0.005)
    # Many well-dealt units later the evidence of the moment is smaller; what decides is its peak.
    later = ratio_after(found, np.tile([0, 1], 10_000), np.full((20_000, 2), 0.5))
    assert later.log_evidence < later.peak
    assert not later.is_fine(0.005)


def test_an_arm_of_probability_zero_changes_nothing() -> None:
    arm_N = np.array([0, 1, 1, 0, 1], dtype=np.intp)
    two = ratio_after(NOBODY, arm_N, np.full((5, 2), 0.5))
    three = ratio_after(Ratio((0.0,) * 3, (0.0,) * 3), arm_N, np.tile([0.5, 0.5, 0.0], (5, 1)))
    assert three.log_evidence == pytest.approx(two.log_evidence, abs=1e-12)


def test_units_that_wait_are_in_the_check_of_all_but_not_of_those_that_count() -> None:
    units = Units(("a", "b"), np.array([0, 1, 1]), np.full((3, 2), 0.5), np.array([1.0, np.nan, 0.0]), 2)
    assert ratio_of(units).observed == (1, 2)
    assert ratio_of(units, counted_only=True).observed == (1, 0)
    assert ratio_of(Units(("a", "b"), np.zeros(0, dtype=np.intp), np.zeros((0, 2)), np.zeros(0), 0)) == NOBODY
