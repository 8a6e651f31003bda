"""The metrics as `evaluate.Metric` modules that need no download.

`evaluate.load` fetches a script from the hub. These modules are instantiated directly with the metric's name, work
offline, and return ``{name: value}``, or an empty dict where the metric is undefined. They take what users of
`evaluate` expect (predictions, references) and leave the arithmetic to `METRICS`; there is one class for each kind of
input. Importing this module imports `evaluate`, which takes seconds.

    TextMetric("rouge_l").compute(predictions=["a red pub"], references=[["a red pub", "the pub is red"]])
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from trainers.bootstrap import value_of
from trainers.metrics import METRICS, Needs, Predictions

STRING = datasets.Value("string")
FLOAT = datasets.Value("float64")


class ShippedMetric(evaluate.Metric):
    """A metric of ours, named by ``config_name``, behind the interface of `evaluate`."""

    def described(self, inputs: str, **columns: Any) -> evaluate.MetricInfo:
        """Return the module's description: what the metric means, what it reads and of which type."""
        return evaluate.MetricInfo(
            description=METRICS[self.config_name].meaning,
            citation="",
            inputs_description=inputs,
            features=datasets.Features(columns),
        )

    def named_value(self, predictions: Predictions) -> dict[str, float]:
        """Return ``{name: value}``, empty where the metric is undefined on these predictions."""
        weighted = METRICS[self.config_name].weigh(predictions)
        value = None if weighted is None else value_of(weighted, predictions.num_examples)
        return {} if value is None else {self.config_name: value}


class TextMetric(ShippedMetric):
    """Generated texts against one or more references each."""

    def _info(self) -> evaluate.MetricInfo:
        inputs = "predictions: generated texts; references: a list of reference texts for each of them."
        return self.described(inputs, predictions=STRING, references=datasets.List(STRING))

    def _compute(self, *, predictions: Any = None, references: Any = None, **_: Any) -> dict[str, float]:
        return self.named_value(Predictions(predictions, [tuple(known) for known in references]))


class LabelMetric(ShippedMetric):
    """Generated labels against gold labels; ``label_names`` adds labels that gold lacks."""

    def _info(self) -> evaluate.MetricInfo:
        inputs = "predictions: generated labels; references: gold labels; label_names (optional): all labels there are."
        return self.described(inputs, predictions=STRING, references=STRING)

    def _compute(
        self, *, predictions: Any = None, references: Any = None, label_names: list[str] | None = None, **_: Any
    ) -> dict[str, float]:
        answers = [(label,) for label in references]
        return self.named_value(Predictions(predictions, answers, references, label_names))


class LabelScoreMetric(ShippedMetric):
    """Probabilities over ``label_names`` against gold labels."""

    def _info(self) -> evaluate.MetricInfo:
        inputs = "predictions: probabilities over label_names for each row; references: gold labels; label_names."
        return self.described(inputs, predictions=datasets.List(FLOAT), references=STRING)

    def _compute(
        self, *, predictions: Any = None, references: Any = None, label_names: list[str] | None = None, **_: Any
    ) -> dict[str, float]:
        scores = np.array(predictions, dtype=np.float64)
        return self.named_value(Predictions([], [], references, label_names, scores))


class LikelihoodMetric(ShippedMetric):
    """Summed negative log-likelihoods and their numbers of target tokens."""

    def _info(self) -> evaluate.MetricInfo:
        inputs = "predictions: negative log-likelihood of each row in nats, summed; references: its target tokens."
        return self.described(inputs, predictions=FLOAT, references=datasets.Value("int64"))

    def _compute(self, *, predictions: Any = None, references: Any = None, **_: Any) -> dict[str, float]:
        nll = np.array(predictions, dtype=np.float64)
        return self.named_value(Predictions([], [], nll=nll, target_tokens=np.array(references, dtype=np.int64)))


class ValueMetric(ShippedMetric):
    """Counts of the values that answers lack and add."""

    def _info(self) -> evaluate.MetricInfo:
        inputs = "predictions: values lacking, required, added and stated, for each row; references: 0 for each row."
        counts = datasets.List(datasets.Value("int64"))
        return self.described(inputs, predictions=counts, references=datasets.Value("int64"))

    def _compute(self, *, predictions: Any = None, **_: Any) -> dict[str, float]:
        return self.named_value(Predictions([], [], values=np.array(predictions, dtype=np.int64)))


MODULES: dict[Needs, type[ShippedMetric]] = {
    "texts": TextMetric,
    "labels": LabelMetric,
    "label_scores": LabelScoreMetric,
    "nll": LikelihoodMetric,
    "values": ValueMetric,
}


def compute_all(predictions: Predictions, names: Sequence[str]) -> dict[str, float]:
    """Return every named metric that these predictions have the columns for and that is defined on them."""
    values: dict[str, float] = {}
    # evaluate makes a cache folder even for what it keeps in memory; a worker's home may be read-only.
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            needs = METRICS[name].needs
            arguments = _arguments(needs, predictions)
            if arguments is not None:
                module: Any = MODULES[needs](name, keep_in_memory=True, cache_dir=folder)
                values.update(module.compute(**arguments))
    return values


def _arguments(needs: Needs, given: Predictions) -> dict[str, Any] | None:
    """Return the arguments of `compute`, None where the predictions lack a column or hold no rows."""
    if needs == "texts" and given.texts:
        return {"predictions": given.texts, "references": [list(known) for known in given.references]}
    if needs == "labels" and given.texts and given.labels:
        return {"predictions": given.texts, "references": given.labels, "label_names": given.label_names}
    if needs == "label_scores" and given.labels and given.label_names and given.label_scores is not None:
        scores = given.label_scores.tolist()
        return {"predictions": scores, "references": given.labels, "label_names": given.label_names}
    if needs == "nll" and given.nll is not None and given.target_tokens is not None and len(given.nll) > 0:
        return {"predictions": given.nll.tolist(), "references": given.target_tokens.tolist()}
    if needs == "values" and given.values is not None and len(given.values) > 0:
        return {"predictions": given.values.tolist(), "references": [0] * len(given.values)}
    return None
