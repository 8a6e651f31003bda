"""Certainty against truth, by hand and by a model that is calibrated by construction; and which answers are worst."""

from __future__ import annotations

import numpy as np
import pytest

from tests.page_outline import Outline
from trainers.answered import Answered, measured
from trainers.calibration import Bin, calibration, calibration_section
from trainers.metrics import Predictions
from trainers.splits import EvaluationExample
from trainers.worst_examples import changed_places, worst_places, worst_section


def labelled(certain: list[float], right: list[bool]) -> Predictions:
    """Return answers "a" or "b" of this certainty in what is said; "a" is right."""
    said = ["a" if ok else "b" for ok in right]
    scores = np.array([[p, 1 - p] if ok else [1 - p, p] for p, ok in zip(certain, right, strict=True)])
    return Predictions(said, [("a",)] * len(said), ["a"] * len(said), ["a", "b"], scores)


def answered(tuned: Predictions, base: Predictions | None = None) -> Answered:
    size = tuned.num_examples
    label = "a" if tuned.labels else None
    prompt = ({"role": "user", "content": "What?"},)
    return Answered(
        "test", [EvaluationExample(prompt, ("a",), label, f"f:{n}", (n,)) for n in range(size)], tuned, base
    )


def test_the_error_is_the_distance_of_certainty_and_truth_weighted_by_examples():
    found = calibration(labelled([0.9] * 10 + [0.6] * 10, [True] * 9 + [False] + [True] * 3 + [False] * 7))
    assert found is not None
    assert [(one.low, one.examples) for one in found.bins] == [(0.5, 10), (0.8, 10)]
    assert found.ece == pytest.approx(0.5 * 0.3)
    assert (found.certainty, found.right) == pytest.approx((0.75, 0.6))


def test_a_model_that_means_what_it_says_has_hardly_any_error():
    rng = np.random.default_rng(0)
    certain = rng.uniform(0.5, 1, 40_000)
    found = calibration(labelled(certain.tolist(), (rng.random(40_000) < certain).tolist()))
    assert found is not None
    assert found.ece < 0.01


def test_the_interval_of_a_share_is_wilsons():
    low, high = Bin(0.8, 0.9, 10, 0.85, 0.9).interval
    assert (low, high) == pytest.approx((0.5958, 0.9821), abs=1e-4)
    assert Bin(0.9, 1.0, 3, 0.95, 1.0).interval[1] == 1.0


def test_without_probabilities_there_is_no_section():
    plain = Predictions(["a"], [("a",)], ["a"], ["a", "b"])
    assert calibration(plain) is None
    assert calibration_section([answered(plain)]) is None
    section = calibration_section([answered(labelled([0.9] * 4, [True] * 4))])
    assert section is not None
    assert "right, of 4 examples" in Outline(section.body).text


def test_the_worst_labels_are_wrong_ones_the_model_was_surest_of():
    tuned = labelled([0.99, 0.6, 0.9, 0.7], [True, False, False, True])
    one = answered(tuned)
    assert worst_places(one, measured(one)) == [2, 1]


def test_the_worst_answers_have_the_lowest_scores_and_changes_come_largest_first():
    tuned = Predictions(["red pub", "blue", "red"], [("red pub",), ("red pub",), ("red pub",)])
    base = Predictions(["red", "red pub", "red"], tuned.references)
    one = answered(tuned, base)
    scores = measured(one)
    assert worst_places(one, scores)[0] == 1
    assert changed_places(scores) == [1, 0]
    section = worst_section([one])
    assert section is not None
    text = Outline(section.body).text
    assert "2 examples changed" in text
    assert "0.667" in text
