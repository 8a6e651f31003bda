"""The data stage: what the job names as its data → a prepared data set, audited, split, tokenised and planned for.

The same for `hone check`, which prints the result, and for every run, which goes on with it. Everything that can be
refused is refused here, before Ray starts: a base that does not load, gate rules that name nothing, rows that cannot be
trained on, a plan that does not fit. The prepared set is kept under a hash of the rows and of all that shapes them, and
found again by the next run or trial.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.errors import DataError, JobFileError
from cluster.records import CheckReport, Finding, SplitCount
from cluster.store import Store
from trainers.audit import audit, fix_rows
from trainers.audit_evidence import AuditData, TokenCounts
from trainers.duplicates import near_duplicate_pairs, near_texts, row_hashes
from trainers.formats import require_columns
from trainers.gate_rules import parse_rule
from trainers.metrics import Task, choose_metrics
from trainers.planning import plan_run
from trainers.prepared import TRAIN, VALIDATION, Lengths, Prepared, PreparedRecord, write_rows
from trainers.sources import SourceProblems, read_rows
from trainers.splits import assign_splits, inseparable_groups
from trainers.templates import load_tokenizer, template_of
from trainers.tokens import Encoded, TokenSet, encode_rows

if TYPE_CHECKING:
    from cluster.progress import Progress
    from cluster.session import Settings
    from cluster.spec import JobSpec
    from trainers.rows import Row
    from trainers.templates import Template

FORM = 1
"""Raised whenever the same rows would be prepared otherwise."""


@dataclass(frozen=True)
class Split:
    """One split's rows and their tokens."""

    name: str
    rows: list[Row]
    encoded: list[Encoded]


@dataclass(frozen=True)
class Ready:
    """A job whose data and plan passed: what a run starts from."""

    report: CheckReport
    prepared: str
    data_hash: str


def ready(job: JobSpec, settings: Settings, progress: Progress) -> Ready:
    """Prepare the data, plan the run, and return both; nothing of the run exists yet.

    Raises DataError where the audit finds errors, CapacityError where the plan does not fit.
    """
    key, prepared, report = _checked(job, settings, progress)
    if not report.ok:
        raise DataError(_errors(report.findings), "run `hone check` on the job for all findings, and mend the data")
    return Ready(report, key, prepared.record.data_hash)


def check(job: JobSpec, settings: Settings, progress: Progress) -> CheckReport:
    """Return audit, splits and plan of a job without running it."""
    return _checked(job, settings, progress)[2]


def _checked(job: JobSpec, settings: Settings, progress: Progress) -> tuple[str, Prepared, CheckReport]:
    refuse_early(job)
    store = Store(settings.home)
    key = prepare(job, store, progress)
    prepared = Prepared(store.reading("data", key))
    return key, prepared, _report(prepared, plan_run(job, prepared, settings))


def refuse_early(job: JobSpec) -> None:
    """Refuse what can be seen without reading the data. Raises JobFileError or BaseModelError."""
    from trainers.model import check_base

    check_base(job.base)
    for rule in job.gate:
        parse_rule(rule)
    if job.train.method == "qlora":
        refuse_qlora()
    if job.evaluate.slices:
        raise JobFileError("slices are not scored yet", "remove evaluate.slices", "evaluate.slices")
    if not isinstance(job.cluster.workers, int):
        raise JobFileError("a range of workers is not supported yet", "give one number", "cluster.workers")


def refuse_qlora() -> None:
    """Say why a 4-bit base cannot be trained here: no GPU, no bitsandbytes, or not built yet."""
    import torch

    missing = [] if torch.cuda.is_available() else ["no GPU was found"]
    if find_spec("bitsandbytes") is None:
        missing.append("bitsandbytes is not installed")
    why = " and ".join(missing) if missing else "4-bit loading is not built yet, although this machine has a GPU"
    raise JobFileError(f"train.method qlora cannot run: {why}", "use train.method: lora", "train.method")


def prepare(job: JobSpec, store: Store, progress: Progress) -> str:
    """Return the key of the job's prepared data set in the store, made now unless it is there."""
    tokenizer = load_tokenizer(job.base)
    template = template_of(tokenizer, job.data.template)
    max_length = _max_length(job)
    problems = SourceProblems()
    parts = _read(job, problems)
    data_hash = _rows_hash(parts)
    key = _key(job, data_hash, template, max_length)
    rows = sum(len(part) for part in parts.values())
    if store.is_committed("data", key):
        progress.say(f"data: {rows:,} rows, prepared before")
        return key
    progress.say(f"data: {rows:,} rows; auditing, splitting, tokenising")
    with store.writing("data", key) as directory:
        _build(job, parts, problems, template, max_length, data_hash, directory)
    return key


def _read(job: JobSpec, problems: SourceProblems) -> dict[str, list[Row]]:
    """Read every file that the job names, by the split it was given for."""
    data = job.data
    parts = {TRAIN: list(read_rows(data.train, data, "train", problems))}
    if not parts[TRAIN]:
        raise DataError(f"{', '.join(data.train)} holds no rows", "check the path and the format", "data.train")
    if data.validation:
        parts[VALIDATION] = list(read_rows(data.validation, data, VALIDATION, problems))
    for name, paths in data.test.items():
        parts[name] = list(read_rows(paths, data, name, problems))
    require_columns(data, problems.columns_seen)
    for source in data.mix or []:
        raise JobFileError(f"the mixture source {source.name} cannot be read yet", "remove data.mix", "data.mix")
    return parts


def _build(
    job: JobSpec,
    parts: dict[str, list[Row]],
    problems: SourceProblems,
    template: Template,
    max_length: int,
    data_hash: str,
    directory: Path,
) -> None:
    parts, fixed = fix_rows(parts, job.data.audit)
    rows = [row for part in parts.values() for row in part]
    given = [name for name in parts if name != TRAIN]
    origin = np.repeat(np.arange(len(parts)), [len(part) for part in parts.values()])
    hashes, near = row_hashes(rows), near_duplicate_pairs(near_texts(rows), job.data.audit.near_similarity)
    names = [TRAIN, *([] if VALIDATION in given else [VALIDATION]), *([] if job.data.test else ["test"]), *given]
    split_of = _divide(job, rows, hashes, near, origin, names, list(parts))
    encoded = list(encode_rows(rows, template, job.data.loss_on, max_length))
    lost = np.asarray([e.kept_targets == 0 for e in encoded])
    if lost.all():
        raise DataError(
            f"no row keeps a target token within {max_length} tokens (train.max_length)",
            "raise train.max_length, or shorten the prompts",
            "data",
        )
    counts = TokenCounts(
        np.asarray([e.length for e in encoded]),
        np.asarray([e.targets for e in encoded]),
        np.asarray([e.kept_targets for e in encoded]),
        max_length,
    )
    findings = audit(AuditData(rows, split_of, names, hashes, near, given, problems, counts), job.data.audit)
    splits = [
        Split(name, [rows[i] for i in chosen], [encoded[i] for i in chosen])
        for place, name in enumerate(names)
        if len(chosen := np.flatnonzero((split_of == place) & ~lost).tolist())
    ]
    _write(job, splits, findings, fixed, template, max_length, data_hash, directory)


def _divide(
    job: JobSpec,
    rows: Sequence[Row],
    hashes: Any,
    near: Any,
    origin: np.ndarray,
    names: list[str],
    given: list[str],
) -> np.ndarray:
    """Return each row's place in ``names``: given files keep their rows, the training file's rows are divided."""
    split_of = np.asarray([names.index(given[place]) for place in origin.tolist()])
    spec = job.data.split.model_copy(
        update={
            "validation": 0.0 if job.data.validation else job.data.split.validation,
            "test": 0.0 if job.data.test else job.data.split.test,
        }
    )
    own = np.flatnonzero(origin == 0)
    groups = inseparable_groups(rows, hashes, near)
    drawn = assign_splits([rows[i] for i in own.tolist()], type(hashes)(*(h[own] for h in hashes)), groups[own], spec)
    place_of = np.asarray([0, names.index(VALIDATION), names.index("test") if "test" in names else 0])
    split_of[own] = place_of[drawn]
    return split_of


def _write(
    job: JobSpec,
    splits: list[Split],
    findings: list[Finding],
    fixed: dict[str, int],
    template: Template,
    max_length: int,
    data_hash: str,
    directory: Path,
) -> None:
    for split in splits:
        write_rows(directory / "rows" / f"{split.name}.parquet", split.rows)
        TokenSet.write(directory / "tokens" / f"{split.name}.arrow", ((e.ids_T, e.is_target_T) for e in split.encoded))
    train = splits[0]
    labelled = all(row.label is not None and row.label == row.completion for row in train.rows)
    task: Task = "classification" if labelled else "generation" if train.rows[0].prompt else "text"
    labels = sorted({str(row.label) for row in train.rows}) if labelled else []
    choose_metrics(task, job.evaluate.metrics, len(labels))
    record = PreparedRecord(
        data_hash=data_hash,
        task=task,
        labels=labels,
        template=template.source,
        max_length=max_length,
        tests=[split.name for split in splits if split.name not in (TRAIN, VALIDATION)],
        splits={split.name: _count(split) for split in splits},
        lengths={split.name: _lengths(split) for split in splits},
        findings=findings,
        fixed=fixed,
    )
    (directory / "prepared.json").write_text(record.model_dump_json(indent=2), encoding="utf-8")


def _count(split: Split) -> SplitCount:
    return SplitCount(
        rows=len(split.rows),
        tokens=sum(len(e.ids_T) for e in split.encoded),
        target_tokens=sum(e.kept_targets for e in split.encoded),
    )


def _lengths(split: Split) -> Lengths:
    lengths = np.asarray([len(e.ids_T) for e in split.encoded])
    return Lengths(
        longest=int(lengths.max()),
        median=int(np.median(lengths)),
        p95=int(np.percentile(lengths, 95)),
        longest_targets=max(e.kept_targets for e in split.encoded),
    )


def _max_length(job: JobSpec) -> int:
    """Return the job's length, bounded by what the base can read; refuse a longer one that the user asked for."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(job.base, trust_remote_code=False)
    context = getattr(config, "max_position_embeddings", None) or job.train.max_length
    if job.train.max_length > context and job.train.max_length_given:
        raise JobFileError(
            f"train.max_length is {job.train.max_length}, and the base reads {context} tokens",
            f"set train.max_length to {context} or less",
            "train.max_length",
        )
    return min(job.train.max_length, int(context))


def _rows_hash(parts: dict[str, list[Row]]) -> str:
    digest = hashlib.sha256()
    for name, rows in parts.items():
        digest.update(f"\x1c{name}".encode())
        for row in rows:
            digest.update(json.dumps([row.messages, row.label, row.references, row.group]).encode())
    return digest.hexdigest()


def _key(job: JobSpec, data_hash: str, template: Template, max_length: int) -> str:
    """Hash all that shapes the prepared set: rows, splits, audit, template, tokenizer, lengths."""
    data = job.data.model_dump(mode="json", include={"loss_on", "split", "audit"})
    vocabulary = hashlib.sha256(template.tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
    shaping = [FORM, data_hash, data, template.source, vocabulary, max_length, job.evaluate.metrics]
    return hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()[:32]


def _report(prepared: Prepared, plan: Any) -> CheckReport:
    record = prepared.record
    ok = all(finding.severity != "error" for finding in record.findings)
    return CheckReport(ok=ok, findings=record.findings, splits=record.splits, plan=plan)


def _errors(findings: Sequence[Finding]) -> str:
    shown = [f"{f.code} in {f.count:,} rows ({', '.join(f.rows[:3])})" for f in findings if f.severity == "error"]
    return f"the audit found errors: {'; '.join(shown)}"
