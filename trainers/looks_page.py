"""Robustness, general ability and memorisation → sections of the report, each where the job asked for it.

All of them compare the same rows twice, so what is shown is the paired difference and whether its interval leaves 0.
"""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup

from cluster.acceptance_records import Acceptance, General, Memorisation, Robustness
from cluster.pages import Cell, Section, badge, element, joined, table, visible
from cluster.records import Interval
from trainers.audit_evidence import counted

SHOWN_METRICS = 2


def robustness_section(found: Acceptance) -> Section | None:
    """Return what changed inputs and repeats did on every test; None where none was tried."""
    several = len(found.robustness) > 1
    blocks = [joined(_robustness(test, shown, several=several)) for test, shown in found.robustness.items()]
    if not blocks:
        return None
    lead = "The tuned model asked again, with inputs changed in ways that should not change the right answer."
    return Section("Robustness", joined(blocks), f"{lead} A drop is paired, example by example.")


def general_section(found: Acceptance) -> Section | None:
    """Return base against tuned on general rows; None where there are none."""
    if (general := found.general) is None:
        return None
    lead = "Rows that have nothing to do with the task: what tuning cost elsewhere."
    return Section("General ability", joined(_general(general)), lead)


def memorisation_section(found: Acceptance) -> Section | None:
    """Return how often answers are recited; None where it was not tried."""
    if (seen := found.memorisation) is None:
        return None
    given = f"the prompt and {counted(seen.prefix_tokens, 'token')} of the answer"
    lead = f"Given {given}, are the next {seen.match_tokens} tokens those of the row? Held-out rows are the control."
    return Section("Memorisation", joined(_memorisation(seen)), lead)


def _robustness(test: str, found: Robustness, *, several: bool) -> Iterator[Markup]:
    if several:
        yield element("h3", test)
    metrics = list(dict.fromkeys(name for kind in found.kinds.values() for name in kind.drop))[:SHOWN_METRICS]
    rows: list[list[Cell]] = []
    for kind, seen in found.kinds.items():
        for place, name in enumerate(metrics):
            told = visible(kind) + element("small", f" {seen.changed:,} of {found.examples:,} inputs changed")
            numbers = [_number(seen.clean.get(name)), _number(seen.metrics.get(name))]
            rows.append(["" if place else told, element("code", name), *numbers, *_drop(seen.drop.get(name))])
    yield table(["change", "", "inputs as they are", "changed", "drop", ""], rows, numeric={2, 3, 4})
    if (agreed := found.consistency) is not None:
        told = f"{found.repeats} answers at temperature {found.temperature:g} to each of {found.examples} inputs"
        yield element("p", f"{told} agree to {agreed.value:.3f} ({agreed.low:.3f} to {agreed.high:.3f}).", "soft")


def _general(found: General) -> Iterator[Markup]:
    rows: list[list[Cell]] = [
        [element("code", name), _number(found.base.get(name)), _number(found.tuned.get(name)), *_drop(drop)]
        for name, drop in found.drop.items()
    ]
    yield table(["", "base", "tuned", "worse by", ""], rows, numeric={1, 2, 3})
    told = f"{counted(found.examples, 'row')} of {found.source}."
    if found.left_out:
        told += f" {counted(found.left_out, 'row')} that were also trained on are not among them."
    if (ratio := found.perplexity_ratio) is not None:
        told += f" Perplexity is {ratio.value:.3f} times the base's ({ratio.low:.3f} to {ratio.high:.3f})."
    yield element("p", visible(told), "soft")


def _memorisation(found: Memorisation) -> Iterator[Markup]:
    rows: list[list[Cell]] = [
        ["trained on", f"{found.trained:,}", _number(found.trained_rate)],
        ["held out", f"{found.held_out:,}", _number(found.held_out_rate)],
    ]
    yield table(["answers", "long enough", "recited"], rows, numeric={1, 2})
    if (span := found.memorised) is None:
        yield element("p", f"Undecided: {found.why}.", "soft")
        return
    numbers = f"{_signed(span.value)} ({_signed(span.low)} to {_signed(span.high)})"
    yield element("p", Markup("Recited because trained on: {} {}").format(numbers, _drop(span)[1]))


def _drop(found: Interval | None) -> tuple[Cell, Cell]:
    if found is None:
        return "–", ""
    shown = visible(_signed(found.value)) + element("small", f"{_signed(found.low)} to {_signed(found.high)}")
    if found.low <= 0 <= found.high:
        return shown, badge("note", "not clear")
    return shown, badge("error", "worse") if found.value > 0 else badge("good", "better")


def _signed(value: float) -> str:
    return f"{value:+,.3f}".replace("-", "−")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.3f}"
