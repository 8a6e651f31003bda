"""Rows of all sources → a prepared data set on disk: mended, divided, audited, tokenised.

Given files keep their rows; the training file's rows are divided for what was not given. Tokens are written once for
all rows and copied split by split from the mapped file, so they are never all in memory.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cluster.errors import DataError
from cluster.records import Finding, Fixed, SplitCount
from trainers.audit import weighed
from trainers.audit_evidence import AuditData, Evidence, TokenCounts
from trainers.audit_fixes import fix_rows, refuse_emptied
from trainers.division import divide, drawn_rows, mix_names, split_names
from trainers.excerpts import finding_examples, typical_row
from trainers.first_look import looking
from trainers.metric_choice import choose_metrics
from trainers.prepared import TRAIN, VALIDATION, PreparedRecord, write_rows
from trainers.report_records import Example, FileRecord, Histogram, Lengths
from trainers.row_file import ChainedRows, PickedRows, RowFile
from trainers.split_evidence import draw_evidence, emptied_evidence, unmet_evidence
from trainers.tasks import refuse_other_tasks, task_of
from trainers.tokens import Encoded, TokenSet, encode_rows

if TYPE_CHECKING:
    from cluster.spec import DataSpec, JobSpec
    from trainers.metrics import Task
    from trainers.rows import FileReading, Row, SourceProblem, SourceProblems
    from trainers.templates import LossOn, Template

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Form:
    """How rows become tokens; ``readable`` is the most that the base can read at once, where it has a bound."""

    template: Template
    loss_on: LossOn
    max_length: int
    readable: int | None = None

    def encoded(self, rows: Sequence[Row], problems: list[SourceProblem]) -> Iterator[Encoded]:
        """Yield the tokens of every row, in order; none of a row that cannot be rendered, which is in ``problems``."""
        return encode_rows(rows, self.template, self.loss_on, self.max_length, problems)


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


class NothingToTrainOn(DataError):
    """No training row can be used; what the audit found and what is left of the other splits comes along."""

    def __init__(self, what: str, remedy: str = "", where: str = "") -> None:
        super().__init__(what, remedy, where)
        self.findings: list[Finding] = []
        self.examples: list[list[Example]] = []
        self.files: list[FileRecord] = []
        self.splits: dict[str, SplitCount] = {}
        self.fixed: dict[str, Fixed] = {}


def build(job: JobSpec, sources: Sources, form: Form, directory: Path) -> None:
    """Write the prepared data set.

    Raises DataError where the fixes drop every row of a file or a given file asks for another task than the training
    rows, and NothingToTrainOn where no training row has an answer that keeps a target token.
    """
    parts, fixed = _fixed(job.data, sources, form)
    everything = directory / "tokens" / "everything.arrow"
    data, further = _looked_at(job.data, sources, parts, form, everything)
    found = weighed(data, job.data.audit, further)
    members = {name: np.flatnonzero((data.split_of == at) & data.kept) for at, name in enumerate(data.split_names)}
    if not len(members[TRAIN]):
        raise _nothing_to_train_on(data, members, found, fixed, sources.problems.files)
    _write(data.rows, {name: of for name, of in members.items() if len(of)}, everything, directory)
    everything.unlink()
    record = _record(job, data, members, form, sources, found, fixed)
    (directory / "prepared.json").write_text(record.model_dump_json(indent=2), encoding="utf-8")


def _fixed(data: DataSpec, sources: Sources, form: Form) -> tuple[Mapping[str, Sequence[Row]], dict[str, Fixed]]:
    """Return the rows of every part after the fixes that were asked for, and what these did; refuse what is unfit."""
    on_disk = partial(RowFile.write, sources.scratch / "mended")
    read = {**sources.parts, **drawn_rows(data, len(sources.parts[TRAIN]), sources.mixed)}
    parts, fixed = fix_rows(read, data.audit, partial(_counted_only, form), on_disk, further=mix_names(data))
    refuse_emptied({name: read[name] for name in sources.parts}, parts, fixed)
    refuse_other_tasks(parts[TRAIN], {name: parts[name] for name in sources.parts if name != TRAIN})
    return parts, fixed


def _looked_at(
    spec: DataSpec, sources: Sources, parts: Mapping[str, Sequence[Row]], form: Form, everything: Path
) -> tuple[AuditData, list[Evidence]]:
    """Read, divide and tokenise all rows; return what the audit looks at, and what it cannot see of splits and draws.

    Writes the tokens of all rows to ``everything``, while what needs no tokens is found beside.
    """
    rows = ChainedRows(parts.values())
    origin = np.repeat(np.arange(len(parts)), [len(part) for part in parts.values()])
    unrendered: list[SourceProblem] = []
    with looking(rows, spec.audit, form.template.special_tokens, sources.scratch) as look:
        counts = _tokenised(rows, form, everything, unrendered)
        hashes, near, texts = look()
    split_of = divide(spec, rows, hashes, near, [list(parts)[place] for place in origin.tolist()])
    if "roles_broken" not in spec.audit.fix:
        sources.problems.extend(unrendered)
    given = [name for name in sources.parts if name != TRAIN]
    data = AuditData(rows, split_of, split_names(spec), hashes, near, given, sources.problems, counts, texts)
    return data, [
        *emptied_evidence(data),
        *unmet_evidence(spec, data, np.flatnonzero(origin == 0)),
        *draw_evidence(spec, len(sources.parts[TRAIN]), sources.mixed),
    ]


def _tokenised(rows: Sequence[Row], form: Form, path: Path, problems: list[SourceProblem]) -> TokenCounts:
    """Write the tokens of all rows in order, and count them on the way."""
    seen = array("q")
    counted = _counting(form.encoded(rows, problems), seen)
    TokenSet.write(path, ((encoded.ids_T, encoded.is_target_T) for encoded in counted))
    return _token_counts(seen, form)


def _counted_only(form: Form, rows: Sequence[Row]) -> TokenCounts:
    seen = array("q")
    deque(_counting(form.encoded(rows, []), seen), maxlen=0)
    return _token_counts(seen, form)


def _counting(every: Iterable[Encoded], seen: array[int]) -> Iterator[Encoded]:
    """Yield every row's tokens, and note in ``seen`` how many there are."""
    for encoded in every:
        seen.extend((encoded.length, encoded.targets, encoded.kept_targets))
        yield encoded


def _token_counts(counts: array[int], form: Form) -> TokenCounts:
    lengths, targets, kept_targets = np.asarray(counts, np.int64).reshape(-1, 3).T
    return TokenCounts(lengths, targets, kept_targets, form.max_length, form.readable)


def _nothing_to_train_on(
    data: AuditData,
    members: dict[str, Indices],
    found: list[tuple[Finding, Evidence]],
    fixed: dict[str, Fixed],
    files: Sequence[FileReading],
) -> NothingToTrainOn:
    assert data.tokens is not None, "rows are audited with their tokens"
    error = NothingToTrainOn(
        f"no training row has an answer that keeps a target token within {data.tokens.max_length} tokens "
        "(train.max_length)",
        "fill in the answers, raise train.max_length, or shorten the prompts",
        "data",
    )
    error.findings = [finding for finding, _ in found]
    error.examples = [finding_examples(evidence, data) for _, evidence in found]
    error.files = [FileRecord.of(reading) for reading in files]
    error.splits = {name: _count(data.tokens, of) for name, of in members.items() if len(of)}
    error.fixed = fixed
    return error


def _write(rows: Sequence[Row], members: dict[str, Indices], everything: Path, directory: Path) -> None:
    tokens = TokenSet.load(everything)
    for name, of in members.items():
        write_rows(directory / "rows" / f"{name}.parquet", PickedRows(rows, of))
        TokenSet.write(directory / "tokens" / f"{name}.arrow", (tokens.example(index) for index in of.tolist()))


def _record(
    job: JobSpec,
    data: AuditData,
    members: dict[str, Indices],
    form: Form,
    sources: Sources,
    found: list[tuple[Finding, Evidence]],
    fixed: dict[str, Fixed],
) -> PreparedRecord:
    assert data.tokens is not None, "rows are audited with their tokens"
    counts, train = data.tokens, PickedRows(data.rows, members[TRAIN])
    mixed = set(mix_names(job.data))
    task = task_of(row for row in data.rows if row.source == TRAIN) or "text"
    labels = sorted({str(row.label) for row in train if row.source not in mixed}) if task == "classification" else []
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
        slices={name: _slice_task(PickedRows(data.rows, of)) for name, of in filled.items() if name in mixed},
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


def _slice_task(rows: Sequence[Row]) -> Task:
    """Return what a further source's rows ask for; its labels are not the task's, so they are answers."""
    return "generation" if rows[0].prompt else "text"


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
