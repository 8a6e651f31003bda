"""The metric table: text metrics against their libraries, `evaluate` modules against statistics, choice by task."""

from __future__ import annotations

import math
import random
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from cluster.errors import JobFileError
from trainers.bootstrap import resampled_weights, value_of
from trainers.metric_choice import choose_metrics
from trainers.metrics import METRICS, Predictions
from trainers.metrics_page import metrics_page
from trainers.scoring import intervals, paired_difference, score
from trainers.text_metrics import bleu, chrf, rouge

ROOT = Path(__file__).parents[2]
ENGINES = "{'sklearn', 'evaluate', 'torch', 'sacrebleu', 'rouge_score'}"
WORDS = ["the", "The", "pub", "near", "river", "serves", "cheap", "food", "is", "family", "friendly", "5", "stars"]
SACREBLEU: dict[str, Any] = {"bleu": BLEU(), "chrf": CHRF()}


def labelled(texts: str, gold: str = "abcabcab") -> Predictions:
    """Return single-letter labels with probabilities and likelihoods that follow from the gold labels alone."""
    scores = np.full((len(gold), 3), 0.2) + 0.4 * np.eye(3)[["abc".index(letter) for letter in gold]]
    scores[0] = [0.1, 0.1, 0.8]
    tokens = np.arange(1, len(gold) + 1)
    return Predictions(
        list(texts), [(letter,) for letter in gold], list(gold), list("abc"), scores, tokens / (1 + tokens), tokens
    )


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
    texts, references = sentences(2, 40)
    width = max(map(len, references))
    transposed = [[known[i] if i < len(known) else None for known in references] for i in range(width)]
    found = score(Predictions(texts, references), ["bleu", "chrf"])
    assert found["bleu"] == pytest.approx(SACREBLEU["bleu"].corpus_score(texts, transposed).score / 100, abs=1e-12)
    assert found["chrf"] == pytest.approx(SACREBLEU["chrf"].corpus_score(texts, transposed).score / 100, abs=1e-12)


def test_bleu_and_chrf_of_a_resample_equal_sacrebleu_on_the_repeated_rows() -> None:
    texts, references = sentences(3, 12)
    first = [known[:1] for known in references]
    weights_RN = next(resampled_weights(12, seed=1, resamples=10))
    for metric, oracle in ((bleu(texts, first), SACREBLEU["bleu"]), (chrf(texts, first), SACREBLEU["chrf"])):
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
    classified, worded = labelled("abcxbbaa"), Predictions(*sentences(7, 60))
    stating = Predictions([], [], values=np.array([[0, 3, 0, 3], [1, 3, 1, 3], [0, 2, 2, 4]]))
    for predictions in (classified, worded, stating):
        scores = score(predictions, list(METRICS))
        found = intervals(predictions, list(METRICS), seed=0, resamples=20)
        assert {name: interval.value for name, interval in found.items()} == scores
    every = [score(predictions, list(METRICS)) for predictions in (classified, worded, stating)]
    assert {name for found in every for name in found} == set(METRICS)
    assert every[2] == {"faithfulness": 1 / 3, "slots_missing": 1 / 8, "slots_added": 3 / 10}


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
    assert score(labelled("abcxbbaa"), list(METRICS))
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


def test_paired_difference_is_a_minus_b() -> None:
    good, bad = labelled("abcabcax"), labelled("xxxxxxxb")
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
