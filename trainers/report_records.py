"""What a prepared data set keeps for its report, beside the rows: how files were read, what was seen and what was cut.

The report is made from the prepared set alone, long after the files and the audit's tables are gone; so excerpts are
taken, and personal data masked, when the set is made. Nothing here is read by training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cluster.records import Record

if TYPE_CHECKING:
    from trainers.rows import FileReading

MAX_BINS = 40
TAIL = 2.0
"""How far beyond the 99th percentile an axis may reach; what lies further is counted in its last bin."""


class FileRecord(Record):
    """How one file was read."""

    name: str
    source: str = Field(description="the split it was given for, or the mixture's source")
    format: str
    reason: str = Field(description="why this format")
    columns: dict[str, str] = Field(description="our name → the file's column, for those it has")
    unused: list[str] = Field(description="the file's other columns")
    records: int
    rows: int = Field(description="records that could be read")

    @classmethod
    def of(cls, reading: FileReading) -> Self:
        """Return what a file's reading comes to."""
        columns, seen = reading.choice.columns, reading.columns_seen
        return cls(
            name=reading.name,
            source=reading.source,
            format=reading.choice.format,
            reason=reading.choice.reason,
            columns={ours: theirs for ours, theirs in columns.items() if theirs in seen},
            unused=[name for name in seen if name not in columns.values()],
            records=reading.num_records,
            rows=reading.num_rows,
        )


class Turn(Record):
    """A turn as it is shown: personal data masked, ``before`` and ``after`` characters left out around the text."""

    role: str
    text: str
    before: int = 0
    after: int = 0


class Excerpt(Record):
    """A row as it is shown; ``left_out`` turns follow the first ones shown."""

    where: str
    split: str = ""
    turns: list[Turn] = Field(default_factory=list[Turn])
    left_out: int = 0
    label: str | None = Field(default=None, description="the row's label, where it is not the answer")


class Example(Record):
    """A row behind a finding, the row that it repeats or contradicts, and what was noticed there."""

    row: Excerpt
    like: Excerpt | None = None
    note: str = ""


class Histogram(Record):
    """Rows by a number: bin ``i`` counts ``width * i`` to below ``width * (i + 1)``, an open last one all beyond."""

    width: int
    counts: list[int]
    is_open: bool

    @classmethod
    def of(cls, values: NDArray[np.integer]) -> Self:
        """Return the histogram of numbers from 0 up, shape (N,), in at most ``MAX_BINS`` bins of a round width."""
        largest = int(values.max(initial=0))
        reach = min(largest, int(TAIL * np.percentile(values, 99))) if len(values) else 0
        width = next(step for power in range(20) for step in _round(power) if reach // step < MAX_BINS)
        last = reach // width
        counts = np.bincount(np.minimum(values // width, last), minlength=last + 1)
        return cls(width=width, counts=counts.tolist(), is_open=largest // width > last)


def _round(power: int) -> tuple[int, int, int]:
    return 10**power, 2 * 10**power, 5 * 10**power


class Lengths(Record):
    """Lengths of a split's examples in tokens: as kept, and in histograms before ``max_length`` cuts."""

    longest: int
    median: int
    p95: int
    longest_targets: int = Field(description="most target tokens in one example")
    cut: int = Field(description="rows longer than max_length")
    cut_targets: int = Field(description="target tokens that were cut away")
    tokens: Histogram = Field(description="rows by their tokens, before the cut")
    targets: Histogram = Field(description="rows by their target tokens, before the cut")


class Typical(Record):
    """A training row of median length, to be shown as the model sees it."""

    index: int = Field(description="its place in the training split")
    where: str
    tokens: int = Field(description="its length before max_length cuts it")
