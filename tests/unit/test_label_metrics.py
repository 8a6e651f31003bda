"""Label metrics against scikit-learn, and the rules for what it leaves open."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import sklearn.metrics

from trainers.bootstrap import resampled_weights, value_of
from trainers.label_metrics import NO_LABEL, auc_roc, classes_of, macro_f1, micro_f1
from trainers.metrics import Predictions
from trainers.scoring import intervals, score

LABELS = ["asyncio", "email", "json", "Logging", "unit test"]
SKLEARN: Any = sklearn.metrics


def classified(seed: int, count: int, num_labels: int = 5, junk: float = 0.1) -> Predictions:
    """Return predictions of labels, a share of which is no label at all, with likelihoods and label probabilities."""
    draw = np.random.default_rng(seed)
    names = LABELS[:num_labels]
    gold = draw.choice(num_labels, size=count, p=np.arange(num_labels, 0, -1) / sum(range(num_labels + 1)))
    guess = np.where(draw.random(count) < 0.6, gold, draw.integers(num_labels, size=count))
    texts = [f"  {names[index].upper()} " if draw.random() > junk else "no idea" for index in guess]
    scores = draw.dirichlet(np.ones(num_labels), size=count) + 0.3 * np.eye(num_labels)[gold]
    # Rounded, so that ties occur.
    scores = np.round(scores / scores.sum(axis=1, keepdims=True), 2)
    scores /= scores.sum(axis=1, keepdims=True)
    labels = [names[index] for index in gold]
    tokens = draw.integers(1, 9, size=count)
    nll = tokens * draw.exponential(size=count)
    return Predictions(texts, [(label,) for label in labels], labels, names, scores, nll, tokens)


def sklearn_labels(predictions: Predictions) -> tuple[list[str], list[str]]:
    """Return gold and predicted labels as scikit-learn wants them, "none" for a text that is no label."""
    known = {name.casefold(): name for name in LABELS}
    return list(predictions.labels or ()), [known.get(text.strip().casefold(), "none") for text in predictions.texts]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("num_labels", [2, 5])
def test_label_metrics_equal_sklearn(seed: int, num_labels: int) -> None:
    predictions = classified(seed, 200, num_labels)
    gold, guessed = sklearn_labels(predictions)
    names = list(predictions.label_names or ())
    found = score(predictions, ["accuracy", "macro_f1", "micro_f1"])
    assert found["accuracy"] == pytest.approx(SKLEARN.accuracy_score(gold, guessed), abs=1e-12)
    macro = SKLEARN.f1_score(gold, guessed, labels=sorted(set(gold)), average="macro", zero_division=0)
    assert found["macro_f1"] == pytest.approx(macro, abs=1e-12)
    micro = SKLEARN.f1_score(gold, guessed, labels=names, average="micro", zero_division=0)
    assert found["micro_f1"] == pytest.approx(micro, abs=1e-12)


def test_label_metrics_of_a_resample_equal_sklearn_on_the_repeated_rows() -> None:
    predicted = np.array([0, 1, 2, NO_LABEL, 1, 0, 3, 3])
    gold = np.array([0, 1, 1, 2, 0, 0, 3, 1])
    for weights_RN in resampled_weights(len(gold), seed=5, resamples=40):
        macro_R, micro_R = macro_f1(predicted, gold)(weights_RN), micro_f1(predicted, gold)(weights_RN)
        for row, macro, micro in zip(weights_RN.astype(int), macro_R, micro_R, strict=True):
            y, p = np.repeat(gold, row), np.repeat(predicted, row)
            expected = SKLEARN.f1_score(y, p, labels=np.unique(y), average="macro", zero_division=0)
            assert macro == pytest.approx(expected, abs=1e-12)
            expected = SKLEARN.f1_score(y, p, labels=[0, 1, 2, 3], average="micro", zero_division=0)
            assert micro == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_auc_equals_sklearn_with_ties_and_weights(seed: int) -> None:
    predictions = classified(seed, 150)
    assert predictions.label_scores is not None
    scores = predictions.label_scores
    gold = classes_of(predictions.labels or (), LABELS)
    expected = SKLEARN.roc_auc_score(gold, scores, multi_class="ovr", average="macro")
    assert score(predictions, ["auc_roc"])["auc_roc"] == pytest.approx(expected, abs=1e-12)
    weights = next(resampled_weights(150, seed, 1))
    expected = np.mean([SKLEARN.roc_auc_score(gold == c, scores[:, c], sample_weight=weights[0]) for c in range(5)])
    assert auc_roc(scores, gold)(weights)[0] == pytest.approx(expected, abs=1e-12)


def test_auc_of_two_labels_equals_sklearns_binary_form() -> None:
    predictions = classified(0, 100, num_labels=2)
    assert predictions.label_scores is not None
    gold = classes_of(predictions.labels or (), LABELS[:2])
    expected = SKLEARN.roc_auc_score(gold, predictions.label_scores[:, 1])
    assert score(predictions, ["auc_roc"])["auc_roc"] == pytest.approx(expected, abs=1e-12)


def test_auc_averages_over_the_labels_that_occur() -> None:
    scores = np.random.default_rng(0).dirichlet(np.ones(3), size=40)
    gold = np.arange(40) % 2
    expected = np.mean([SKLEARN.roc_auc_score(gold == c, scores[:, c]) for c in range(2)])
    assert value_of(auc_roc(scores, gold), 40) == pytest.approx(expected, abs=1e-12)


def test_auc_bootstrap_of_a_thousand_rows_and_twenty_labels_takes_seconds() -> None:
    scores = np.random.default_rng(0).dirichlet(np.ones(20), size=1000)
    gold = np.arange(1000) % 20
    predictions = Predictions([], [], [f"l{c}" for c in gold], [f"l{c}" for c in range(20)], scores)
    began = time.monotonic()
    found = intervals(predictions, ["auc_roc"], seed=0, resamples=1000)
    assert found["auc_roc"].low < found["auc_roc"].value < found["auc_roc"].high
    assert time.monotonic() - began < 5


def test_a_text_that_is_no_label_misses_gold_and_accuses_nobody() -> None:
    # a: tp 1, fp 0, fn 1 → F1 2/3; b: tp 1 → F1 1. Micro: tp 2, fp 0, fn 1 → 4/5.
    predictions = Predictions(["a", "what?", "b"], [("a",), ("a",), ("b",)], ["a", "a", "b"], ["a", "b"])
    found = score(predictions, ["accuracy", "macro_f1", "micro_f1"])
    assert found == pytest.approx({"accuracy": 2 / 3, "macro_f1": 5 / 6, "micro_f1": 4 / 5})


def test_labels_match_after_case_and_space_are_set_aside() -> None:
    assert classes_of([" UNIT  Test\n", "unit test", "unittest", ""], LABELS).tolist() == [4, 4, NO_LABEL, NO_LABEL]


def test_labels_that_differ_in_case_alone_must_be_exact() -> None:
    assert classes_of(["us", "US", "Us"], ["us", "US"]).tolist() == [0, 1, NO_LABEL]


def test_a_gold_label_outside_the_label_names_counts() -> None:
    predictions = Predictions(["new", "a"], [("new",), ("a",)], ["new", "a"], ["a", "b"])
    assert score(predictions, ["accuracy", "macro_f1"]) == {"accuracy": 1.0, "macro_f1": 1.0}
