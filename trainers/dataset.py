"""Rows of all sources → a prepared data set on disk: mended, divided, audited, tokenised.

Given files keep their rows; the training file's rows are divided for what was not given. Tokens are written once for
all rows and copied split by split from the mapped file, so they are never all in memory.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cluster.errors import DataError
from cluster.records import Finding, SplitCount
from trainers.audit import audit
from trainers.audit_evidence import AuditData, TokenCounts
from trainers.audit_fixes import fix_rows
from trainers.duplicates import NearTexts, RowHashes, row_hashes
from trainers.metrics import Task, choose_metrics
from trainers.minhash import NearPairs, near_duplicate_pairs
from trainers.prepared import TRAIN, VALIDATION, Lengths, PreparedRecord, write_rows
from trainers.row_file import ChainedRows, PickedRows, RowFile
from trainers.splits import assign_splits, inseparable_groups
from trainers.tokens import Encoded, TokenSet, encode_rows

if TYPE_CHECKING:
    from cluster.spec import DataSpec, JobSpec
    from trainers.rows import Row, SourceProblems
    from trainers.templates import LossOn, Template

TEST = "test"
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Form:
    """How rows become tokens."""

    template: Template
    loss_on: LossOn
    max_length: int

    def encoded(self, rows: Sequence[Row]) -> Iterator[Encoded]:
        """Yield the tokens of every row, in order."""
        return encode_rows(rows, self.template, self.loss_on, self.max_length)


@dataclass(frozen=True)
class Sources:
    """The rows as read: by the split they were given for, what is wrong with them, and the hash of them all.

    They lie in files in ``scratch``, which outlives their use.
    """

    parts: Mapping[str, Sequence[Row]]
    mixed: Mapping[str, Sequence[Row]]
    problems: SourceProblems
    data_hash: str
    scratch: Path


def build(job: JobSpec, sources: Sources, form: Form, directory: Path) -> None:
    """Write the prepared data set. Raises DataError where no row keeps a target token."""
    on_disk = partial(RowFile.write, sources.scratch / "mended")
    parts, fixed = fix_rows(sources.parts, job.data.audit, partial(_counted_only, form), on_disk)
    parts[TRAIN] = ChainedRows([parts[TRAIN], *drawn_rows(job.data, len(parts[TRAIN]), sources.mixed)])
    rows = ChainedRows(parts.values())
    origin = np.repeat(np.arange(len(parts)), [len(part) for part in parts.values()])
    hashes, near = row_hashes(rows), near_duplicate_pairs(NearTexts(rows), job.data.audit.near_similarity)
    names = split_names(job.data)
    split_of = divide(job.data, rows, hashes, near, [list(parts)[place] for place in origin.tolist()])
    everything = directory / "tokens" / "everything.arrow"
    counts = _tokenised(rows, form, everything)
    kept = counts.kept_targets > 0
    if not kept.any():
        raise DataError(
            f"no row keeps a target token within {form.max_length} tokens (train.max_length)",
            "raise train.max_length, or shorten the prompts",
            "data",
        )
    given = [name for name in parts if name != TRAIN]
    findings = audit(AuditData(rows, split_of, names, hashes, near, given, sources.problems, counts), job.data.audit)
    members = {name: np.flatnonzero((split_of == place) & kept) for place, name in enumerate(names)}
    _write(rows, {name: of for name, of in members.items() if len(of)}, everything, directory)
    everything.unlink()
    record = _record(job, rows, members, counts, form, sources.data_hash, findings, fixed)
    (directory / "prepared.json").write_text(record.model_dump_json(indent=2), encoding="utf-8")


def split_names(data: DataSpec) -> list[str]:
    """Return the names of all splits: train and validation, then the tests."""
    return [TRAIN, VALIDATION, *(data.test or [TEST])]


def divide(data: DataSpec, rows: Sequence[Row], hashes: RowHashes, near: NearPairs, given_for: list[str]) -> Indices:
    """Return each row's place in ``split_names``, shape (N,); ``given_for`` names the file's own split of each row."""
    names = split_names(data)
    split_of = np.asarray([names.index(name) for name in given_for])
    absent = {"validation": 0.0} if data.validation else {}
    absent |= {"test": 0.0} if data.test else {}
    own = np.flatnonzero(split_of == names.index(TRAIN))
    groups = inseparable_groups(rows, hashes, near)
    drawn = assign_splits(
        PickedRows(rows, own),
        RowHashes(hashes.exact[own], hashes.input[own]),
        groups[own],
        data.split.model_copy(update=absent),
    )
    split_of[own] = drawn
    return split_of


def drawn_rows(data: DataSpec, num_train: int, mixed: Mapping[str, Sequence[Row]]) -> Iterator[PickedRows]:
    """Draw ``weight`` rows of each further source per row of the training data, at most all it has."""
    for source in data.mix or []:
        rows = mixed[source.name]
        count = min(len(rows), round(source.weight * num_train))
        places = random.Random(f"{data.split.seed} {source.name}").sample(range(len(rows)), count)
        yield PickedRows(rows, np.asarray(places, np.int64))


def _tokenised(rows: Sequence[Row], form: Form, path: Path) -> TokenCounts:
    """Write the tokens of all rows in order, and count them on the way."""
    seen = array("q")

    def counted() -> Iterator[tuple[NDArray[np.int32], NDArray[np.bool_]]]:
        for encoded in form.encoded(rows):
            seen.extend((encoded.length, encoded.targets, encoded.kept_targets))
            yield encoded.ids_T, encoded.is_target_T

    TokenSet.write(path, counted())
    return _token_counts(seen, form.max_length)


def _counted_only(form: Form, rows: Sequence[Row]) -> TokenCounts:
    seen = array("q")
    for encoded in form.encoded(rows):
        seen.extend((encoded.length, encoded.targets, encoded.kept_targets))
    return _token_counts(seen, form.max_length)


def _token_counts(counts: array[int], max_length: int) -> TokenCounts:
    lengths, targets, kept_targets = np.asarray(counts, np.int64).reshape(-1, 3).T
    return TokenCounts(lengths, targets, kept_targets, max_length)


def _write(rows: Sequence[Row], members: dict[str, Indices], everything: Path, directory: Path) -> None:
    tokens = TokenSet.load(everything)
    for name, of in members.items():
        write_rows(directory / "rows" / f"{name}.parquet", PickedRows(rows, of))
        TokenSet.write(directory / "tokens" / f"{name}.arrow", (tokens.example(index) for index in of.tolist()))


def _record(
    job: JobSpec,
    rows: Sequence[Row],
    members: dict[str, Indices],
    counts: TokenCounts,
    form: Form,
    data_hash: str,
    findings: list[Finding],
    fixed: dict[str, int],
) -> PreparedRecord:
    train = PickedRows(rows, members[TRAIN])
    labelled = all(row.label is not None and row.label == row.completion for row in train)
    task: Task = "classification" if labelled else "generation" if train[0].prompt else "text"
    labels = sorted({str(row.label) for row in train}) if labelled else []
    choose_metrics(task, job.evaluate.metrics, len(labels))
    filled = {name: of for name, of in members.items() if len(of)}
    kept_lengths = np.minimum(counts.lengths, counts.max_length)
    return PreparedRecord(
        data_hash=data_hash,
        task=task,
        labels=labels,
        template=form.template.source,
        max_length=form.max_length,
        tests=[name for name in filled if name not in (TRAIN, VALIDATION)],
        splits={name: _count(kept_lengths[of], counts.kept_targets[of]) for name, of in filled.items()},
        lengths={name: _lengths(kept_lengths[of], counts.kept_targets[of]) for name, of in filled.items()},
        findings=findings,
        fixed=fixed,
    )


def _count(lengths: NDArray[np.integer], targets: NDArray[np.integer]) -> SplitCount:
    return SplitCount(rows=len(lengths), tokens=int(lengths.sum()), target_tokens=int(targets.sum()))


def _lengths(lengths: NDArray[np.integer], targets: NDArray[np.integer]) -> Lengths:
    return Lengths(
        longest=int(lengths.max()),
        median=int(np.median(lengths)),
        p95=int(np.percentile(lengths, 95)),
        longest_targets=int(targets.max()),
    )
