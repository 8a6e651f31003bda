"""What looks at a release found → numbers under the names that gate rules give them, with a word on each.

The names are those of cluster/gate_terms.py. A number that a look could not give is absent, and its note says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from cluster.acceptance_records import Acceptance, General, Memorisation, Robustness, SliceTable
from cluster.gate_terms import TERMS, spelled
from cluster.records import Interval, Metrics
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
    numbers = list(_of_slices(found.slices.get(role, {})))
    if role == "tuned":
        numbers += [*_of_robustness(found.robustness), *_of_general(found.general), *_of_memory(found.memorisation)]
    return numbers


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


def _of_robustness(tests: Mapping[str, Robustness]) -> Iterator[Number]:
    for test, found in tests.items():
        of = f"{found.examples} examples"
        for kind, changed in found.kinds.items():
            for metric, drop in changed.drop.items():
                note = f"{changed.changed} of {of} changed, {_span(drop)}"
                yield Number(test, spelled("robustness_drop", kind, metric), drop.value, note)
        if (agreed := found.consistency) is not None:
            note = f"{found.repeats} answers to each of {of}, {_span(agreed)}"
            yield Number(test, "consistency", agreed.value, note)


def _of_general(found: General | None) -> Iterator[Number]:
    if found is None:
        return
    note = f"{found.examples} rows of {found.source}"
    if (ratio := found.perplexity_ratio) is not None:
        yield Number("", "general_perplexity_ratio", ratio.value, f"{note}, {_span(ratio)}")
    for metric, drop in found.drop.items():
        yield Number("", spelled("general_drop", metric), drop.value, f"{note}, {_span(drop)}")


def _of_memory(found: Memorisation | None) -> Iterator[Number]:
    if found is None:
        return
    span = found.memorised
    if span is None:
        yield Number("", "memorised", None, found.why)
        return
    note = (
        f"{found.trained_rate:.3f} of {found.trained} trained, {found.held_out_rate:.3f} of {found.held_out} held out"
    )
    yield Number("", "memorised", span.value, f"{note}, {_span(span)}")


def _span(found: Interval) -> str:
    return f"interval {found.low:.3f} to {found.high:.3f}"
