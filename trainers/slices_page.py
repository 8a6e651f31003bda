"""Slices of the tests → the report's section: a table a column, the largest slice first, tuned beside base.

One metric a table, the test's first; every metric of every slice is in the run's JSON. Values are masked as rows are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from markupsafe import Markup

from cluster.acceptance_records import Acceptance, SliceScore, SliceTable
from cluster.pages import Cell, Section, badge, element, folded, joined, table, visible
from cluster.personal_data import mask_personal_data
from cluster.records import Interval
from trainers.audit_evidence import counted

SHOWN_ROLES = {"base": "base", "tuned": "tuned"}
MAX_ROWS = 30
VALUE_CHARS = 80


def slices_section(found: Acceptance) -> Section | None:
    """Return the slices of every test and column; None where the job asked for none."""
    tests = found.slices.get("tuned", {})
    blocks = [
        joined(_column(test, column, shown, found, several=len(tests) > 1))
        for test, columns in tests.items()
        for column, shown in columns.items()
    ]
    if not blocks:
        return None
    lead = (
        "Parts of the tests scored apart, with 95 % intervals. Of many slices one is always worst: read the interval "
        "of the gap, from resampling each slice, before blaming one."
    )
    return Section("Slices", joined(blocks), lead)


def _column(test: str, column: str, shown: SliceTable, found: Acceptance, *, several: bool) -> Iterator[Markup]:
    metric = next((name for score in shown.slices.values() for name in score.metrics), None)
    small = element("small", f"{test}, by {metric or 'no score'}" if several else f"by {metric or 'no score'}")
    yield element("h3", visible(column) + Markup(" ") + small)
    tables = {role: found.slices.get(role, {}).get(test, {}).get(column) for role in SHOWN_ROLES}
    roles = {role: of.slices for role, of in tables.items() if of is not None}
    rows = list(_rows(shown, metric, roles))
    head = ["slice", "examples", *(SHOWN_ROLES[role] for role in roles), ""]
    numeric = range(1, 2 + len(roles))
    yield table(head, rows[:MAX_ROWS], numeric=numeric)
    if rest := rows[MAX_ROWS:]:
        yield folded(f"{counted(len(rest), 'further slice')}", table(head, rest, numeric=numeric))
    yield element("p", " ".join(_told(shown, metric)), "soft")


def _rows(shown: SliceTable, metric: str | None, roles: Mapping[str, Mapping[str, SliceScore]]) -> Iterator[list[Cell]]:
    worst = shown.worst[metric].slice if metric in shown.worst and len(shown.slices) > 1 else None
    for value, score in shown.slices.items():
        masked = mask_personal_data(value)[:VALUE_CHARS]
        scores = [_score(of.get(value), metric) for of in roles.values()]
        said: Cell = ""
        if not score.decided:
            said = badge("note", "undecided: too few")
        elif value == worst:
            said = badge("warning", "worst")
        yield [visible(masked), f"{score.examples:,}", *scores, said]


def _score(score: SliceScore | None, metric: str | None) -> Cell:
    if score is None or metric is None or metric not in score.metrics:
        return "–"
    span = score.intervals.get(metric)
    return visible(f"{score.metrics[metric]:.3f}") + (_span(span) if span else Markup(""))


def _span(found: Interval) -> Markup:
    return element("small", f"{found.low:.3f} to {found.high:.3f}")


def _told(shown: SliceTable, metric: str | None) -> Iterator[str]:
    gap = shown.gap.get(metric or "")
    if gap is not None:
        yield f"Best and worst slice are {gap.value:.3f} apart ({gap.low:.3f} to {gap.high:.3f})."
    elif not shown.worst:
        yield "Too few examples lie in slices that are large enough: no gate rule is decided by these."
    if shown.undecided:
        of = counted(shown.undecided_examples, "example")
        yield f"{counted(shown.undecided, 'slice')} of {of} in all too small to score."
