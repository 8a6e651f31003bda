"""A prepared data set on disk: rows and tokens of every split, and what was decided about them.

    prepared.json            task, labels, template, lengths, findings, hashes, and what the report shows
    rows/SPLIT.parquet       the rows as read (after fixes), in order
    tokens/SPLIT.arrow       token ids and loss mask of the rows that are trained on or validated with

It is an artifact under its content's hash, shared by every run and trial that trains on the same rows in the same form.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from cluster.records import Finding, Fixed, Record, SplitCount
from trainers.metrics import Task
from trainers.report_records import Example, FileRecord, Lengths, Typical
from trainers.rows import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

TRAIN, VALIDATION = "train", "validation"
ROWS_A_BATCH = 10_000
_SCHEMA = pa.schema(
    [
        ("messages", pa.string()),
        ("label", pa.string()),
        ("references", pa.list_(pa.string())),
        ("group", pa.string()),
        ("source", pa.string()),
        ("where", pa.string()),
        ("synthetic", pa.bool_()),
        ("extra", pa.string()),
    ]
)


class PreparedRecord(Record):
    """What was decided about a data set."""

    data_hash: str = Field(description="sha256 over the rows as read")
    task: Task
    labels: list[str] = Field(description="the classes of the training rows, sorted; empty unless classification")
    template: str
    max_length: int
    tests: list[str] = Field(description="names of the test sets")
    slices: dict[str, Task] = Field(
        default_factory=dict, description="further sources with held-out rows of their own, and what these ask for"
    )
    splits: dict[str, SplitCount]
    lengths: dict[str, Lengths]
    findings: list[Finding]
    examples: list[list[Example]] = Field(description="of each finding, in order: rows as they are shown")
    fixed: dict[str, Fixed] = Field(description="what each fix asked for did, where it did anything")
    files: list[FileRecord] = Field(description="how each file was read")
    inputs: dict[str, int] = Field(description="distinct inputs of each split")
    copies: dict[str, int] = Field(description="rows of each split that repeat an earlier one, input and answer")
    without_target: dict[str, int] = Field(
        description="rows left out of each split: no answer, or max_length cuts all their target"
    )
    typical: Typical


class Prepared:
    """An opened prepared data set."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record = PreparedRecord.model_validate_json((path / "prepared.json").read_text(encoding="utf-8"))

    def rows(self, split: str) -> list[Row]:
        """Return a split's rows, in order."""
        return list(_read(self.path / "rows" / f"{split}.parquet"))

    def counts(self, split: str, column: str) -> Counter[str]:
        """Return how many rows of a split have each value of a column of text; rows without one are not counted."""
        pairs = self._column(split, column).value_counts().to_pylist()
        return Counter({pair["values"]: pair["counts"] for pair in pairs if pair["values"] is not None})

    def num_synthetic(self, split: str) -> int:
        """Return how many rows of a split are synthetic."""
        return sum(chunk.true_count for chunk in self._column(split, "synthetic").chunks)

    def num_references(self, split: str) -> int:
        """Return how many further right answers the rows of a split list."""
        return sum(len(chunk.flatten()) for chunk in self._column(split, "references").chunks)

    def _column(self, split: str, name: str) -> Any:
        return pq.read_table(self.path / "rows" / f"{split}.parquet", columns=[name])[name]

    def tokens_path(self, split: str) -> Path | None:
        """Return where a split's tokens lie; None where it has none."""
        path = self.path / "tokens" / f"{split}.arrow"
        return path if path.exists() else None


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as Parquet, in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    records_left = map(_record, rows)
    with pq.ParquetWriter(path, _SCHEMA) as writer:
        while records := list(islice(records_left, ROWS_A_BATCH)):
            writer.write_table(pa.Table.from_pylist(records, schema=_SCHEMA))


def _read(path: Path) -> Iterator[Row]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(ROWS_A_BATCH):
            for record in batch.to_pylist():
                yield _row(record)


def _record(row: Row) -> dict[str, Any]:
    return {
        "messages": json.dumps(row.messages, ensure_ascii=False),
        "label": row.label,
        "references": list(row.references),
        "group": row.group,
        "source": row.source,
        "where": row.where,
        "synthetic": row.synthetic,
        "extra": json.dumps(row.extra, ensure_ascii=False),
    }


def _row(record: dict[str, Any]) -> Row:
    return Row(
        messages=tuple(json.loads(record["messages"])),
        label=record["label"],
        references=tuple(record["references"]),
        group=record["group"],
        source=record["source"],
        where=record["where"],
        synthetic=record["synthetic"],
        extra=json.loads(record["extra"]),
    )
