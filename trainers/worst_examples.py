"""Tests with a tuned model's answers → the report's section of its worst ones, and every change in one table.

The worst of a classification are wrong answers that the model was surest of; of anything else, the lowest scores. Other
than the samples before and after, which are drawn evenly, these are chosen to be bad. The table of changes lists the
examples whose score moved most, base beside tuned, so that what was gained can be held against what was lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from markupsafe import Markup

from cluster.pages import Cell, Section, badge, element, folded, joined, table
from trainers.answered import Answered, Measured, measured
from trainers.audit_evidence import counted
from trainers.excerpts import shown_text
from trainers.metrics import Predictions
from trainers.train_samples import example_card
from trainers.turn_view import turn_text

MAX_WORST = 8
OPEN_WORST = 3
MAX_CHANGES = 200
LEAST_CHANGE = 1e-9


def worst_section(tests: Sequence[Answered]) -> Section | None:
    """Return the worst answers and the changes of every test; None where nothing was tested."""
    blocks = [joined(_test(answered, several=len(tests) > 1)) for answered in tests if answered.examples]
    if not blocks:
        return None
    lead = "Chosen to be bad: wrong labels that the model was surest of, or the lowest scores. Personal data is masked."
    return Section("Worst examples", joined(blocks), lead)


def worst_places(answered: Answered, scores: Measured) -> list[int]:
    """Return the places of the worst answers, the worst first; of a classification only wrong ones."""
    if answered.task != "classification":
        return scores.places[np.argsort(scores.after, kind="stable")][:MAX_WORST].tolist()
    wrong = np.flatnonzero(scores.after == 0)
    sure = answered.tuned.label_scores
    if sure is not None:
        wrong = wrong[np.argsort(-sure[scores.places[wrong]].max(axis=1), kind="stable")]
    return scores.places[wrong][:MAX_WORST].tolist()


def changed_places(scores: Measured) -> list[int]:
    """Return where in ``scores`` the two models differ, the largest change first, a loss before an equal gain."""
    if scores.before is None:
        return []
    with np.errstate(invalid="ignore"):
        change = scores.after - scores.before
    moved = np.flatnonzero(np.abs(np.nan_to_num(change)) > LEAST_CHANGE)
    return moved[np.lexsort((change[moved], -np.abs(change[moved])))].tolist()


def _test(answered: Answered, *, several: bool) -> Iterator[Markup]:
    scores = measured(answered)
    if several:
        yield element("h3", f"Test {answered.test}")
    cards = [example_card(place, answered, scores) for place in worst_places(answered, scores)]
    yield joined(cards[:OPEN_WORST]) if cards else element("p", "No answer is wrong.", "soft")
    if rest := cards[OPEN_WORST:]:
        yield folded(counted(len(rest), "further example"), joined(rest))
    if changed := changed_places(scores):
        shown = changed[:MAX_CHANGES]
        told = f"{counted(len(changed), 'example')} changed"
        told += f", the {len(shown)} that changed most" if len(shown) < len(changed) else ""
        yield folded(f"Base against tuned, example by example: {told}", _changes(shown, answered, scores))


def _changes(places: Sequence[int], answered: Answered, scores: Measured) -> Markup:
    rows: list[list[Cell]] = []
    for at in places:
        place = int(scores.places[at])
        assert scores.before is not None, "only two models differ"
        before, after = float(scores.before[at]), float(scores.after[at])
        said = badge("good", "better") if after > before else badge("error", "worse")
        sides = [_answer(answered.base, place), _answer(answered.tuned, place)] if answered.tuned.texts else []
        rows.append([answered.examples[place].where, *sides, *_numbers(answered, before, after), said])
    texts = ["base", "tuned"] if answered.tuned.texts else []
    numbers = [] if answered.task == "classification" else ["base's score", "tuned's"]
    numeric = range(1 + len(texts), 1 + len(texts) + len(numbers))
    return table(["example", *texts, *numbers, ""], rows, numeric=numeric)


def _answer(predictions: Predictions | None, place: int) -> Cell:
    assert predictions is not None, "both models were asked"
    return turn_text(shown_text("", predictions.texts[place]))


def _numbers(answered: Answered, before: float, after: float) -> list[Cell]:
    return [] if answered.task == "classification" else [f"{before:.3f}", f"{after:.3f}"]
