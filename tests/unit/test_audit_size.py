"""Amounts: outliers, truncation, variety, synthetic rows, and sets too small to learn from or judge by."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.audited_rows import audited, chat, clean_chats, clean_labels, labelled
from trainers.audit_evidence import TokenCounts
from trainers.audit_size import (
    diversity_evidence,
    length_evidence,
    small_evidence,
    synthetic_evidence,
    truncation_evidence,
)


def counts(lengths: list[int], targets: list[int], max_length: int) -> TokenCounts:
    """Token counts of rows whose targets stand at their end."""
    length, target = np.array(lengths), np.array(targets)
    return TokenCounts(length, target, np.clip(max_length - (length - target), 0, target), max_length)


def test_a_row_many_times_longer_than_the_rest_is_an_outlier():
    rows = clean_chats(300)
    rows[42] = chat("why", "word " * 3000)
    (found,) = length_evidence(audited(rows), 3.0)
    assert found.rows.tolist() == [42]
    assert "15,003 characters" in found.detail


@pytest.mark.parametrize("sigma", [0.0, 0.2, 1.0])
def test_log_normal_lengths_have_no_outliers(sigma: float):
    lengths = np.exp(np.random.default_rng(0).normal(4, sigma, 5000)).astype(int) + 1
    rows = [chat("", "x" * int(length)) for length in lengths]
    data = audited(rows[:1], tokens=None)
    tokens = TokenCounts(lengths, lengths, lengths, 10**9)
    everything = type(data)(rows, np.zeros(5000, int), ["train"], data.hashes, data.near, tokens=tokens)
    # Above the quartile by three interquartile ranges lies 1 in 700,000 of a normal distribution.
    assert length_evidence(everything, 3.0) == []


def test_truncation_tells_rows_cut_from_rows_whose_answer_is_cut():
    rows = clean_chats(4)
    tokens = counts([50, 120, 120, 300], [10, 10, 30, 150], 100)
    cut, losing = truncation_evidence(audited(rows, tokens=tokens))
    assert (cut.code, cut.rows.tolist()) == ("truncated", [1, 2, 3])
    assert (losing.code, losing.rows.tolist(), losing.severity) == ("target_truncated", [1, 2, 3], "warning")
    # Kept of the targets: 0 of 10 (they begin at 110), 10 of 30, 0 of 150.
    assert "180 of 200 target tokens are cut; 2 rows keep none" in losing.detail


@pytest.mark.parametrize(
    ("readable", "advice"),
    [
        (None, "Raise train.max_length (up to 300), shorten"),
        (512, "Raise train.max_length (up to 300), shorten"),
        (256, "Raise train.max_length (up to 256, which is all that the base reads: 300 would be needed), shorten"),
        (100, "The base reads no more than 100 tokens: shorten"),
    ],
)
def test_no_length_is_advised_that_the_base_cannot_read(readable: int | None, advice: str):
    tokens = replace(counts([50, 300], [10, 150], 100), readable=readable)
    assert all(one.remedy.startswith(advice) for one in truncation_evidence(audited(clean_chats(2), tokens=tokens)))


def test_answers_cut_in_every_row_are_an_error():
    evidence = truncation_evidence(audited(clean_chats(2), tokens=counts([200, 200], [20, 20], 100)))
    assert [(one.code, one.severity) for one in evidence] == [("truncated", "warning"), ("target_truncated", "error")]


def test_rows_that_fit_and_rows_not_counted_give_nothing():
    assert truncation_evidence(audited(clean_chats(2), tokens=counts([50, 100], [10, 10], 100))) == []
    assert truncation_evidence(audited(clean_chats(2))) == []


def test_a_template_with_few_fillings_is_low_diversity():
    rows = [
        chat(f"q {place}", f"the answer to this question is of course number {place % 9}", place)
        for place in range(900)
    ]
    (found,) = diversity_evidence(audited(rows), 0.05, 20_000)
    # 900 rows of 8 trigrams; distinct are 7 of the template and 9 endings.
    assert "0.2% of the answers' word trigrams are distinct" in found.detail
    assert found.count == 900 - 9


def test_varied_answers_and_short_labels_are_diverse_enough():
    assert diversity_evidence(audited(clean_chats(500)), 0.05, 20_000) == []
    assert diversity_evidence(audited(clean_labels(500)), 0.05, 20_000) == []
    assert diversity_evidence(audited([chat(f"q {place}", "yes", place) for place in range(5000)]), 0.05, 20_000) == []


def test_copies_are_not_counted_again_as_low_diversity():
    assert diversity_evidence(audited(clean_chats(100) * 50), 0.05, 20_000) == []


def test_synthetic_rows_that_dominate_are_a_surplus():
    rows = [chat(f"q {place}", f"a {place}", place, synthetic=place >= 40) for place in range(100)]
    (found,) = synthetic_evidence(audited(rows), 0.5)
    assert found.rows.tolist() == list(range(80, 100))
    assert synthetic_evidence(audited(rows), 0.6) == []


def test_a_synthetic_row_in_a_test_is_a_warning():
    test = [chat("q", "a", 0, synthetic=True), chat("r", "b", 1)]
    (found,) = synthetic_evidence(audited({"train": clean_chats(100), "test": test}), 0.5)
    assert found.rows.tolist() == [100]
    assert "test" in found.detail


def test_small_says_why():
    (found,) = small_evidence(audited([labelled(f"t{place}", f"c{place % 4}", place) for place in range(80)]), 200)
    assert (found.code, found.severity, found.count) == ("small", "warning", 0)
    assert "80 training rows, 20 for each of 4 classes" in found.detail


def test_a_small_test_is_noted_with_the_interval_it_allows():
    (found,) = small_evidence(audited({"train": clean_chats(300), "test": clean_chats(25, seed=1)}), 200)
    # 1.96 * sqrt(0.25 / 25) = 0.196
    assert (found.severity, "±0.20" in found.detail) == ("note", True)
    assert small_evidence(audited({"train": clean_chats(300), "test": clean_chats(100, seed=1)}), 200) == []


def test_small_counts_only_rows_that_are_used():
    tokens = TokenCounts(np.full(300, 50), np.full(300, 5), np.where(np.arange(300) < 90, 5, 0), 40)
    (found,) = small_evidence(audited(clean_chats(300), tokens=tokens), 200)
    assert found.detail.startswith("90 training rows")
