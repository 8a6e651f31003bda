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
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.errors import DataError, HoneError, JobFileError, UsageError
from cluster.places import local_directory
from cluster.records import CheckReport, Finding, Plan
from cluster.store import Store
from cluster.trusted_code import loading
from trainers.curve_tracking import refuse_untracked
from trainers.dataset import Form, NothingToTrainOn, Sources, build
from trainers.formats import require_columns
from trainers.gate_rules import parse_rule, refuse_undecidable
from trainers.look_refusals import refuse_blind_looks
from trainers.metric_choice import choose_metrics
from trainers.metrics import OF_VALUES
from trainers.planning import plan_run
from trainers.prepared import TRAIN, VALIDATION, Prepared
from trainers.report_records import FileRecord
from trainers.row_file import RowFile
from trainers.sources import SourceProblems, read_rows
from trainers.templates import load_tokenizer, template_of

if TYPE_CHECKING:
    from cluster.progress import Progress
    from cluster.session import Settings
    from cluster.spec import JobSpec
    from trainers.formats import Layout

FORM = 4
"""Raised whenever the same rows would be prepared otherwise."""


@dataclass(frozen=True)
class Ready:
    """A job whose data and plan passed: what a run starts from."""

    report: CheckReport
    prepared: str
    data_hash: str
    page: str


@dataclass(frozen=True)
class Checked:
    """A job's prepared data set and the report on it; ``refused`` is why there is no plan.

    Where no row can be trained on, there is a report but no ``prepared`` set, and ``refused`` says what was read.
    """

    job: JobSpec
    key: str
    prepared: Prepared | None
    report: CheckReport
    refused: HoneError | None

    @property
    def error(self) -> HoneError | None:
        """What the command ends with, if anything: errors in the data come before a plan that does not fit."""
        if self.refused is None or self.report.ok or self.refused.exit_code == DataError.exit_code:
            return self.refused
        what = f"the audit found errors (above), and {self.refused.what}"
        return DataError(what, self.refused.remedy, self.refused.where)

    def page(self) -> str:
        """Return the report as an HTML page; without a prepared set it shows how files were read and the findings."""
        from trainers.check_page import check_page, unusable_page

        if isinstance(self.refused, NothingToTrainOn):
            return unusable_page(self.job, self.report, self.refused, self.refused.examples, self.refused.files)
        assert self.prepared is not None, "whatever else is refused has a prepared set"
        return check_page(self.job, self.prepared, self.report, load_tokenizer(self.job.base), self.refused)


def ready(job: JobSpec, settings: Settings, progress: Progress) -> Ready:
    """Prepare the data, plan the run, and return both; nothing of the run exists yet.

    Raises DataError where the audit finds errors or no row can be trained on, JobFileError for a gate rule that cannot
    be decided, CapacityError where the plan does not fit.
    """
    checked = _checked(job, settings, progress)
    report = checked.report
    if errors := [finding for finding in report.findings if finding.severity == "error"]:
        raise DataError(_errors(errors), f"{errors[0].remedy} `hone check` shows all findings (--report as a page)")
    if checked.refused is not None:
        raise checked.refused
    assert checked.prepared is not None, "a job that is not refused has a prepared set"
    return Ready(report, checked.key, checked.prepared.record.data_hash, checked.page())


def check(job: JobSpec, settings: Settings, progress: Progress, page: Path | None = None) -> Checked:
    """Return audit, splits and plan of a job without running it, and why it is refused where it is.

    The page is written even then: it shows what is wrong, and what training would see.
    """
    checked = _checked(job, settings, progress)
    if page is not None:
        try:
            page.write_text(checked.page(), encoding="utf-8")
        except OSError as error:
            raise UsageError(
                f"{page} cannot be written: {error.strerror}", "name another file: --report FILE"
            ) from error
        progress.say(f"report: {page}")
    return checked


def _checked(job: JobSpec, settings: Settings, progress: Progress) -> Checked:
    refuse_early(job)
    store = Store(settings.home)
    try:
        key = prepare(job, store, progress)
    except NothingToTrainOn as error:
        report = CheckReport(ok=False, findings=error.findings, splits=error.splits, plan=None, fixed=error.fixed)
        return Checked(job, "", None, report, error)
    prepared = Prepared(store.reading("data", key))
    plan, refused = None, None
    try:
        _refuse_undecidable(job, prepared)
        refuse_blind_looks(job, prepared)
        plan = plan_run(job, prepared, settings)
    except HoneError as error:
        refused = error
    return Checked(job, key, prepared, report_of(prepared, plan), refused)


def _refuse_undecidable(job: JobSpec, prepared: Prepared) -> None:
    """Refuse metrics that a test or slice has nothing for, and gate rules that the scores can never decide."""
    record, asked = prepared.record, job.evaluate.metrics
    computed = dict.fromkeys(record.tests, choose_metrics(record.task, asked, len(record.labels)))
    computed |= {name: choose_metrics(task, asked, 0) for name, task in record.slices.items()}
    if job.evaluate.faithfulness is not None:
        computed |= {name: [*computed[name], *OF_VALUES] for name in record.tests}
    refuse_undecidable(job.gate, computed, record.slices, base_scored=job.evaluate.base)


def refuse_early(job: JobSpec) -> None:
    """Refuse what can be seen without reading the data. Raises JobFileError or BaseModelError."""
    from trainers.model import check_base

    check_base(job.base)
    for rule in job.gate:
        parse_rule(rule, base_scored=job.evaluate.base)
    if job.train.method == "qlora":
        refuse_qlora()
    refuse_untracked(job.tracking)


def refuse_qlora() -> None:
    """Say why a 4-bit base cannot be trained here: no GPU, or no bitsandbytes."""
    from trainers.quantised import missing_here

    if missing := missing_here():
        raise JobFileError(
            f"train.method qlora cannot run: {' and '.join(missing)}", "use train.method: lora", "train.method"
        )


def prepare(job: JobSpec, store: Store, progress: Progress) -> str:
    """Return the key of the job's prepared data set in the store, made now unless it is there."""
    max_length, readable = _max_length(job)
    form = Form(template_of(load_tokenizer(job.base), job.data.template), job.data.loss_on, max_length, readable)
    with store.scratch() as scratch:
        sources = _read(job, scratch)
        key = _key(job, sources, form)
        rows = sum(len(part) for part in sources.parts.values())
        if store.is_committed("data", key):
            progress.say(f"data: {rows:,} rows, prepared before")
            return key
        progress.say(f"data: {rows:,} rows; auditing, splitting, tokenising")
        with store.writing("data", key) as directory:
            build(job, sources, form, directory)
        return key


def _read(job: JobSpec, scratch: Path) -> Sources:
    """Read every file that the job names, by the split it was given for, and keep the rows in ``scratch``."""
    data, problems = job.data, SourceProblems()

    def rows_of(files: Sequence[str], layout: Layout, name: str) -> RowFile:
        place = sum(1 for _ in scratch.iterdir())
        return RowFile.write(scratch / f"{place}.rows", read_rows(files, layout, name, problems))

    parts = {TRAIN: rows_of(data.train, data, TRAIN)}
    if not parts[TRAIN]:
        raise DataError(f"{', '.join(data.train)} holds no rows", "check the path and the format", "data.train")
    if data.validation:
        parts[VALIDATION] = rows_of(data.validation, data, VALIDATION)
    for name, paths in data.test.items():
        parts[name] = rows_of(paths, data, name)
    require_columns(data, problems.columns_seen)
    mixed = {source.name: rows_of(source.train, source, source.name) for source in data.mix or []}
    for source in data.mix or []:
        seen = {name for file in problems.files if file.source == source.name for name in file.columns_seen}
        require_columns(source, seen, f"data.mix, source {source.name}")
    return Sources(parts, mixed, problems, _rows_hash(parts | mixed), scratch)


def _max_length(job: JobSpec) -> tuple[int, int | None]:
    """Return the job's length, bounded by what the base can read, and that bound; refuse a longer one asked for."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(local_directory(job.base), **loading(job.base))
    readable: int | None = getattr(config, "max_position_embeddings", None)
    context = readable or job.train.max_length
    if job.train.max_length > context and job.train.max_length_given:
        raise JobFileError(
            f"train.max_length is {job.train.max_length}, and the base reads {context} tokens",
            f"set train.max_length to {context} or less",
            "train.max_length",
        )
    return min(job.train.max_length, context), readable


def _rows_hash(parts: dict[str, RowFile]) -> str:
    digest = hashlib.sha256()
    for name, rows in parts.items():
        digest.update(f"\x1c{name}".encode())
        for row in rows:
            digest.update(json.dumps([row.messages, row.label, row.references, row.group, row.synthetic]).encode())
    return digest.hexdigest()


def _places_hash(sources: Sources) -> str:
    """Return the hash of the rows with all that is not trained on: where they lie, and further columns."""
    digest = hashlib.sha256()
    for path in sorted(sources.scratch.glob("*.rows")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _key(job: JobSpec, sources: Sources, form: Form) -> str:
    """Hash all that shapes the prepared set: rows, splits, mixture, audit, template, tokenizer, lengths.

    Also each row's place and further columns, what is wrong with rows and how each file was read: findings and report
    name places, so the same rows elsewhere are another set.
    """
    data = job.data.model_dump(mode="json", include={"loss_on", "split", "audit", "mix"})
    tokenizer = form.template.tokenizer.backend_tokenizer.to_str()
    vocabulary = hashlib.sha256(tokenizer.encode()).hexdigest()
    given = list(sources.parts)
    shaping = [FORM, sources.data_hash, given, data, form.template.source, vocabulary, form.max_length, form.readable]
    shaping += [_places_hash(sources), sources.problems, job.evaluate.metrics]
    shaping += [[FileRecord.of(file).model_dump() for file in sources.problems.files]]
    return hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()[:32]


def report_of(prepared: Prepared, plan: Plan | None) -> CheckReport:
    """Return what the audit of a prepared data set said, with a plan."""
    record = prepared.record
    ok = all(finding.severity != "error" for finding in record.findings)
    return CheckReport(ok=ok, findings=record.findings, splits=record.splits, plan=plan, fixed=record.fixed)


def _errors(findings: Sequence[Finding]) -> str:
    shown = [f"{f.code} in {f.count:,} rows ({', '.join(f.rows[:3])})" for f in findings]
    return f"the audit found errors: {'; '.join(shown)}"
