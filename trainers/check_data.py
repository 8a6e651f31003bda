"""A prepared data set → the sections of its report about the data: how it was read, divided, how long, which classes.

Nothing is decided here; numbers come from the prepared record and, where it holds none, from the columns of the rows.
Files that were read alike are one line, however many a pattern matched.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

from markupsafe import Markup

from cluster.charts import Bar, Bins, Bound, bars, histogram
from cluster.pages import Cell, Section, element, facts, folded, joined, table, visible
from cluster.personal_data import mask_personal_data
from trainers.audit_evidence import counted
from trainers.prepared import TRAIN, VALIDATION

if TYPE_CHECKING:
    from cluster.records import Fixed
    from cluster.spec import JobSpec
    from trainers.prepared import Prepared, PreparedRecord
    from trainers.report_records import FileRecord, Histogram, Lengths

SHOWN_FILES = 5
SHOWN_CLASSES, SHOWN_SMALL_CLASSES = 20, 10
MAX_CLASSES = 1000
MEANINGS = {
    "messages": "the turns, by their roles",
    "prompt": "the user's turn",
    "input": "added to the user's turn",
    "completion": "the answer, learned",
    "system": "the system turn",
    "references": "further right answers",
    "group": "rows of one value stay in one split",
    "synthetic": "marks made-up rows",
}


def reading_section(read: Sequence[FileRecord], fixed: dict[str, Fixed], job: JobSpec) -> Section:
    """Return how the format of every file was inferred and what its columns became, and what was mended."""
    alike: defaultdict[str, list[FileRecord]] = defaultdict(list)
    for file in read:
        alike[file.model_dump_json(exclude={"name", "records", "rows"})].append(file)
    rows = [_reading(files) for files in alike.values()]
    head = ["files", "read for", "written as", "columns, and what they became", "rows"]
    body = [table(head, rows, numeric={4}), element("h3", "Fixes asked for"), *_fixes(job, fixed)]
    lead = "The format is inferred from the names of the columns alone, for every file by itself."
    return Section("How the files were read", joined(body), lead)


def _reading(files: Sequence[FileRecord]) -> list[Cell]:
    first = files[0]
    records, rows = sum(file.records for file in files), sum(file.rows for file in files)
    unread = element("small", f"of {records:,} records") if rows < records else Markup("")
    became = [(theirs, _meaning(first.format, ours)) for ours, theirs in first.columns.items()]
    became += [(name, "not used") for name in first.unused]
    mapped = joined(
        Markup("<div><code>{}</code> → {}</div>").format(visible(name), meaning) for name, meaning in became
    )
    return [
        _names([file.name for file in files]),
        first.source,
        visible(first.format) + element("small", f" since {first.reason}"),
        mapped,
        Markup("{} {}").format(f"{rows:,}", unread),
    ]


def _meaning(written_as: str, ours: str) -> str:
    if ours == "text":
        return "the text, learned" if written_as == "text" else "the user's turn"
    if ours == "label":
        return "the answer, learned" if written_as == "classification" else "the row's class"
    return MEANINGS[ours]


def _names(names: Sequence[str]) -> Markup:
    shown = joined(
        Markup('<div title="{}"><code>{}</code></div>').format(visible(name), visible(PurePath(name).name or name))
        for name in names[:SHOWN_FILES]
    )
    more = len(names) - SHOWN_FILES
    return shown + element("small", f"and {counted(more, 'file')} more") if more > 0 else shown


def _fixes(job: JobSpec, fixed: dict[str, Fixed]) -> Iterator[Markup]:
    asked = job.data.audit.fix
    if not asked:
        yield element("p", "None: every row is as it was read (data.audit.fix).", "soft")
        return
    rows: list[list[Cell]] = []
    for code in asked:
        fix = fixed.get(code)
        number = [f"{fix.mended:,}", f"{fix.dropped:,}"] if fix else ["0", "0"]
        rows.append([element("code", code), *number, ", ".join(fix.rows) if fix else "nothing to fix"])
    yield table(["code", "rows mended", "rows dropped", "first places"], rows, numeric={1, 2})


def splits_section(prepared: Prepared, job: JobSpec) -> Section:
    """Return the size and make-up of every split, and the sources of a mixture."""
    record = prepared.record
    rows: list[list[Cell]] = []
    for name, count in record.splits.items():
        rows.append(
            [
                visible(name) + element("small", f" {_origin(name, job)}"),
                f"{count.rows:,}",
                f"{record.inputs[name]:,}",
                f"{record.copies[name]:,}",
                f"{prepared.num_references(name):,}",
                f"{prepared.num_synthetic(name):,}",
                f"{record.without_target[name]:,}",
                f"{count.tokens:,}",
                f"{count.target_tokens:,}",
            ]
        )
    head = [
        "split",
        "rows",
        "distinct inputs",
        "copies",
        "references",
        "synthetic",
        "left out",
        "tokens",
        "target tokens",
    ]
    lead = (
        "Rows that share an input are references of one example in evaluation, and copies never straddle splits made "
        "here; references are further right answers that a row lists. Left out are rows without an answer and rows of "
        "which max_length cuts the whole target; the other numbers are without them."
    )
    return Section("Splits", table(head, rows, numeric=range(1, 9)) + _mixture(prepared, job), lead)


def _origin(name: str, job: JobSpec) -> str:
    given = {TRAIN: job.data.train, VALIDATION: job.data.validation, **job.data.test}
    if name == TRAIN:
        return "what the other splits leave"
    if given.get(name):
        return "from a file of its own"
    share = job.data.split.validation if name == VALIDATION else job.data.split.test
    return f"drawn: {share:.0%} of the rows, seed {job.data.split.seed}"


def _mixture(prepared: Prepared, job: JobSpec) -> Markup:
    if not job.data.mix:
        return Markup("")
    drawn = prepared.counts(TRAIN, "source")
    read: defaultdict[str, int] = defaultdict(int)
    for file in prepared.record.files:
        read[file.source] += file.rows
    weights = {TRAIN: 1.0} | {source.name: source.weight for source in job.data.mix}
    rows = [
        [
            name,
            f"{weight:g}",
            f"{read[name]:,}",
            f"{drawn[name]:,}",
            f"{drawn[name] / drawn.total():.1%}",
        ]
        for name, weight in weights.items()
    ]
    head = ["source", "weight", "rows read", "rows in train", "share of train"]
    return element("h3", "Sources of the mixture") + table(head, rows, numeric={1, 2, 3, 4})


def lengths_section(prepared: Prepared) -> Section:
    """Return histograms of tokens and target tokens: of the training rows, and folded those of other splits."""
    record = prepared.record
    blocks = [_lengths(TRAIN, record.lengths[TRAIN], record)]
    blocks += [
        folded(f"The same for {name}", _lengths(name, lengths, record))
        for name, lengths in record.lengths.items()
        if name != TRAIN
    ]
    lead = "Drawn are whole rows, before max_length cuts them on the right. Target tokens are those that carry loss."
    return Section("Lengths", joined(blocks), lead)


def _lengths(split: str, lengths: Lengths, record: PreparedRecord) -> Markup:
    max_length, without = record.max_length, record.without_target[split]
    bound = Bound(max_length + 1, f"max_length {max_length:,}")
    cut = f"{counted(lengths.cut, 'row')} longer than max_length {max_length:,}"
    cut += f" lose {counted(lengths.cut_targets, 'target token')}"
    kept = f"median {lengths.median:,}, 95 % of the rows {lengths.p95:,} or fewer, longest {lengths.longest:,} tokens"
    numbers = [("cut", cut if lengths.cut else f"no row of these is longer than max_length {max_length:,}")]
    if without:
        numbers.append(
            (
                "left out",
                f"{counted(without, 'row')} without an answer or without a target token that is kept, not drawn here",
            )
        )
    numbers += [("kept", f"{kept}; at most {lengths.longest_targets:,} target tokens in a row")]
    return joined(
        [
            facts(numbers),
            element("h3", f"Rows of {split} by tokens"),
            histogram(_bins(lengths.tokens), "tokens in a row", f"rows of {split} by tokens", bound),
            element("h3", f"Rows of {split} by target tokens"),
            histogram(_bins(lengths.targets), "target tokens in a row", f"rows of {split} by target tokens"),
        ]
    )


def _bins(found: Histogram) -> Bins:
    return Bins(found.width, found.counts, found.is_open)


def classes_section(prepared: Prepared) -> Section | None:
    """Return how many rows each label has; None where no row has a label, or nearly every row one of its own."""
    counts = {name: prepared.counts(name, "label") for name in prepared.record.splits}
    train = counts[TRAIN]
    if not train or len(train) > MAX_CLASSES:
        return None
    total = sum(train.values())
    ranked = sorted(train.items(), key=lambda item: (-item[1], item[0]))
    found = [Bar(_label(label), num, f"{num:,} ({num / total:.1%})") for label, num in ranked]
    body = bars(found)
    if len(found) > SHOWN_CLASSES + SHOWN_SMALL_CLASSES:
        hidden = len(found) - SHOWN_CLASSES - SHOWN_SMALL_CLASSES
        gap = element("p", f"{counted(hidden, 'class', 'classes')} between these are in the table below.", "soft")
        whole = found[0].value
        body = bars(found[:SHOWN_CLASSES]) + gap + bars(found[-SHOWN_SMALL_CLASSES:], whole)
    labels = sorted({label for split in counts.values() for label in split}, key=lambda label: (-train[label], label))
    rows = [[_label(label), *(f"{split[label]:,}" for split in counts.values())] for label in labels]
    every = table(["label", *counts], rows, numeric=range(1, len(counts) + 1))
    unlabelled = prepared.record.splits[TRAIN].rows - total
    lead = f"{counted(len(train), 'class', 'classes')} in {total:,} training rows, the largest first"
    lead += f"; {counted(unlabelled, 'row')} without a label." if unlabelled else "."
    return Section("Classes", body + folded("Every class in every split", every), lead)


def _label(label: str) -> str:
    return mask_personal_data(label)[:80] or "(empty)"
