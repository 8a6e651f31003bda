"""A prepared data set, its check report and its job → the page that `hone check --report` writes.

What a person must decide comes first: may this be trained on, and what is wrong, each finding with rows that show it.
Then how hone understood the data, so that a wrong guess is seen before it costs a run, and what the run will do. It is
made from the prepared set and the report on it, without the files they came from. Personal data is masked everywhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from cluster.charts import Bar, bars
from cluster.fitting import format_bytes
from cluster.pages import (
    Cell,
    Section,
    Tile,
    badge,
    banner,
    element,
    facts,
    folded,
    joined,
    page,
    table,
    tiles,
    visible,
)
from cluster.resources import plan_facts
from trainers.audit_evidence import counted
from trainers.check_data import classes_section, lengths_section, reading_section, splits_section
from trainers.prepared import TRAIN
from trainers.token_view import example_section
from trainers.turn_view import turn_line, turns_block

if TYPE_CHECKING:
    from cluster.errors import HoneError
    from cluster.records import CheckReport, Finding, Plan
    from cluster.spec import JobSpec
    from trainers.prepared import Prepared
    from trainers.report_records import Example, Excerpt, FileRecord

OPEN_EXAMPLES = 2
LIKE = {
    "duplicate_exact": "repeats",
    "duplicate_near": "nearly repeats",
    "leakage_exact": "is also at",
    "leakage_near": "is nearly the same as",
    "conflicting_answers": "has the same input as",
}
SEVERITIES = ("error", "warning", "note")


def check_page(
    job: JobSpec, prepared: Prepared, report: CheckReport, tokenizer: Any, refused: HoneError | None = None
) -> str:
    """Return the page as HTML; ``refused`` is why the report has no plan."""
    sections = [
        _findings(report.findings, prepared.record.examples),
        reading_section(prepared.record.files, prepared.record.fixed, job),
        splits_section(prepared, job),
        lengths_section(prepared),
        classes_section(prepared),
        example_section(prepared, tokenizer, job.data.template is not None),
        _plan(report.plan, refused),
    ]
    foot = f"Made by hone from the data set {prepared.record.data_hash}."
    head = _head(job, prepared, report, refused)
    return page(job.name, "Data check", head, [section for section in sections if section is not None], foot)


def unusable_page(
    job: JobSpec,
    report: CheckReport,
    refused: HoneError,
    examples: Sequence[Sequence[Example]],
    files: Sequence[FileRecord],
) -> str:
    """Return the page of data of which no row can be trained on: what is wrong, and how the files were read."""
    verdict = banner("error", "Nothing to train on", f"{refused.what}. {refused.remedy}")
    sections = [_findings(report.findings, examples), reading_section(files, report.fixed, job)]
    return page(job.name, "Data check", verdict + _named(job, files), sections, "Made by hone; nothing was prepared.")


def _head(job: JobSpec, prepared: Prepared, report: CheckReport, refused: HoneError | None) -> Markup:
    told = _severities(report.findings) or "nothing"
    if not report.ok:
        verdict = banner("error", "Not fit to train on", f"Mend the errors first. The audit found {told}.")
    elif refused is not None:
        verdict = banner("error", "The data is fit to train on, but the run is refused", refused.what)
    elif any(finding.severity == "warning" for finding in report.findings):
        verdict = banner("warning", "Fit to train on, with warnings", f"Read them first. The audit found {told}.")
    else:
        verdict = banner("good", "Fit to train on", f"The audit found {told}.")
    return verdict + _tiles(job, report) + _named(job, prepared.record.files)


def _named(job: JobSpec, files: Sequence[FileRecord]) -> Markup:
    return facts([("base", job.base), ("method", job.train.method), ("data", ", ".join(_sources(files)))])


def _severities(findings: Sequence[Finding]) -> str:
    found = Counter(finding.severity for finding in findings)
    return ", ".join(counted(found[severity], severity) for severity in SEVERITIES if found[severity])


def _sources(files: Sequence[FileRecord]) -> list[str]:
    names = [file.name for file in files]
    return names[:3] + [f"and {counted(len(names) - 3, 'file')} more"] * (len(names) > 3)


def _tiles(job: JobSpec, report: CheckReport) -> Markup:
    train = report.splits[TRAIN]
    held_out = sum(count.rows for name, count in report.splits.items() if name != TRAIN)
    found = [
        Tile(f"{train.rows:,}", "training rows", f"{held_out:,} held out"),
        Tile(
            f"{train.target_tokens:,}", "target tokens", f"{train.target_tokens / train.tokens:.0%} of {train.tokens:,}"
        ),
        Tile(f"{len(report.findings):,}", "findings", _severities(report.findings)),
    ]
    if report.plan is not None:
        peak = sum(report.plan.memory_bytes.values())
        found.append(Tile(f"{report.plan.steps:,}", "steps", f"{job.train.epochs:g} epochs of {job.train.batch_size}"))
        found.append(Tile(format_bytes(peak), "a worker's peak", f"{report.plan.workers} × {report.plan.device}"))
    return tiles(found)


def _findings(findings: Sequence[Finding], examples: Sequence[Sequence[Example]]) -> Section:
    if not findings:
        return Section("Findings", element("p", "None of the audit's checks found anything."))
    rows: list[list[Cell]] = []
    for place, finding in enumerate(findings):
        link = Markup('<a href="#finding-{}"><code>{}</code></a>').format(place, finding.code)
        rows.append([badge(finding.severity, finding.severity), link, f"{finding.count:,}", finding.detail])
    overview = table(["severity", "finding", "rows", "what was seen"], rows, numeric={2})
    blocks = [_finding(place, *pair) for place, pair in enumerate(zip(findings, examples, strict=True))]
    lead = "Errors first. Counted are the rows that would have to go; texts are shortened, personal data is masked."
    return Section("Findings", overview + joined(blocks), lead)


def _finding(place: int, finding: Finding, examples: Sequence[Example]) -> Markup:
    number = counted(finding.count, "row") if finding.count else "no row has to go"
    title = badge(finding.severity, finding.severity) + element("code", finding.code) + element("small", number)
    blocks = [element("h3", title), element("p", finding.detail), element("p", finding.remedy, "remedy")]
    shown = [_example(finding.code, example) for example in examples]
    blocks += shown[:OPEN_EXAMPLES]
    if shown[OPEN_EXAMPLES:]:
        blocks.append(
            folded(f"{counted(len(shown) - OPEN_EXAMPLES, 'further example')}", joined(shown[OPEN_EXAMPLES:]))
        )
    return Markup('<article id="finding-{}" class="finding {}">{}</article>').format(
        place, finding.severity, joined(blocks)
    )


def _example(code: str, example: Example) -> Markup:
    blocks = [_excerpt(example.row, "")]
    if example.note:
        blocks.append(element("p", example.note, "place"))
    if example.like is not None:
        same = example.like.turns == example.row.turns
        other = example.like.model_copy(update={"turns": [], "left_out": 0}) if same else example.like
        blocks.append(element("div", _excerpt(other, LIKE.get(code, "is like")), "like"))
    return element("div", joined(blocks), "example")


def _excerpt(row: Excerpt, relation: str) -> Markup:
    split = f" in {row.split}" if row.split else ""
    place = element("p", f"{relation} {row.where}{split}".strip(), "place")
    label = turn_line("label", visible(row.label)) if row.label is not None else Markup("")
    return place + turns_block(row.turns, row.left_out) + label


def _plan(plan: Plan | None, refused: HoneError | None) -> Section:
    if plan is None:
        said = banner("error", refused.what, f"{refused.where} {refused.remedy}".strip()) if refused else Markup("")
        return Section("Plan", said, "There is none: the run was refused before it was planned.")
    parts = [Bar(name, size, format_bytes(size)) for name, size in plan.memory_bytes.items() if size]
    peak = sum(plan.memory_bytes.values())
    blocks = [facts(plan_facts(plan)), element("h3", "Memory of one worker at its peak"), bars(parts)]
    if plan.available_bytes:
        share = f"{format_bytes(peak)} of {format_bytes(plan.available_bytes)} ({peak / plan.available_bytes:.1%})"
        blocks.append(bars([Bar("peak, of what there is", peak, share)], plan.available_bytes))
    blocks.append(element("p", f"Predicted by {plan.formula}", "soft") if plan.formula else Markup(""))
    lead = Markup("What <code>hone train</code> will do, decided before any worker starts.")
    return Section("Plan", joined(blocks), lead)
