"""Generated labels and gold labels → which class is taken for which, counted, and as a block of a report.

Rows are what was expected, columns what was answered; an answer that is no label has a column of its own, so every
example is counted exactly once. More classes than a page can show become a list of the largest confusions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from cluster.pages import Cell, Section, element, folded, joined, table, visible
from cluster.personal_data import mask_personal_data
from trainers.answered import Answered
from trainers.audit_evidence import counted
from trainers.label_metrics import NO_LABEL
from trainers.metrics import Predictions

MAX_CLASSES = 30
MAX_LISTED = 30
MAX_COUNTED = 300
SHOWN_CHARS = 60
SHADES = 5
NONE_OF_THEM = "no label"


@dataclass(frozen=True)
class Confusion:
    """Counts (C, C + 1) of examples by expected class and answered class; the last column is no label at all."""

    names: list[str]
    counts: NDArray[np.int64]

    @property
    def expected(self) -> NDArray[np.int64]:
        """Examples of each class, shape (C,)."""
        return self.counts.sum(axis=1)

    @property
    def answered(self) -> NDArray[np.int64]:
        """Answers that name each class, shape (C,)."""
        return self.counts[:, :-1].sum(axis=0)

    @property
    def right(self) -> NDArray[np.int64]:
        """Right answers of each class, shape (C,)."""
        return self.counts.diagonal()


def confusion(predictions: Predictions) -> Confusion | None:
    """Return the counts over the classes that were expected or answered; None where no labels were asked for."""
    classes = predictions.classes()
    if classes is None:
        return None
    predicted_N, gold_N = classes
    names = predictions.class_names()
    counts = np.zeros((len(names), len(names) + 1), dtype=np.int64)
    np.add.at(counts, (gold_N, np.where(predicted_N == NO_LABEL, len(names), predicted_N)), 1)
    kept = np.flatnonzero(counts.sum(axis=1) + counts[:, :-1].sum(axis=0))
    return Confusion([names[place] for place in kept], counts[kept][:, np.append(kept, len(names))])


def confusion_section(tests: Sequence[Answered]) -> Section | None:
    """Return the tuned model's confusions on every test with labels; None where no test has any."""
    found = [(answered.test, confusion(answered.tuned)) for answered in tests if answered.examples]
    known = [(test, counts) for test, counts in found if counts is not None]
    if not known:
        return None
    blocks = [(element("h3", test) if len(known) > 1 else Markup("")) + _block(counts) for test, counts in known]
    lead = "What the tuned model answers by what was expected, every example counted once."
    return Section("Confusions", joined(blocks), lead)


def _block(found: Confusion) -> Markup:
    drawn = _matrix(found) if len(found.names) <= MAX_CLASSES else _largest(found)
    counts = _counts(found)
    return drawn + folded(f"Counts of each of {counted(len(found.names), 'class', 'classes')}", counts)


def _matrix(found: Confusion) -> Markup:
    columns = [*found.names, NONE_OF_THEM]
    used = [place for place in range(len(columns)) if place < len(found.names) or found.counts[:, place].any()]
    head = joined(Markup('<th scope="col"><span>{}</span></th>').format(_label(columns[place])) for place in used)
    rows = joined(
        Markup('<tr><th scope="row">{}</th>{}<td class="number">{:,}</td></tr>').format(
            _label(name),
            joined(_cell(int(found.counts[row, place]), int(total), is_right=row == place) for place in used),
            int(total),
        )
        for row, (name, total) in enumerate(zip(found.names, found.expected, strict=True))
    )
    return Markup(
        '<div class="wide"><table class="confusion"><thead><tr><th><small>expected ↓ answered →</small></th>{}'
        '<th scope="col"><span>all</span></th></tr></thead><tbody>{}</tbody></table></div>'
    ).format(head, rows)


def _cell(count: int, total: int, *, is_right: bool) -> Markup:
    """Return a count, shaded by its share of its row."""
    if not count:
        return Markup('<td class="{}"></td>').format("hit" if is_right else "")
    shade = f"{'hit' if is_right else 'miss'} shade-{ceil(SHADES * count / total)}"
    return Markup('<td class="{}">{:,}</td>').format(shade, count)


def _largest(found: Confusion) -> Markup:
    """Return the wrong answers that occur most, as a list."""
    wrong = found.counts.copy()
    np.fill_diagonal(wrong, 0)
    num_pairs = int((wrong > 0).sum())
    order = np.argsort(-wrong, axis=None, kind="stable")[: min(MAX_LISTED, num_pairs)]
    names = [*found.names, NONE_OF_THEM]
    rows: list[list[Cell]] = []
    for row, column in zip(*np.unravel_index(order, wrong.shape), strict=True):
        count = int(wrong[row, column])
        share = f"{count / int(found.expected[row]):.0%}"
        rows.append([_label(names[row]), _label(names[column]), f"{count:,}", share])
    note = f"The {len(rows)} largest of {counted(num_pairs, 'confusion')} among {len(found.names):,} classes."
    note = element("p", note, "soft")
    return note + table(["expected", "answered", "examples", "of the expected"], rows, numeric={2, 3})


def _counts(found: Confusion) -> Markup:
    order = np.argsort(-found.expected, kind="stable")[:MAX_COUNTED]
    rows: list[list[Cell]] = []
    for place in order:
        expected, answered, right = (int(of[place]) for of in (found.expected, found.answered, found.right))
        recall = f"{right / expected:.0%}" if expected else "–"
        precision = f"{right / answered:.0%}" if answered else "–"
        rows.append([_label(found.names[place]), f"{expected:,}", f"{answered:,}", f"{right:,}", recall, precision])
    if left_out := len(found.names) - len(rows):
        rows.append([f"and {counted(left_out, 'smaller class', 'smaller classes')}", "", "", "", "", ""])
    head = ["class", "expected", "answered", "right", "right of expected", "right of answered"]
    return table(head, rows, numeric=range(1, 6))


def _label(name: str) -> Markup:
    shown = mask_personal_data(name)
    return visible(shown[: SHOWN_CHARS - 1] + "…" if len(shown) > SHOWN_CHARS else shown or "(empty)")
