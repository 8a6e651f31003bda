"""A report on drift → one HTML page in the frame of every report."""

from __future__ import annotations

from datetime import UTC, datetime

from markupsafe import Markup

from cluster.charts import Span, spans
from cluster.pages import Cell, Section, Tile, Tone, banner, element, joined, page, table, tiles
from serving.drift_report import Decision, DriftReport, NewClasses, change_line

KIND = "Drift"
TONES: dict[Decision, Tone] = {"drift": "error", "none": "good", "undecided": "note"}
SAID = {"drift": "Drift", "none": "No drift found", "undecided": "Undecided"}


def drift_page(report: DriftReport) -> str:
    """Return the page."""
    head = joined([banner(TONES[report.decision], SAID[report.decision], report.reason), tiles(_tiles(report))])
    sections = [
        Section("Test", _test(report), "Valid however often it is looked at; every live prompt is tested once."),
        Section("Terms", _terms(report), "Words and pairs of words that one side has more of."),
        Section("Rates", _rates(report)),
        Section("New classes", _new_classes(report.new_class)),
        Section("Outcomes", _changes(report), "Now against the release's first weeks, valid at every look."),
    ]
    when = f"{datetime.fromtimestamp(report.at_s, UTC):%Y-%m-%d %H:%M:%S} UTC"
    return page(report.endpoint, KIND, head, sections, f"{report.release}, looked at {when}")


def _tiles(report: DriftReport) -> list[Tile]:
    drift = "?" if report.drift is None else f"{report.drift:.3f}"
    return [
        Tile(drift, "drift (AUC)", "0.5 = alike, 1 = told apart always"),
        Tile(f"{report.rows:,}", "live prompts compared", "one a user, none twice"),
        Tile(f"{report.reference_rows:,}", "training prompts", report.release),
    ]


def _test(report: DriftReport) -> Markup:
    found: list[Markup] = []
    if report.interval is not None:
        named = {"all": report.interval} | report.blocks
        found.append(
            spans(
                [Span("", name, one.value, f"{one.value:.3f}", (one.low, one.high)) for name, one in named.items()],
                ticks=(0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
            )
        )
    if report.evidence is not None and report.threshold is not None:
        said = f"Evidence {report.evidence:.3g}; drift is found at {report.threshold:g}. {report.tested} prompts tested"
        found.append(element("p", f"{said}, {report.waiting} wait for a full batch."))
    return joined(found) or element("p", "Nothing could be tested.", "soft")


def _terms(report: DriftReport) -> Markup:
    if not report.terms:
        return element("p", "None stands out.", "soft")
    rows: list[list[Cell]] = [
        [
            element("code", term.term),
            "live" if term.direction == "live" else "training",
            "not known" if term.live is None else f"{term.live:.1%}",
            f"{term.reference:.1%}",
            f"{term.weight:+.1f}",
        ]
        for term in report.terms
    ]
    return table(["term", "more in", "of live prompts", "of training prompts", "z"], rows, numeric=(2, 3, 4))


def _rates(report: DriftReport) -> Markup:
    rows = [[rate.name, _number(rate.reference), _number(rate.live)] for rate in report.rates]
    return table(["", "training", "live"], rows, numeric=(1, 2))


def _number(value: float | None) -> str:
    return "not known" if value is None else f"{value:.4g}"


def _new_classes(found: NewClasses | None) -> Markup:
    if found is None:
        return element("p", "Undecided.", "soft")
    said = element("p", f"{found.decision}: {found.reason}")
    rows = [[element("code", label), str(num)] for label, num in found.labels.items()]
    return said + (table(["answer that is no class", "times"], rows, numeric=(1,)) if rows else Markup(""))


def _changes(report: DriftReport) -> Markup:
    lines = [change_line(one) for one in (report.outcome, report.errors) if one is not None]
    return joined(element("p", line) for line in lines) or element("p", "Undecided.", "soft")
