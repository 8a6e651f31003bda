"""Test examples and a column → their slices, each scored with its interval, and how far the slices are apart.

A column of the data, or one of three words where the data has no column of that name: `class` (the label), `source`
(the file of the row) and `length` (a quarter of the test's inputs each, by characters). An example of several rows has
the value that most of them have, the first of equals.

A small slice says little: below a number of examples it is undecided, which is shown and never scored. The worst slice
and the gap speak of slices that are large enough, and of nothing where these hold less than half of the examples. Note
that the worst of many slices lies below their mean by chance alone, and the gap of equal slices above 0: their
intervals, from resampling every slice on its own, say how much of that is noise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cluster.acceptance_records import SliceScore, SliceTable, WorstSlice
from cluster.blocks import did_you_mean
from cluster.errors import JobFileError
from cluster.records import Interval
from trainers.bootstrap import RESAMPLES, Floats, bootstrap, percentile_interval, value_of
from trainers.metrics import METRICS, Predictions
from trainers.rows import EXTRA_CHARS
from trainers.scoring import weighted_metrics

if TYPE_CHECKING:
    from trainers.report_records import FileRecord
    from trainers.rows import Row
    from trainers.splits import EvaluationExample

Members = dict[str, NDArray[np.int64]]
Reader = Callable[["Row"], str | None]

CLASS, SOURCE, LENGTH = WORDS = ("class", "source", "length")
OURS: dict[str, Reader] = {
    "label": lambda row: row.label,
    "group": lambda row: row.group,
    "synthetic": lambda row: str(row.synthetic).lower(),
}
NO_VALUE = "(none)"
QUARTERS = (0.25, 0.5, 0.75)
MAX_LISTED = 100
"""Slices too small to score that are listed; of a column of ids there may be as many as rows."""
LEAST_COVERED = 0.5


def members(
    examples: Sequence[EvaluationExample], rows: Sequence[Row], column: str, files: Sequence[FileRecord]
) -> Members | None:
    """Return the places of the examples with each value, the most frequent value first; None where there is none.

    ``rows`` are those that the examples were grouped from.
    """
    if column == LENGTH and not any(LENGTH in row.extra for row in rows):
        values: list[str | None] = list(_length_bands(examples))
    else:
        read = _reader(column, rows, files)
        values = [_most([read(rows[place]) for place in example.rows]) for example in examples]
    if all(value is None for value in values):
        return None
    named = np.array([NO_VALUE if value is None else value for value in values], dtype=object)
    return {value: np.flatnonzero(named == value) for value, _ in Counter(named.tolist()).most_common()}


def refuse_unknown_slices(
    columns: Iterable[str], tests: Mapping[str, Sequence[Row]], files: Sequence[FileRecord]
) -> None:
    """Raise JobFileError for a column that no test has a value of; ``tests`` are the rows of each."""
    known = sorted({name for rows in tests.values() for row in rows for name in row.extra} | {*WORDS, *_named(files)})
    for column in columns:
        if any(has_column(column, rows, files) for rows in tests.values()):
            continue
        what = f"no test row has a value of {column!r} to slice by{did_you_mean(column, known)}"
        if any(column in file.unused for file in files):
            what = (
                f"{column!r} holds nothing to slice by: values are text of up to {EXTRA_CHARS} characters, or numbers"
            )
        raise JobFileError(what, f"use one of: {', '.join(known)}; or remove it", "evaluate.slices")


def has_column(column: str, rows: Sequence[Row], files: Sequence[FileRecord]) -> bool:
    """Say whether any of the rows has a value of the column."""
    read = _reader(column, rows, files)
    return column == LENGTH or any(read(row) is not None for row in rows)


def slice_table(
    predictions: Predictions, found: Members, names: Sequence[str], min_examples: int, seed: int
) -> SliceTable:
    """Return the scores of every slice, the worst one and the gap; the same seed resamples the same rows."""
    large = {value: places for value, places in found.items() if len(places) >= min_examples}
    small = {value: places for value, places in found.items() if value not in large}
    slices: dict[str, SliceScore] = {}
    resampled: dict[str, dict[str, Floats]] = {}
    for number, (value, places) in enumerate(large.items()):
        slices[value], resampled[value] = _scored(predictions.at(places), names, seed + number)
    listed = list(small.items())[:MAX_LISTED]
    slices |= {value: SliceScore(examples=len(places), decided=False) for value, places in listed}
    left = sum(map(len, small.values()))
    covered = sum(map(len, large.values()))
    worst: dict[str, WorstSlice] = {}
    gap: dict[str, Interval] = {}
    if large and covered >= LEAST_COVERED * (covered + left):
        worst, gap = _extremes({value: slices[value] for value in large}, resampled, names)
    return SliceTable(slices=slices, worst=worst, gap=gap, undecided=len(small), undecided_examples=left)


def told(table: SliceTable, metric: str) -> str:
    """Return what stands behind the number that a gate rule compares, or why there is none."""
    small = f"{table.undecided} too small to judge, of {table.undecided_examples} examples" if table.undecided else ""
    if metric in table.worst:
        worst = table.worst[metric].slice
        return "; ".join(part for part in (f"worst: {worst} ({table.slices[worst].examples} examples)", small) if part)
    return f"slices: {small}" if small else "no slice has this number"


def _scored(predictions: Predictions, names: Sequence[str], seed: int) -> tuple[SliceScore, dict[str, Floats]]:
    num = predictions.num_examples
    weighted = weighted_metrics(predictions, names)
    found = {name: value_of(metric, num) for name, metric in weighted.items()}
    values = {name: value for name, value in found.items() if value is not None}
    resampled = bootstrap({name: weighted[name] for name in values}, num, seed, RESAMPLES)
    spans = {name: percentile_interval(value, resampled[name]) for name, value in values.items()}
    known = {name: span for name, span in spans.items() if span is not None}
    return SliceScore(examples=num, decided=True, metrics=values, intervals=known), resampled


def _extremes(
    slices: Mapping[str, SliceScore], resampled: Mapping[str, Mapping[str, Floats]], names: Sequence[str]
) -> tuple[dict[str, WorstSlice], dict[str, Interval]]:
    """Return each metric's worst slice, and how far the best one is from it."""
    worst: dict[str, WorstSlice] = {}
    gap: dict[str, Interval] = {}
    for name in names:
        values = {value: score.metrics[name] for value, score in slices.items() if name in score.metrics}
        if not values:
            continue
        lowest, highest = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
        of = lowest if METRICS[name].higher_is_better else highest
        worst[name] = WorstSlice(slice=of, value=values[of])
        if len(values) > 1:
            drawn_SR = np.stack([resampled[value][name] for value in values])
            with np.errstate(invalid="ignore"):
                span = percentile_interval(
                    values[highest] - values[lowest], drawn_SR.max(axis=0) - drawn_SR.min(axis=0)
                )
            gap |= {} if span is None else {name: span}
    return worst, gap


def _reader(column: str, rows: Sequence[Row], files: Sequence[FileRecord]) -> Reader:
    """Return what reads a row's value: a column kept with the rows, one of ours by the user's name, or a word."""
    if any(column in row.extra for row in rows):
        return lambda row: row.extra.get(column)
    if (ours := _named(files).get(column)) is not None:
        return OURS[ours]
    if column == SOURCE:
        return lambda row: row.where.rpartition(":")[0] or None
    return OURS["label"] if column == CLASS else lambda _: None


def _named(files: Sequence[FileRecord]) -> dict[str, str]:
    """Return the user's names of those columns of ours that rows can be sliced by."""
    return {theirs: ours for file in files for ours, theirs in file.columns.items() if ours in OURS}


def _most(values: Sequence[str | None]) -> str | None:
    given = Counter(value for value in values if value is not None)
    return given.most_common(1)[0][0] if given else None


def _length_bands(examples: Sequence[EvaluationExample]) -> Iterable[str]:
    """Return each example's quarter by the characters of its input (of the text itself where that is all)."""
    lengths = np.array([_input_chars(example) for example in examples], dtype=np.int64)
    edges = sorted({int(edge) for edge in np.quantile(lengths, QUARTERS, method="lower")}) if len(lengths) else []
    names = [f"up to {edges[0]} characters"] if edges else []
    names += [f"{low + 1} to {high} characters" for low, high in pairwise(edges)]
    names += [f"over {edges[-1]} characters"] if edges else []
    return [names[int(place)] for place in np.searchsorted(edges, lengths, side="left")]


def _input_chars(example: EvaluationExample) -> int:
    if example.prompt:
        return sum(len(message["content"]) for message in example.prompt)
    return len(example.references[0])
