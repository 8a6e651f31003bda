"""What looks at a release found → numbers under the names that gate rules give them, with a word on each.

The names are those of trainers/gate_terms.py. A number that a look could not give is absent, and its note says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from cluster.acceptance_records import Acceptance, SliceTable
from cluster.records import Metrics
from trainers.gate_terms import TERMS, spelled
from trainers.metrics import METRICS
from trainers.slices import told

Tables = dict[str, Metrics]


class Number(NamedTuple):
    """One look's number on a test ("" for the release itself): its name, its value or None, and a note."""

    test: str
    name: str
    value: float | None
    note: str = ""


def with_looks(scores: Mapping[str, Metrics], numbers: list[Number]) -> Tables:
    """Return scores by test with the numbers of looks at these tests among them."""
    tables = {test: dict(metrics) for test, metrics in scores.items()}
    for number in numbers:
        if number.value is not None and number.test in tables:
            tables[number.test][number.name] = number.value
    return tables


def numbers_of(found: Acceptance, role: str) -> list[Number]:
    """Return the numbers that looks at a model gave: slices for every role, anything else for the tuned model."""
    return list(_of_slices(found.slices.get(role, {})))


def is_better_higher(name: str) -> bool:
    """Say whether a higher value of a metric or look is the better one."""
    if name in METRICS:
        return METRICS[name].higher_is_better
    term = TERMS[name.partition("(")[0].partition(".")[0]]
    if term.name == "worst_slice":
        return METRICS[name.rpartition(".")[2]].higher_is_better
    return term.higher_is_better


def _of_slices(tests: Mapping[str, Mapping[str, SliceTable]]) -> Iterator[Number]:
    for test, tables in tests.items():
        for column, table in tables.items():
            for metric in METRICS:
                worst, gap, note = table.worst.get(metric), table.gap.get(metric), told(table, metric)
                yield Number(test, spelled("worst_slice", column, metric), worst.value if worst else None, note)
                yield Number(test, spelled("slice_gap", column, metric), gap.value if gap else None, note)
