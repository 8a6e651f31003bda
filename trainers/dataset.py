"""Rows of all sources → a prepared data set on disk: mended, divided, audited, tokenised.

Given files keep their rows; the training file's rows are divided for what was not given. Tokens are written once for
all rows and copied split by split from the mapped file, so they are never all in memory.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cluster.errors import DataError
from cluster.records import Finding, SplitCount
from trainers.audit import weighed
from trainers.audit_evidence import AuditData, Evidence, TokenCounts
from trainers.audit_fixes import fix_rows
from trainers.duplicates import NearTexts, RowHashes, row_hashes
from trainers.excerpts import finding_examples, typical_row
from trainers.metrics import Task, choose_metrics
from trainers.minhash import NearPairs, near_duplicate_pairs
from trainers.prepared import TRAIN, VALIDATION, PreparedRecord, write_rows
from trainers.report_records import FileRecord, Fixed, Histogram, Lengths
from trainers.row_file import ChainedRows, PickedRows, RowFile
from trainers.splits import assign_splits, inseparable_groups
from trainers.tokens import Encoded, TokenSet, encode_rows

if TYPE_CHECKING:
    from cluster.spec import DataSpec, JobSpec, SplitSpec
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
    """Write the prepared data set. Raises DataError where no training row keeps a target token."""
    on_disk = partial(RowFile.write, sources.scratch / "mended")
    parts, fixed = fix_rows(sources.parts, job.data.audit, partial(_counted_only, form), on_disk)
    parts |= drawn_rows(job.data, len(parts[TRAIN]), sources.mixed)
    rows = ChainedRows(parts.values())
    origin = np.repeat(np.arange(len(parts)), [len(part) for part in parts.values()])
    hashes, near = row_hashes(rows), near_duplicate_pairs(NearTexts(rows), job.data.audit.near_similarity)
    names = split_names(job.data)
    split_of = divide(job.data, rows, hashes, near, [list(parts)[place] for place in origin.tolist()])
    everything = directory / "tokens" / "everything.arrow"
    counts = _tokenised(rows, form, everything)
    kept = counts.kept_targets > 0
    if not kept[split_of == names.index(TRAIN)].any():
        raise DataError(
            f"no training row keeps a target token within {form.max_length} tokens (train.max_length)",
            "raise train.max_length, or shorten the prompts",
            "data",
        )
    given = [name for name in sources.parts if name != TRAIN]
    data = AuditData(rows, split_of, names, hashes, near, given, sources.problems, counts)
    found = weighed(data, job.data.audit)
    members = {name: np.flatnonzero((split_of == place) & kept) for place, name in enumerate(names)}
    _write(rows, {name: of for name, of in members.items() if len(of)}, everything, directory)
    everything.unlink()
    record = _record(job, data, counts, members, form, sources, found, fixed)
    (directory / "prepared.json").write_text(record.model_dump_json(indent=2), encoding="utf-8")


def split_names(data: DataSpec) -> list[str]:
    """Return the names of all splits: train and validation, the tests, and what each further source holds out."""
    return [TRAIN, VALIDATION, *(data.test or [TEST]), *mix_names(data)]


def mix_names(data: DataSpec) -> list[str]:
    """Return the names of the further sources."""
    return [source.name for source in data.mix or []]


def divide(data: DataSpec, rows: Sequence[Row], hashes: RowHashes, near: NearPairs, given_for: list[str]) -> Indices:
    """Return each row's place in ``split_names``, shape (N,); ``given_for`` names the file that each row is of.

    The rows of the training file are divided for what was not given. Those of a further source are divided alike, and
    what falls out of training is held out under the source's own name: it judges neither the checkpoint nor the task.
    """
    names = split_names(data)
    split_of = np.asarray([names.index(name) for name in given_for])
    absent = {"validation": 0.0} if data.validation else {}
    absent |= {"test": 0.0} if data.test else {}
    groups = inseparable_groups(rows, hashes, near)

    def drawn(own: Indices, spec: SplitSpec) -> Indices:
        own_hashes = RowHashes(hashes.exact[own], hashes.input[own])
        return assign_splits(PickedRows(rows, own), own_hashes, groups[own], spec)

    main = np.flatnonzero(split_of == names.index(TRAIN))
    split_of[main] = drawn(main, data.split.model_copy(update=absent))
    for name in mix_names(data):
        own = np.flatnonzero(split_of == names.index(name))
        trained_on = drawn(own, data.split.model_copy(update={"stratify": "auto"})) == names.index(TRAIN)
        tied = np.isin(groups[own], groups[main])
        with_train = np.isin(groups[own], groups[main[split_of[main] == names.index(TRAIN)]])
        split_of[own[np.where(tied, with_train, trained_on)]] = names.index(TRAIN)
    return split_of


def drawn_rows(data: DataSpec, num_train: int, mixed: Mapping[str, Sequence[Row]]) -> dict[str, PickedRows]:
    """Draw ``weight`` rows of each further source per row of the training data, at most all it has; by its name."""
    drawn: dict[str, PickedRows] = {}
    for source in data.mix or []:
        rows = mixed[source.name]
        count = min(len(rows), round(source.weight * num_train))
        places = random.Random(f"{data.split.seed} {source.name}").sample(range(len(rows)), count)
        drawn[source.name] = PickedRows(rows, np.asarray(places, np.int64))
    return drawn


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
    data: AuditData,
    counts: TokenCounts,
    members: dict[str, Indices],
    form: Form,
    sources: Sources,
    found: list[tuple[Finding, Evidence]],
    fixed: dict[str, Fixed],
) -> PreparedRecord:
    train = PickedRows(data.rows, members[TRAIN])
    mixed = set(mix_names(job.data))
    labels = _classes(train, mixed)
    task = "classification" if labels else _unlabelled_task(row for row in train if row.source not in mixed)
    choose_metrics(task, job.evaluate.metrics, len(labels))
    filled = {name: of for name, of in members.items() if len(of)}
    whole = {name: int(np.sum(data.split_of == place)) for place, name in enumerate(members)}
    return PreparedRecord(
        data_hash=sources.data_hash,
        task=task,
        labels=labels,
        template=form.template.source,
        max_length=form.max_length,
        tests=[name for name in filled if name not in (TRAIN, VALIDATION, *mixed)],
        slices={name: _unlabelled_task(PickedRows(data.rows, of)) for name, of in filled.items() if name in mixed},
        splits={name: _count(counts, of) for name, of in filled.items()},
        lengths={name: _lengths(counts, of) for name, of in filled.items()},
        findings=[finding for finding, _ in found],
        examples=[finding_examples(evidence, data) for _, evidence in found],
        fixed=fixed,
        files=[FileRecord.of(reading) for reading in sources.problems.files],
        inputs={name: len(np.unique(data.hashes.input[of])) for name, of in filled.items()},
        copies={name: len(of) - len(np.unique(data.hashes.exact[of])) for name, of in filled.items()},
        without_target={name: num - len(members[name]) for name, num in whole.items()},
        typical=typical_row(train, counts.lengths[members[TRAIN]]),
    )


def _classes(rows: Iterable[Row], mixed: Collection[str]) -> list[str]:
    """Return the classes of the task's own rows, sorted; none where an answer is not its row's label."""
    found: set[str] = set()
    for row in rows:
        if row.source in mixed:
            continue
        if row.label is None or row.label != row.completion:
            return []
        found.add(row.label)
    return sorted(found)


def _unlabelled_task(rows: Iterable[Row]) -> Task:
    return "generation" if next(iter(rows)).prompt else "text"


def _count(counts: TokenCounts, of: Indices) -> SplitCount:
    tokens = np.minimum(counts.lengths[of], counts.max_length)
    return SplitCount(rows=len(of), tokens=int(tokens.sum()), target_tokens=int(counts.kept_targets[of].sum()))


def _lengths(counts: TokenCounts, of: Indices) -> Lengths:
    whole, targets, kept_targets = counts.lengths[of], counts.targets[of], counts.kept_targets[of]
    kept = np.minimum(whole, counts.max_length)
    return Lengths(
        longest=int(kept.max()),
        median=int(np.median(kept)),
        p95=int(np.percentile(kept, 95)),
        longest_targets=int(kept_targets.max()),
        cut=int(np.sum(whole > counts.max_length)),
        cut_targets=int((targets - kept_targets).sum()),
        tokens=Histogram.of(whole),
        targets=Histogram.of(targets),
    )
