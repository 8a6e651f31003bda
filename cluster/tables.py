"""Records → the lines a person reads on a terminal.

Plain text in fixed columns; nothing here computes a number that a record does not hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from cluster.records import Interval, SweepResult

if TYPE_CHECKING:
    from cluster.acceptance_records import SliceTable
    from cluster.compare_records import CompareReport, ReviewReport, ReviewSample
    from cluster.errors import HoneError
    from cluster.records import CheckReport, EvalReport, GateReport, Metrics, RunStatus, TrainResult
    from cluster.run_places import ListedRun


def columns(rows: Sequence[Sequence[str]], indent: str = "  ") -> list[str]:
    """Return rows of cells as lines, each column as wide as its widest cell, the first one left-aligned."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return [
        indent
        + "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def check_lines(report: CheckReport, refused: HoneError | None = None) -> list[str]:
    """Return what `hone check` shows: splits, fixes, findings, plan, verdict; ``refused`` is why there is no plan."""
    from cluster.resources import format_plan

    head = [["split", "rows", "tokens", "target tokens"]]
    splits = [[name, f"{s.rows:,}", f"{s.tokens:,}", f"{s.target_tokens:,}"] for name, s in report.splits.items()]
    lines = columns(head + splits) if splits else []
    if report.fixed:
        lines.append("")
    for code, fix in report.fixed.items():
        done = [f"{num:,} rows {what}" for num, what in ((fix.mended, "mended"), (fix.dropped, "dropped")) if num]
        more = ", …" if fix.mended + fix.dropped > 3 else ""
        lines.append(f"  fixed    {code}: {', '.join(done)} ({', '.join(fix.rows[:3])}{more})")
    if report.findings:
        lines.append("")
    for finding in report.findings:
        places = f" ({', '.join(finding.rows[:3])}{', …' if finding.count > 3 else ''})" if finding.rows else ""
        lines.append(f"  {finding.severity:<7}  {finding.code}: {finding.count:,} rows. {finding.detail}{places}")
        if finding.remedy:
            lines.append(f"           → {finding.remedy}")
    if report.plan is not None:
        lines += ["", *(f"  {line}" for line in format_plan(report.plan))]
    verdict = "fit to train on" if report.ok else "not fit to train on: mend the errors above"
    if report.ok and refused is not None:
        verdict = "the data is fit to train on, but the run is refused"
    return [*lines, "", f"  {verdict}"]


def result_lines(result: TrainResult, report: str, ui_command: str) -> list[str]:
    """Return a finished run: base against tuned with intervals, the gate, where the release is, what to do next.

    ``report`` is where the run's page lies, ``ui_command`` shows the run in MLflow.
    """
    lines = [""]
    for kind in ("", "_slices"):
        for split, tuned in _by_test(result.metrics.get(f"test{kind}", {})).items():
            lines += _comparison(split, kind, tuned, result)
    if isinstance(result, SweepResult):
        lines += ["", *_search_lines(result)]
    lines += ["", *gate_lines(result.gate), "", f"  release  {result.release}"]
    if result.version is not None:
        lines.append(f"  version  {result.version}")
    lines += [
        f"  report   {report}",
        f"  training {result.steps:,} steps, {result.throughput.examples_per_s:,.0f} examples/s, "
        f"{result.throughput.target_tokens_per_s:,.0f} target tokens/s",
        "",
        "  next     hone list",
        f"           hone status {result.run}",
        f"           hone evaluate {result.version or result.release} --data FILE",
        f"           {ui_command}",
    ]
    return lines


def _search_lines(result: SweepResult) -> list[str]:
    """Return what was searched, what the winner set, and how it compares with the job's own values."""
    set_to = ", ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in result.best.params.items()
    )
    ended = f"{result.trials} trials, {result.pruned} pruned, {result.failed} failed"
    lines = [f"  search   {ended} (study {result.study})", f"           winner {result.best.value:.4f}: {set_to}"]
    lines.append(f"           {result.comparison}")
    for place, point in enumerate(result.pareto or ()):
        paid = ", ".join(f"{name} {amount:.3g}" for name, amount in point.items() if isinstance(amount, float))
        lines.append(f"  {'front' if place == 0 else '':<8} {paid}")
    return lines


def _by_test(metrics: Metrics | dict[str, Metrics]) -> dict[str, Metrics]:
    """Return scores by test name; a single unnamed test is `test`."""
    nested = any(isinstance(value, dict) for value in metrics.values())
    return cast("dict[str, Metrics]", metrics if nested else {"test": metrics} if metrics else {})


def _comparison(split: str, kind: str, tuned: Metrics, result: TrainResult) -> list[str]:
    """Return the table of one test; of a slice where ``kind`` is "_slices"."""
    base, prompted = (
        _by_test(result.metrics.get(f"{role}{kind}", {})).get(split, {}) for role in ("base", "base_few_shot")
    )

    def shown(role: str, name: str, value: float | None) -> str:
        if value is None:
            return ""
        found = result.intervals.get(f"{role}{kind}", {})
        inner = found.get(split, found) if isinstance(found, dict) else {}
        interval = inner.get(name) if isinstance(inner, dict) else None
        span = f" [{interval.low:.3f}, {interval.high:.3f}]" if isinstance(interval, Interval) else ""
        return f"{value:.3f}{span}"

    head = [split, "base", *(["few-shot"] if prompted else []), "tuned", "difference"]
    rows = [head]
    for name, value in tuned.items():
        middle = [shown("base_few_shot", name, prompted.get(name))] if prompted else []
        difference = _difference(result, f"difference{kind}", split, name)
        rows.append([name, shown("base", name, base.get(name)), *middle, shown("test", name, value), difference])
    return columns(rows)


def _difference(result: TrainResult, role: str, split: str, name: str) -> str:
    found = result.intervals.get(role, {})
    inner = found.get(split, found) if isinstance(found, dict) else {}
    interval = inner.get(name) if isinstance(inner, dict) else None
    return (
        f"{interval.value:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]" if isinstance(interval, Interval) else ""
    )


def gate_lines(gate: GateReport) -> list[str]:
    """Return the gate's rules with the numbers they compared, and its decision."""
    marks = {True: "holds", False: "fails", None: "undecided"}
    rows = [
        f"           {rule.rule}: {marks[rule.passed]}{_numbers(rule.left, rule.right)}{_note(rule.note)}"
        for rule in gate.rules
    ]
    return [f"  gate     {gate.decision}", *rows]


def _numbers(left: float | None, right: float | None) -> str:
    return f" ({left:.4g} against {right:.4g})" if left is not None and right is not None else ""


def _note(note: str) -> str:
    return f"; {note}" if note else ""


def score_lines(report: EvalReport) -> list[str]:
    """Return one model's scores with their intervals."""
    rows = [[f"{report.rows:,} rows", "score", "95 % interval"]]
    for name, value in report.metrics.items():
        interval = report.intervals.get(name)
        rows.append([name, f"{value:.4f}", f"[{interval.low:.4f}, {interval.high:.4f}]" if interval else ""])
    lines = columns(rows)
    for column, table in report.slices.items():
        lines += ["", *slice_lines(column, table)]
    return [*lines, f"  predictions: {report.predictions}"]


def compare_lines(report: CompareReport) -> list[str]:
    """Return every model's scores, each later one's difference from the first, and which does best by a metric."""
    first, *_ = report.models
    lines: list[str] = []
    for name in first.metrics:
        rows = [[name, "score", "95 % interval", f"less {first.model}"]]
        for model in report.models:
            span = model.intervals.get(name)
            found = report.differences.get(model.model, {}).get(name)
            value = model.metrics.get(name)
            rows.append(
                [
                    model.model,
                    "" if value is None else f"{value:.4f}",
                    f"[{span.low:.4f}, {span.high:.4f}]" if span else "",
                    f"{found.value:+.4f} [{found.low:+.4f}, {found.high:+.4f}]" if found else "",
                ]
            )
        lines += [*columns(rows), *_best(report, name), ""]
    return [*lines, f"  {report.examples:,} of {report.of:,} examples", *(f"  {note}" for note in report.notes)]


def _best(report: CompareReport, name: str) -> list[str]:
    best = report.best.get(name)
    if best is None:
        return []
    return [f"  best: {best.model}" if best.clear else f"  not clear: {best.model} is ahead, within the noise"]


def sample_lines(sample: ReviewSample) -> list[str]:
    """Return where a sample for raters lies, and what to do with it."""
    lines = [f"  {sample.items:,} of {sample.of:,} answers of {sample.run} to {sample.test}: {sample.file}"]
    if sample.config:
        return [*lines, f"  Label Studio: labelling configuration in {sample.config}; import its JSON export"]
    return [*lines, "  rate from 1 (bad) to 5 (good), correct where you can, then: hone review import FILE"]


def review_lines(report: ReviewReport) -> list[str]:
    """Return what people said."""
    mean, agreed = report.mean_rating, report.agreement
    numbers = [
        f"{name} {value:.3f}"
        for name, value in (("alpha", agreed.krippendorff_alpha), ("kappa", agreed.cohen_kappa))
        if value is not None
    ]
    told = f"{', '.join(numbers) or 'no number'} over {agreed.items:,} items rated more than once"
    return [
        f"  rating     {mean.value:.2f} of 5 [{mean.low:.2f}, {mean.high:.2f}], {report.items:,} items",
        f"  raters     {report.raters}, {report.ratings:,} ratings; agreement: {told}",
        f"  rows       {report.rows:,} ({report.corrections:,} corrections): {report.file}",
        "  their inputs are a test's: train on them with data that is divided anew, never beside that test",
    ]


def slice_lines(column: str, table: SliceTable) -> list[str]:
    """Return one column's slices, largest first, with their first score; those too small to score say so."""
    first = next((name for score in table.slices.values() for name in score.metrics), "")
    rows = [[column, "examples", first]]
    for value, score in table.slices.items():
        found = score.intervals.get(first)
        span = f" [{found.low:.3f}, {found.high:.3f}]" if found else ""
        number = f"{score.metrics[first]:.3f}{span}" if first in score.metrics else "undecided: too few"
        rows.append([value, f"{score.examples:,}", number])
    gap = table.gap.get(first)
    return columns(rows) + ([f"  gap {gap.value:.3f} [{gap.low:.3f}, {gap.high:.3f}]"] if gap else [])


def run_lines(runs: Sequence[ListedRun]) -> list[str]:
    """Return one line a run, newest first."""
    if not runs:
        return ["no runs yet; `hone demo` makes one"]
    head = [["run", "state", "stage", "step", "where", "why"]]
    rows = [[r.run, r.state, r.stage, f"{r.step}/{r.steps}" if r.steps else "", r.where, r.why] for r in runs]
    widest = max(len(r.why) for r in runs)
    return columns([[*row[:-1], row[-1].ljust(widest)] for row in head + rows], "")


def status_lines(status: RunStatus) -> list[str]:
    """Return where one run stands."""
    from cluster.progress import numbers

    step = f", step {status.step} of {status.steps}" if status.steps else ""
    stage = f" in {status.stage}" if status.stage else ""
    lines = [f"{status.run}: {status.state}{stage}{step}", numbers(status), status.why]
    return [line for line in lines if line]
