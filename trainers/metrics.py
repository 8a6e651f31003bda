"""The metrics a run can be scored by: their names, meaning and inputs (which ones a task gets: trainers/metric_choice).

`METRICS` is the single table behind scoring (trainers/scoring.py), the `evaluate` modules
(trainers/evaluate_modules.py), gate rules (trainers/gate.py) and docs/metrics.md. Each entry turns `Predictions` into
a function of row weights (trainers/bootstrap.py), so that the score and its interval cannot disagree.

A metric that is undefined on the rows at hand (AUC with one class, loss without target tokens, a NaN) is left out of
the results, never reported as a number. Left out: metrics that need a model or a download (BERTScore, a judge).

Legend: N rows, C labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from trainers import label_metrics, text_metrics
from trainers.bootstrap import Floats, Weighted, from_sums

Task = Literal["classification", "generation", "text"]
Needs = Literal["texts", "labels", "label_scores", "nll", "values"]
Item = TypeVar("Item")

AUC_MAX_LABELS = 20


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model said about N held-out rows, and what was right.

    ``texts`` and ``references`` (one or more per row) are the generated and the expected answers, both empty for plain
    text. ``labels`` are the gold labels of a classification and ``label_names`` all labels known from training.
    ``label_scores`` (N, C) are probabilities over ``label_names``, rows summing to one. ``nll`` (N,) is each row's
    negative log-likelihood in nats, summed over its ``target_tokens`` (N,). ``values`` (N, 4) counts the values that
    an answer had to hold and lacks, had to hold, holds without a right to, and holds.
    """

    texts: list[str]
    references: list[tuple[str, ...]]
    labels: list[str] | None = None
    label_names: list[str] | None = None
    label_scores: Floats | None = None
    nll: Floats | None = None
    target_tokens: NDArray[np.integer] | None = None
    values: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        assert len(self._lengths()) <= 1, f"columns of different lengths: {sorted(self._lengths())}"
        assert len(self.texts) == len(self.references), "every text needs its references"
        assert all(self.references), "a row without a reference"
        assert (self.nll is None) == (self.target_tokens is None), "nll needs target_tokens, and the other way round"

    @property
    def num_examples(self) -> int:
        """N, the number of rows."""
        return max(self._lengths(), default=0)

    def at(self, places: NDArray[np.integer]) -> Predictions:
        """Return the rows at these places, in their order; the label names stay."""
        chosen = places.tolist()

        def listed(column: list[Item]) -> list[Item]:
            return [column[place] for place in chosen] if column else []

        return Predictions(
            texts=listed(self.texts),
            references=listed(self.references),
            labels=None if self.labels is None else listed(self.labels),
            label_names=self.label_names,
            label_scores=None if self.label_scores is None else self.label_scores[places],
            nll=None if self.nll is None else self.nll[places],
            target_tokens=None if self.target_tokens is None else self.target_tokens[places],
            values=None if self.values is None else self.values[places],
        )

    def _lengths(self) -> set[int]:
        likelihoods = (self.label_scores, self.nll, self.target_tokens)
        columns = (self.texts, self.references, self.labels, *likelihoods, self.values)
        return {len(column) for column in columns if column is not None and len(column) > 0}

    def class_names(self) -> list[str]:
        """Return the names of all classes: the label names, then the gold labels that are none of them, sorted."""
        names = list(self.label_names or ())
        matched = label_metrics.classes_of(self.labels or (), names)
        gold = zip(self.labels or (), matched, strict=True)
        return names + sorted({label for label, index in gold if index == label_metrics.NO_LABEL})

    def classes(self) -> tuple[label_metrics.Classes, label_metrics.Classes] | None:
        """Return predicted and gold class indices into ``class_names``, both (N,); None without labels or texts."""
        if self.labels is None or not self.texts:
            return None
        names = self.class_names()
        return label_metrics.classes_of(self.texts, names), label_metrics.classes_of(self.labels, names)


@dataclass(frozen=True)
class Metric:
    """One metric: what it means, which tasks get it unasked, and how it follows from predictions.

    ``weigh`` returns None when the predictions lack what the metric needs.
    """

    name: str
    meaning: str
    needs: Needs
    tasks: frozenset[Task]
    weigh: Callable[[Predictions], Weighted | None]
    higher_is_better: bool = True

    @property
    def is_share(self) -> bool:
        """Whether the value lies in 0..1, as all do but loss and perplexity."""
        return self.needs != "nll"


def _of_labels(
    metric: Callable[[label_metrics.Classes, label_metrics.Classes], Weighted],
) -> Callable[[Predictions], Weighted | None]:
    def weigh(predictions: Predictions) -> Weighted | None:
        classes = predictions.classes()
        return None if classes is None else metric(*classes)

    return weigh


def _of_texts(
    metric: Callable[[Sequence[str], text_metrics.References], Weighted],
) -> Callable[[Predictions], Weighted | None]:
    def weigh(predictions: Predictions) -> Weighted | None:
        return metric(predictions.texts, predictions.references) if predictions.texts else None

    return weigh


def _auc_roc(predictions: Predictions) -> Weighted | None:
    if predictions.label_scores is None or predictions.label_names is None or predictions.labels is None:
        return None
    if not np.isfinite(predictions.label_scores).all():
        return None
    gold = label_metrics.classes_of(predictions.labels, predictions.label_names)
    return label_metrics.auc_roc(predictions.label_scores, gold)


def _of_values(value: Callable[[Floats], Floats]) -> Callable[[Predictions], Weighted | None]:
    def weigh(predictions: Predictions) -> Weighted | None:
        if predictions.values is None:
            return None
        missing, required, added, stated = predictions.values.astype(np.float64).T
        faithful = (missing + added == 0).astype(np.float64)
        return from_sums(np.column_stack([missing, required, added, stated, faithful, np.ones(len(faithful))]), value)

    return weigh


def _of_nll(value: Callable[[Floats], Floats]) -> Callable[[Predictions], Weighted | None]:
    def weigh(predictions: Predictions) -> Weighted | None:
        if predictions.nll is None or predictions.target_tokens is None:
            return None
        return from_sums(np.column_stack([predictions.nll, predictions.target_tokens]).astype(np.float64), value)

    return weigh


_LABELS: frozenset[Task] = frozenset({"classification"})
_ANSWERS: frozenset[Task] = frozenset({"generation"})
_ALL: frozenset[Task] = frozenset({"classification", "generation", "text"})

_TABLE = (
    Metric(
        "accuracy",
        "share of rows whose generated label is right",
        "labels",
        _LABELS,
        _of_labels(label_metrics.accuracy),
    ),
    Metric(
        "macro_f1",
        "mean over the labels that occur in gold of their F1",
        "labels",
        _LABELS,
        _of_labels(label_metrics.macro_f1),
    ),
    Metric("micro_f1", "F1 of all labels' counts together", "labels", _LABELS, _of_labels(label_metrics.micro_f1)),
    Metric(
        "auc_roc",
        "mean over labels of the one-vs-rest area under the ROC curve, from label probabilities",
        "label_scores",
        _LABELS,
        _auc_roc,
    ),
    Metric(
        "rouge_1",
        "ROUGE-1 F-measure against the best reference, mean over rows (rouge_score, no stemming)",
        "texts",
        _ANSWERS,
        _of_texts(lambda texts, references: text_metrics.rouge(texts, references, "rouge1")),
    ),
    Metric(
        "rouge_2",
        "ROUGE-2 F-measure, likewise",
        "texts",
        _ANSWERS,
        _of_texts(lambda texts, references: text_metrics.rouge(texts, references, "rouge2")),
    ),
    Metric(
        "rouge_l",
        "ROUGE-L F-measure, likewise",
        "texts",
        _ANSWERS,
        _of_texts(lambda texts, references: text_metrics.rouge(texts, references, "rougeL")),
    ),
    Metric(
        "bleu",
        "corpus BLEU / 100 over all references (sacrebleu, 13a)",
        "texts",
        _ANSWERS,
        _of_texts(text_metrics.bleu),
    ),
    Metric("chrf", "corpus chrF2 / 100, best reference (sacrebleu)", "texts", _ANSWERS, _of_texts(text_metrics.chrf)),
    Metric(
        "exact_match",
        "share of rows whose text equals a reference but for surrounding white space",
        "texts",
        _ANSWERS,
        _of_texts(text_metrics.exact_match),
    ),
    Metric(
        "faithfulness",
        "share of answers that lack no required value and add none",
        "values",
        frozenset(),
        _of_values(lambda sums: sums[:, 4] / sums[:, 5]),
    ),
    Metric(
        "slots_missing",
        "share of the required values that answers lack",
        "values",
        frozenset(),
        _of_values(lambda sums: sums[:, 0] / sums[:, 1]),
        higher_is_better=False,
    ),
    Metric(
        "slots_added",
        "share of the values in answers that they have no right to",
        "values",
        frozenset(),
        _of_values(lambda sums: np.where(sums[:, 3] > 0, sums[:, 2] / sums[:, 3], 0.0)),
        higher_is_better=False,
    ),
    Metric(
        "loss",
        "negative log-likelihood per target token, in nats",
        "nll",
        _ALL,
        _of_nll(lambda sums: sums[:, 0] / sums[:, 1]),
        higher_is_better=False,
    ),
    Metric(
        "perplexity",
        "exp(loss)",
        "nll",
        _ALL,
        _of_nll(lambda sums: np.exp(sums[:, 0] / sums[:, 1])),
        higher_is_better=False,
    ),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in _TABLE}
OF_VALUES = tuple(name for name, metric in METRICS.items() if metric.needs == "values")
"""Metrics that a job with evaluate.faithfulness gets unasked."""
ALWAYS = ("loss", "perplexity")
