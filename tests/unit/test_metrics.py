"""The metrics against the libraries everybody compares with, and the rules for what those libraries leave open."""

from __future__ import annotations

import math
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import JobFileError
from trainers.bootstrap import resampled_weights, value_of
from trainers.label_metrics import NO_LABEL, auc_roc, classes_of, macro_f1, micro_f1
from trainers.metrics import METRICS, Predictions, choose_metrics
from trainers.metrics_page import metrics_page
from trainers.scoring import intervals, paired_difference, score
from trainers.text_metrics import bleu, chrf, rouge

ROOT = Path(__file__).parents[2]
ENGINES = "{'sklearn', 'evaluate', 'torch', 'sacrebleu', 'rouge_score'}"
LABELS = ["asyncio", "email", "json", "Logging", "unit test"]
WORDS = ["the", "a", "red", "pub", "near", "river", "serves", "cheap", "food", "is", "family", "friendly", "5", "stars"]


def sentences(seed: int, count: int) -> tuple[list[str], list[tuple[str, ...]]]:
    """Return random texts and one to four references each, some of them close to the text."""
    draw = random.Random(seed)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(4, 14))) + "." for _ in range(count)]
    references = [
        tuple(
            " ".join(word if draw.random() < 0.7 else draw.choice(WORDS) for word in text.split())
            for _ in range(draw.randint(1, 4))
        )
        for text in texts
    ]
    return texts, references


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
    from sklearn.metrics import accuracy_score, f1_score

    predictions = classified(seed, 200, num_labels)
    gold, guessed = sklearn_labels(predictions)
    names = list(predictions.label_names or ())
    found = score(predictions, ["accuracy", "macro_f1", "micro_f1"])
    assert found["accuracy"] == pytest.approx(accuracy_score(gold, guessed), abs=1e-12)
    macro = f1_score(gold, guessed, labels=sorted(set(gold)), average="macro", zero_division=0)
    assert found["macro_f1"] == pytest.approx(macro, abs=1e-12)
    micro = f1_score(gold, guessed, labels=names, average="micro", zero_division=0)
    assert found["micro_f1"] == pytest.approx(micro, abs=1e-12)


def test_label_metrics_of_a_resample_equal_sklearn_on_the_repeated_rows() -> None:
    from sklearn.metrics import f1_score

    predicted = np.array([0, 1, 2, NO_LABEL, 1, 0, 3, 3])
    gold = np.array([0, 1, 1, 2, 0, 0, 3, 1])
    for weights_RN in resampled_weights(len(gold), seed=5, resamples=40):
        macro_R, micro_R = macro_f1(predicted, gold)(weights_RN), micro_f1(predicted, gold)(weights_RN)
        for row, macro, micro in zip(weights_RN.astype(int), macro_R, micro_R, strict=True):
            y, p = np.repeat(gold, row), np.repeat(predicted, row)
            expected = f1_score(y, p, labels=np.unique(y), average="macro", zero_division=0)
            assert macro == pytest.approx(expected, abs=1e-12)
            expected = f1_score(y, p, labels=[0, 1, 2, 3], average="micro", zero_division=0)
            assert micro == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_auc_equals_sklearn_with_ties_and_weights(seed: int) -> None:
    from sklearn.metrics import roc_auc_score

    predictions = classified(seed, 150)
    assert predictions.label_scores is not None
    scores = predictions.label_scores
    gold = classes_of(predictions.labels or (), LABELS)
    expected = roc_auc_score(gold, scores, multi_class="ovr", average="macro")
    assert score(predictions, ["auc_roc"])["auc_roc"] == pytest.approx(expected, abs=1e-12)
    weights = next(resampled_weights(150, seed, 1))
    expected = np.mean([roc_auc_score(gold == c, scores[:, c], sample_weight=weights[0]) for c in range(5)])
    assert auc_roc(scores, gold)(weights)[0] == pytest.approx(expected, abs=1e-12)


def test_auc_of_two_labels_equals_sklearns_binary_form() -> None:
    from sklearn.metrics import roc_auc_score

    predictions = classified(0, 100, num_labels=2)
    assert predictions.label_scores is not None
    gold = classes_of(predictions.labels or (), LABELS[:2])
    expected = roc_auc_score(gold, predictions.label_scores[:, 1])
    assert score(predictions, ["auc_roc"])["auc_roc"] == pytest.approx(expected, abs=1e-12)


def test_auc_averages_over_the_labels_that_occur() -> None:
    from sklearn.metrics import roc_auc_score

    scores = np.random.default_rng(0).dirichlet(np.ones(3), size=40)
    gold = np.arange(40) % 2
    expected = np.mean([roc_auc_score(gold == c, scores[:, c]) for c in range(2)])
    assert value_of(auc_roc(scores, gold), 40) == pytest.approx(expected, abs=1e-12)


def test_auc_bootstrap_of_a_thousand_rows_and_twenty_labels_takes_seconds() -> None:
    scores = np.random.default_rng(0).dirichlet(np.ones(20), size=1000)
    gold = np.arange(1000) % 20
    predictions = Predictions([], [], [f"l{c}" for c in gold], [f"l{c}" for c in range(20)], scores)
    began = time.monotonic()
    found = intervals(predictions, ["auc_roc"], seed=0, resamples=1000)
    assert found["auc_roc"].low < found["auc_roc"].value < found["auc_roc"].high
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(("name", "kind"), [("rouge_1", "rouge1"), ("rouge_2", "rouge2"), ("rouge_l", "rougeL")])
def test_rouge_equals_rouge_score_with_the_best_reference(name: str, kind: str) -> None:
    from rouge_score.rouge_scorer import RougeScorer

    texts, references = sentences(1, 40)
    scorer = RougeScorer([kind])
    best = [
        max(scorer.score(reference, text)[kind].fmeasure for reference in known)
        for text, known in zip(texts, references, strict=True)
    ]
    assert score(Predictions(texts, references), [name])[name] == pytest.approx(np.mean(best), abs=1e-12)


def test_rouge_reads_every_alphabet() -> None:
    texts, references = ["красный паб у реки"], [("красный паб далеко",)]
    weighted = rouge(texts, references, "rouge1")
    # 2 of 4 predicted and 2 of 3 reference words match: F = 2·½·⅔ / (½ + ⅔).
    assert value_of(weighted, 1) == pytest.approx(4 / 7)


def test_bleu_and_chrf_equal_sacrebleu_with_any_number_of_references() -> None:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    texts, references = sentences(2, 40)
    width = max(map(len, references))
    transposed = [[known[i] if i < len(known) else None for known in references] for i in range(width)]
    found = score(Predictions(texts, references), ["bleu", "chrf"])
    assert found["bleu"] == pytest.approx(BLEU().corpus_score(texts, transposed).score / 100, abs=1e-12)
    assert found["chrf"] == pytest.approx(CHRF().corpus_score(texts, transposed).score / 100, abs=1e-12)


def test_bleu_and_chrf_of_a_resample_equal_sacrebleu_on_the_repeated_rows() -> None:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    texts, references = sentences(3, 12)
    first = [known[:1] for known in references]
    weights_RN = next(resampled_weights(12, seed=1, resamples=10))
    for metric, oracle in ((bleu(texts, first), BLEU()), (chrf(texts, first), CHRF())):
        for value, row in zip(metric(weights_RN), weights_RN.astype(int), strict=True):
            repeated = [text for text, times in zip(texts, row, strict=True) for _ in range(times)]
            known = [reference for (reference,), times in zip(first, row, strict=True) for _ in range(times)]
            assert value == pytest.approx(oracle.corpus_score(repeated, [known]).score / 100, abs=1e-12)


def test_loss_and_perplexity_weigh_tokens_not_rows() -> None:
    predictions = Predictions([], [], nll=np.array([1.0, 9.0]), target_tokens=np.array([1, 4]))
    assert score(predictions, ["loss", "perplexity"]) == pytest.approx({"loss": 2.0, "perplexity": math.exp(2.0)})


def test_exact_match_accepts_any_reference_and_surrounding_space_only() -> None:
    predictions = Predictions([" yes\n", "Yes", "no"], [("no", "yes"), ("yes",), ("nope",)])
    assert score(predictions, ["exact_match"])["exact_match"] == pytest.approx(1 / 3)


def test_evaluate_modules_and_weighted_statistics_agree() -> None:
    labelled = classified(7, 60)
    texts, references = sentences(7, 60)
    worded = Predictions(texts, references)
    for predictions in (labelled, worded):
        scores = score(predictions, list(METRICS))
        found = intervals(predictions, list(METRICS), seed=0, resamples=20)
        assert {name: interval.value for name, interval in found.items()} == scores
    assert set(score(labelled, list(METRICS))) | set(score(worded, list(METRICS))) == set(METRICS)


def test_evaluate_modules_work_by_themselves(tmp_path: Path) -> None:
    import evaluate

    from trainers.evaluate_modules import MODULES, LabelMetric, LabelScoreMetric, TextMetric

    folder = str(tmp_path)
    for name, metric in METRICS.items():
        module = MODULES[metric.needs](name, cache_dir=folder)
        assert isinstance(module, evaluate.Metric)
        assert module.description == metric.meaning
    found = TextMetric("rouge_l", cache_dir=folder).compute(predictions=["a red pub"], references=[["a", "a red pub"]])
    assert found == {"rouge_l": 1.0}
    both = evaluate.combine([LabelMetric("accuracy", cache_dir=folder), LabelMetric("macro_f1", cache_dir=folder)])
    assert both.compute(predictions=["a", "b"], references=["a", "a"]) == pytest.approx(
        {"accuracy": 0.5, "macro_f1": 2 / 3}
    )
    undefined = LabelScoreMetric("auc_roc", cache_dir=folder).compute(
        predictions=[[1.0]], references=["a"], label_names=["a"]
    )
    assert undefined == {}


def test_scoring_needs_no_network_and_no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import evaluate.config

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("scoring opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "cache"))
    assert score(classified(1, 20), list(METRICS))
    assert not (tmp_path / "cache").exists()


def test_undefined_metrics_are_left_out() -> None:
    one_label = Predictions(["a", "b"], [("a",), ("a",)], ["a", "a"], ["a", "b"], np.array([[0.9, 0.1], [0.4, 0.6]]))
    assert set(score(one_label, ["accuracy", "auc_roc"])) == {"accuracy"}
    assert set(intervals(one_label, ["accuracy", "auc_roc"], seed=0)) == {"accuracy"}
    broken = Predictions([], [], nll=np.array([np.nan, 1.0]), target_tokens=np.array([1, 1]))
    assert score(broken, ["loss", "perplexity"]) == intervals(broken, ["loss", "perplexity"], seed=0) == {}
    empty = Predictions([], [], nll=np.array([0.0]), target_tokens=np.array([0]))
    assert score(empty, ["loss", "perplexity"]) == {}
    huge = Predictions([], [], nll=np.array([1e4]), target_tokens=np.array([1]))
    assert set(score(huge, ["loss", "perplexity"])) == {"loss"}
    nothing = Predictions([], [], [], [], np.zeros((0, 0)), np.zeros(0), np.zeros(0, dtype=np.int64))
    assert score(nothing, list(METRICS)) == intervals(nothing, list(METRICS), seed=0) == {}
    nan_scores = Predictions(["a", "b"], [("a",), ("b",)], ["a", "b"], ["a", "b"], np.full((2, 2), np.nan))
    assert score(nan_scores, ["auc_roc"]) == {}


def test_one_row_has_a_score_and_no_interval() -> None:
    predictions = Predictions(["a"], [("a",)])
    assert score(predictions, ["rouge_l"]) == {"rouge_l": 1.0}
    assert intervals(predictions, ["rouge_l"], seed=0) == {}


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


def test_paired_difference_is_a_minus_b() -> None:
    good, bad = classified(1, 80, junk=0.0), classified(1, 80, junk=1.0)
    names = ["accuracy", "macro_f1", "loss"]
    found = paired_difference(good, bad, names, seed=0, resamples=200)
    expected = {name: score(good, names)[name] - score(bad, names)[name] for name in names}
    assert {name: interval.value for name, interval in found.items()} == pytest.approx(expected)
    assert found["accuracy"].low > 0


def test_paired_difference_of_other_rows_is_refused() -> None:
    with pytest.raises(AssertionError, match="same rows"):
        paired_difference(Predictions(["a"], [("a",)]), Predictions(["a"], [("b",)]), ["rouge_l"], seed=0)


def test_auto_chooses_by_the_task() -> None:
    likelihood = ["loss", "perplexity"]
    assert choose_metrics("text", "auto") == likelihood
    assert choose_metrics("classification", "auto", 20) == ["accuracy", "macro_f1", "micro_f1", "auc_roc", *likelihood]
    assert "auc_roc" not in choose_metrics("classification", "auto", 21)
    answers = ["rouge_1", "rouge_2", "rouge_l", "bleu", "chrf", "exact_match"]
    assert choose_metrics("generation", "auto") == [*answers, *likelihood]


def test_a_list_of_metrics_keeps_its_order_and_gains_loss_and_perplexity() -> None:
    assert choose_metrics("generation", ["chrf", "loss", "chrf"]) == ["chrf", "loss", "perplexity"]
    assert "auc_roc" in choose_metrics("classification", ["auc_roc"], 500)


def test_unknown_and_unfit_metrics_are_refused_with_a_remedy() -> None:
    with pytest.raises(JobFileError, match="did you mean 'rouge_l'"):
        choose_metrics("generation", ["rougel"])
    with pytest.raises(JobFileError, match="needs labels"):
        choose_metrics("generation", ["accuracy"])
    with pytest.raises(JobFileError, match="plain text"):
        choose_metrics("text", ["bleu"])


def test_predictions_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(AssertionError, match="different lengths"):
        Predictions(["a", "b"], [("a",), ("b",)], labels=["a"])
    with pytest.raises(AssertionError, match="needs its references"):
        Predictions(["a"], [])
    with pytest.raises(AssertionError, match="without a reference"):
        Predictions(["a"], [()])
    likelihoods = Predictions(["a"], [("a",)], ["a"], ["a", "b"], np.array([[-0.1, -3.0]]))
    with pytest.raises(AssertionError, match="probabilities"):
        score(likelihoods, ["auc_roc"])


def test_naming_metrics_and_rules_imports_no_engine() -> None:
    code = f"import sys, trainers.gate, trainers.scoring; print(sorted({ENGINES} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"


def test_the_metrics_page_is_fresh() -> None:
    page = ROOT / "docs" / "metrics.md"
    assert page.read_text(encoding="utf-8") == metrics_page(), "rewrite docs/metrics.md with metrics_page()"
