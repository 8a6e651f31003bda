"""Live prompts and what users answered → signs that they ask for something the training set has no class for.

Two signs. Users' own answers: a correction or label that is no class of the training set, given by at least three of
them (one user may say anything). And prompts **far** from the training set: less like their nearest training prompt
(cosine of n-grams) than 95 % of the training prompts are like theirs; where clearly more than 5 % of the live ones are,
something new is asked. Training prompts are compared with each other without near-copies, which a training set has of
its own rows and of nobody else's.

Both are evidence of this look, not a test that holds at all looks; that is ``serving.drift_test``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from cluster.personal_data import mask_personal_data
from cluster.prompt_features import Sparse, matrix_of
from cluster.sketch import Sketch
from serving.drift_report import NewClasses
from serving.ledger_rows import Exposure, Outcome
from serving.live_prompts import LivePrompt
from serving.sequential import bounded_mean_interval

FAR_FRAC, ALPHA, TIGHTEST_AT = 0.05, 0.05, 500
MOST_COMPARED = 1000
NEAR_COPY = 0.8
LEAST_USERS, LEAST_PROMPTS = 3, 100
MOST_LABELS, MOST_LABEL_CHARACTERS = 10, 80


def new_classes(sketch: Sketch, prompts: Sequence[LivePrompt], answers: Mapping[str, set[str]]) -> NewClasses:
    """Return what speaks for new classes; ``answers`` are those that users gave, with the units that gave them."""
    labels = _unknown_labels(sketch.classes, answers) if sketch.classes else {}
    found = NewClasses(decision="undecided", labels=labels, corrections=sum(map(len, answers.values())))
    if labels:
        named = ", ".join(map(repr, labels))
        found = found.model_copy(update={"decision": "seen", "reason": f"users answered {named}, which is no class"})
    if min(len(prompts), len(sketch.prompts)) < LEAST_PROMPTS:
        what = f"{len(prompts)} live and {len(sketch.prompts)} training prompts, {LEAST_PROMPTS} are needed of each"
        return found if labels else found.model_copy(update={"reason": what})
    return _with_far(found, sketch, prompts)


def _with_far(found: NewClasses, sketch: Sketch, prompts: Sequence[LivePrompt]) -> NewClasses:
    """Return the evidence with the share of prompts that are far from all of training's."""
    reference = matrix_of([row.buckets for row in sketch.prompts])
    some = reference[:MOST_COMPARED]  # the sketch's rows are in random order
    bound = float(np.quantile(_nearest(some, reference, most=NEAR_COPY), FAR_FRAC))
    live = matrix_of([one.features.buckets for one in prompts[-MOST_COMPARED:]])
    num_far = int((_nearest(live, reference) < bound).sum())
    far = bounded_mean_interval(float(num_far), live.shape[0], ALPHA, TIGHTEST_AT)
    slack = 3 * sqrt(FAR_FRAC * (1 - FAR_FRAC) / some.shape[0])
    is_more = far.low > FAR_FRAC + slack
    said = f"{far.value:.1%} of live prompts resemble no training prompt ({FAR_FRAC:.0%} of training's own do not)"
    return found.model_copy(
        update={
            "decision": "seen" if is_more or found.labels else "none",
            "far": far,
            "far_expected": FAR_FRAC,
            "reason": "; ".join(filter(None, (found.reason, said))),
        }
    )


def _nearest(rows: Sparse, reference: Sparse, most: float = 2.0) -> NDArray[np.float64]:
    """Return every row's largest cosine with a reference row, those of ``most`` and above left out."""
    found: list[NDArray[np.float64]] = []
    for start in range(0, rows.shape[0], 250):
        cosines = (rows[start : start + 250] @ reference.T).toarray()
        found.append(np.where(cosines < most, cosines, 0.0).max(axis=1))
    return np.concatenate(found)


def _unknown_labels(classes: Iterable[str], answers: Mapping[str, set[str]]) -> dict[str, int]:
    """Return answers that are no class, with how many users gave them."""
    known = {_folded(name) for name in classes}
    new = {label: len(units) for label, units in answers.items() if _folded(label) not in known}
    common = sorted(((num, label) for label, num in new.items() if num >= LEAST_USERS), reverse=True)
    return {mask_personal_data(label[:MOST_LABEL_CHARACTERS]): num for num, label in common[:MOST_LABELS]}


def answers_given(exposures: Iterable[Exposure], outcomes: Iterable[Outcome]) -> dict[str, set[str]]:
    """Return the corrections and labels of requests, each with the units that gave it."""
    unit_of = {row.request: row.unit for row in exposures if not row.forced}
    found: dict[str, set[str]] = {}
    for row in outcomes:
        said = row.correction if row.correction is not None else row.label
        if said and row.request in unit_of:
            found.setdefault(" ".join(said.split()), set()).add(unit_of[row.request])
    return found


def _folded(label: str) -> str:
    return " ".join(label.casefold().split())
