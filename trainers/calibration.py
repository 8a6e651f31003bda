"""Label probabilities and right labels → how far a model's certainty can be trusted, as numbers and in the report.

A model is calibrated where, of the examples that it gives a label with probability 0.8, eight of ten have that label.
Examples are put into ten bins of equal width by the probability of their likeliest label; ECE is the mean distance of
that probability from the share that is right, weighted by examples (Naeini et al. 2015; Guo et al. 2017, arXiv
1706.04599, equation 3). It is about likelihoods, not about the generated label, and few examples a bin push it up: the
bins are shown with their intervals (Wilson 1927).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from markupsafe import Markup

from cluster.charts import Span, spans
from cluster.pages import Cell, Section, element, joined, table
from trainers.answered import Answered
from trainers.audit_evidence import counted
from trainers.label_metrics import classes_of
from trainers.metrics import Predictions

NUM_BINS = 10
Z_95 = 1.959964
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Bin:
    """Examples whose likeliest label has a probability from ``low`` to ``high``: its mean, and the share right."""

    low: float
    high: float
    examples: int
    certainty: float
    right: float

    @property
    def interval(self) -> tuple[float, float]:
        """The share's 95 % interval."""
        n, p = self.examples, self.right
        middle = (p + Z_95**2 / (2 * n)) / (1 + Z_95**2 / n)
        reach = Z_95 / (1 + Z_95**2 / n) * sqrt(p * (1 - p) / n + Z_95**2 / (4 * n**2))
        return max(0.0, middle - reach), min(1.0, middle + reach)


@dataclass(frozen=True)
class Calibration:
    """The bins that hold examples, and what they come to over all."""

    bins: list[Bin]
    examples: int

    @property
    def ece(self) -> float:
        """The expected calibration error, 0 to 1."""
        return sum(one.examples * abs(one.certainty - one.right) for one in self.bins) / self.examples

    @property
    def certainty(self) -> float:
        """The mean probability of the likeliest label."""
        return sum(one.examples * one.certainty for one in self.bins) / self.examples

    @property
    def right(self) -> float:
        """The share of examples whose likeliest label is right."""
        return sum(one.examples * one.right for one in self.bins) / self.examples


def calibration(predictions: Predictions) -> Calibration | None:
    """Return how certainty and truth go together; None without label probabilities for every example."""
    scores_NC, labels, names = predictions.label_scores, predictions.labels, predictions.label_names
    if scores_NC is None or labels is None or not names or not np.isfinite(scores_NC).all() or not len(labels):
        return None
    certainty_N = scores_NC.max(axis=1)
    right_N = scores_NC.argmax(axis=1) == classes_of(labels, names)
    bin_N = np.clip(np.ceil(certainty_N * NUM_BINS).astype(int) - 1, 0, NUM_BINS - 1)
    bins: list[Bin] = []
    for place in range(NUM_BINS):
        of = bin_N == place
        if of.any():
            low, high = place / NUM_BINS, (place + 1) / NUM_BINS
            bins.append(Bin(low, high, int(of.sum()), float(certainty_N[of].mean()), float(right_N[of].mean())))
    return Calibration(bins, len(labels))


def calibration_section(tests: Sequence[Answered]) -> Section | None:
    """Return reliability and ECE of tuned and base on every test with label probabilities; None where none has them."""
    found = [(one.test, calibration(one.tuned), calibration(one.base) if one.base else None) for one in tests]
    known = [(test, tuned, base) for test, tuned, base in found if tuned is not None]
    if not known:
        return None
    blocks = [joined(_test(test, tuned, base, several=len(known) > 1)) for test, tuned, base in known]
    lead = (
        "Whether the probabilities of labels can be trusted: where the filled dot (share that is right, with its 95 % "
        "interval) lies left of the hollow one (probability said), the model is too sure of itself."
    )
    return Section("Calibration", joined(blocks), lead)


def _test(test: str, tuned: Calibration, base: Calibration | None, *, several: bool) -> Iterator[Markup]:
    if several:
        yield element("h3", test)
    models = [("base", base), ("tuned", tuned)]
    rows: list[list[Cell]] = [
        [name, f"{of.ece:.3f}", f"{of.certainty:.3f}", f"{of.right:.3f}"] for name, of in models if of is not None
    ]
    yield table(["", "ECE", "mean probability said", "share right"], rows, numeric={1, 2, 3})
    yield spans([span for one in tuned.bins for span in _spans(one)], SHARES)


def _spans(one: Bin) -> Iterator[Span]:
    group = f"{one.low:.1f} to {one.high:.1f}"
    yield Span(group, "said", one.certainty, f"{one.certainty:.3f}", None, "hollow")
    yield Span(group, f"right, of {counted(one.examples, 'example')}", one.right, f"{one.right:.3f}", one.interval)
