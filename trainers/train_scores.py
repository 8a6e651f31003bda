"""Scores of several models on the same tests → the report's section: a table a test, and intervals drawn to one scale.

Whether tuning helped is read from the interval of the paired difference, not from two intervals that overlap or do
not: what a hard row does to both models cancels in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from markupsafe import Markup

from cluster.charts import DotKind, Span, spans
from cluster.curves import value_axis
from cluster.pages import Cell, Section, badge, element, folded, joined, table, visible
from cluster.records import Interval, Metrics
from trainers.audit_evidence import counted
from trainers.metrics import METRICS

if TYPE_CHECKING:
    from trainers.evaluation import Scored

ROLES: dict[str, tuple[str, DotKind]] = {
    "base": ("base", "hollow"),
    "base_few_shot": ("base, few-shot", "hollow square"),
    "champion": ("champion", "square"),
    "tuned": ("tuned", "full"),
}
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def scores_section(scored: Scored, validation: Metrics, best_step: int) -> Section:
    """Return every model's scores on every test, slices after the tests, and the validation scores."""
    tests = sorted(scored.rows, key=lambda test: test in scored.slices)
    blocks = [joined(_test(test, scored)) for test in tests if scored.rows[test]]
    if not blocks:
        blocks.append(element("p", "No rows were held out for a test: nothing says how this model does on new ones."))
    if validation:
        told = ", ".join(f"{name} {value:.4g}" for name, value in validation.items())
        blocks.append(element("p", f"On the validation rows, which chose step {best_step:,}: {told}.", "soft"))
    lead = "On held-out rows, with 95 % intervals (percentile bootstrap over rows); differences are paired, row by row."
    return Section("Scores", joined(blocks), lead)


def _test(test: str, scored: Scored) -> Iterator[Markup]:
    tables = {role: scored.of(role).get(test, {}) for role in ROLES}
    tables = {role: metrics for role, metrics in tables.items() if metrics}
    apart = "a slice that no rule without its name judges, " if test in scored.slices else ""
    small = element("small", f"{apart}{counted(scored.rows[test], 'example')}")
    yield element("h3", visible(test) + Markup(" ") + small)
    yield _table(tables, _by_role(scored, test))
    drawn = joined(_charts(tables, _by_role(scored, test)))
    yield (
        drawn if test == next(iter(scored.rows)) else folded(f"The scores on {test}, drawn with their intervals", drawn)
    )


def _by_role(scored: Scored, test: str) -> dict[str, dict[str, Interval]]:
    return {role: tests.get(test, {}) for role, tests in scored.intervals.items()}


def _table(tables: Mapping[str, Metrics], intervals: Mapping[str, Mapping[str, Interval]]) -> Markup:
    names = dict.fromkeys(name for metrics in tables.values() for name in metrics)
    has_difference = bool(intervals.get("difference"))
    rows: list[list[Cell]] = []
    for name in names:
        cells: list[Cell] = [element("code", name)]
        cells += [_value(metrics.get(name), intervals.get(role, {}).get(name)) for role, metrics in tables.items()]
        if has_difference:
            cells += list(_difference(name, intervals["difference"].get(name)))
        rows.append(cells)
    extra = ["difference", ""] if has_difference else []
    head = ["", *(ROLES[role][0] for role in tables), *extra]
    return table(head, rows, numeric=range(1, len(tables) + 1 + has_difference))


def _value(value: float | None, interval: Interval | None) -> Cell:
    if value is None:
        return "–"
    span = element("small", f"{_number(interval.low)} to {_number(interval.high)}") if interval else Markup("")
    return visible(_number(value)) + span


def _difference(name: str, found: Interval | None) -> tuple[Cell, Cell]:
    if found is None:
        return "–", ""
    shown = visible(_number(found.value, "+")) + element(
        "small", f"{_number(found.low, '+')} to {_number(found.high, '+')}"
    )
    if found.low <= 0 <= found.high:
        return shown, badge("note", "not clear")
    is_better = (found.value > 0) == METRICS[name].higher_is_better
    return shown, badge("good", "better") if is_better else badge("error", "worse")


def _number(value: float, sign: str = "") -> str:
    return (f"{value:{sign},.3f}" if abs(value) < 100 else f"{value:{sign},.0f}").replace("-", "−")


def _charts(tables: Mapping[str, Metrics], intervals: Mapping[str, Mapping[str, Interval]]) -> Iterator[Markup]:
    """Yield shares on one axis from 0 to 1, and the loss on an axis of its own; perplexity follows from the loss."""
    names = dict.fromkeys(name for metrics in tables.values() for name in metrics)
    shares = [name for name in names if METRICS[name].is_share]
    if shares:
        yield spans([span for name in shares for span in _spans(name, tables, intervals)], SHARES)
    if "loss" in names:
        drawn = list(_spans("loss", tables, intervals))
        reach = max([span.value for span in drawn] + [span.interval[1] for span in drawn if span.interval])
        yield spans(drawn, value_axis(0.0, reach).ticks)


def _spans(name: str, tables: Mapping[str, Metrics], intervals: Mapping[str, Mapping[str, Interval]]) -> Iterator[Span]:
    for role, metrics in tables.items():
        if name in metrics:
            found = intervals.get(role, {}).get(name)
            said, kind = ROLES[role]
            ends = (found.low, found.high) if found else None
            yield Span(name, said, metrics[name], _number(metrics[name]), ends, kind)
