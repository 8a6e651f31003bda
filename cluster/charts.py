"""Numbers → bars, intervals and histograms as inline SVG, for the pages of ``cluster.pages``.

A chart is read without colour and without a pointer: every bar has its number beside it or on an axis, and a bound is
a dashed line with its name. Bars and intervals are drawn in per cent of their cell, so they follow the width of the
page. Lines over steps are in ``cluster.curves``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from cluster.pages import Cell, element, joined, visible

WIDTH, HEIGHT = 760, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 26, 44
MAX_REACH = 1.5
"""A bound further to the right than this many times the last bar is named at the edge instead of drawn to scale."""

DotKind = Literal["full", "hollow", "square", "hollow square"]


@dataclass(frozen=True)
class Bar:
    """One bar: its name, its length, and the number as it is written beside it."""

    label: Cell
    value: float
    shown: str


@dataclass(frozen=True)
class Bins:
    """Counts of rows in bins of one width, beginning at 0; the last one holds all beyond if ``is_open``."""

    width: int
    counts: Sequence[int]
    is_open: bool = False


@dataclass(frozen=True)
class Bound:
    """A bound to be marked on an axis: its name, and the first value beyond it."""

    at: float
    name: str


@dataclass(frozen=True)
class Span:
    """A value with its interval, if it has one, drawn with a dot of a ``kind`` and written beside it.

    Spans of one ``group``, which is written before the first of them, follow each other.
    """

    group: str
    label: str
    value: float
    shown: str
    interval: tuple[float, float] | None = None
    kind: DotKind = "full"


def bars(found: Sequence[Bar], whole: float = 0.0) -> Markup:
    """Return horizontal bars, the longest (or ``whole``) as long as the cell."""
    most = max([whole, *(bar.value for bar in found)], default=0.0) or 1.0
    rows = joined(
        Markup('<tr><td>{}</td><td>{}</td><td class="number">{}</td></tr>').format(
            visible(bar.label), _bar(bar.value / most), bar.shown
        )
        for bar in found
    )
    return Markup('<div class="wide"><table class="bars"><tbody>{}</tbody></table></div>').format(rows)


def _bar(share: float) -> Markup:
    return Markup(
        '<svg aria-hidden="true"><rect class="track" width="100%" height="100%" rx="3"/>'
        '<rect class="bar" width="{:.2f}%" height="100%" rx="3"/></svg>'
    ).format(max(100 * share, 0.3 if share else 0.0))


def spans(found: Sequence[Span], ticks: Sequence[float]) -> Markup:
    """Return values as dots with whiskers, one a row, on one axis from the first to the last of the ``ticks``."""
    low, high = ticks[0], ticks[-1]

    def percent(value: float) -> float:
        return 100 * min(max((value - low) / (high - low), 0.0), 1.0)

    grid = joined(
        Markup('<line class="grid" x1="{0:.2f}%" x2="{0:.2f}%" y1="0" y2="100%"/>').format(percent(tick))
        for tick in ticks
    )
    rows = joined(
        Markup(
            '<tr class="{}"><td>{}{}</td><td><svg aria-hidden="true">{}{}</svg></td><td class="number">{}</td></tr>'
        ).format(
            "first" if is_first else "",
            element("code", span.group) if is_first else Markup(""),
            element("small", span.label),
            grid,
            _span(span, percent),
            span.shown,
        )
        for is_first, span in _firsts(found)
    )
    labels = joined(
        Markup('<text x="{:.2f}%" y="12" text-anchor="middle">{:g}</text>').format(percent(tick), tick)
        for tick in ticks
    )
    axis = Markup('<tr aria-hidden="true"><td></td><td><svg>{}</svg></td><td></td></tr>').format(labels)
    return Markup('<div class="wide"><table class="bars spans"><tbody>{}{}</tbody></table></div>').format(rows, axis)


def _firsts(found: Sequence[Span]) -> Iterator[tuple[bool, Span]]:
    for place, span in enumerate(found):
        yield not place or found[place - 1].group != span.group, span


def _span(span: Span, percent: Callable[[float], float]) -> Markup:
    at = percent(span.value)
    whisker = Markup("")
    if span.interval is not None:
        ends = [percent(end) for end in span.interval]
        whisker = Markup('<line class="whisker" x1="{:.2f}%" x2="{:.2f}%" y1="50%" y2="50%"/>').format(*ends)
        whisker += joined(
            Markup('<line class="whisker" x1="{0:.2f}%" x2="{0:.2f}%" y1="25%" y2="75%"/>').format(end) for end in ends
        )
    if span.kind.endswith("square"):
        dot = '<rect class="dot {}" x="{:.2f}%" y="50%" width="9" height="9" transform="translate(-4.5 -4.5)"/>'
    else:
        dot = '<circle class="dot {}" cx="{:.2f}%" cy="50%" r="5"/>'
    return whisker + Markup(dot).format(span.kind, at)


def histogram(bins: Bins, unit: str, name: str, bound: Bound | None = None) -> Markup:
    """Return a histogram over ``unit``; bars wholly beyond the bound are set apart."""
    end = bins.width * len(bins.counts)
    reach = max(end, bound.at * 1.02) if bound is not None and bound.at <= MAX_REACH * end else end
    scale = (WIDTH - LEFT - RIGHT) / reach
    parts = [
        *_rows_axis(max(bins.counts, default=0)),
        *_bars(bins, scale, bound),
        *_values_axis(bins, unit, scale, reach),
    ]
    if bound is not None:
        parts.append(_bound(bound, scale, reach))
    drawn = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, name, joined(parts)
    )
    return Markup('<div class="wide">{}</div>').format(drawn)


def _bars(bins: Bins, scale: float, bound: Bound | None) -> Iterator[Markup]:
    most = max(bins.counts, default=0) or 1
    for place, count in enumerate(bins.counts):
        low = place * bins.width
        is_last = bins.is_open and place == len(bins.counts) - 1
        span = f"{low:,} or more" if is_last else f"{low:,} to {low + bins.width - 1:,}"
        height = max((HEIGHT - TOP - BOTTOM) * count / most, 1.0 if count else 0.0)
        yield Markup(
            '<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}: {:,}</title></rect>'
        ).format(
            "bar beyond" if bound is not None and low >= bound.at else "bar",
            LEFT + low * scale + 0.5,
            HEIGHT - BOTTOM - height,
            max(bins.width * scale - 1, 0.5),
            height,
            span,
            count,
        )


def _rows_axis(most: int) -> Iterator[Markup]:
    step = nice_step(most, 4)
    for value in range(0, most + 1, step):
        y = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / max(most, 1)
        yield Markup('<line class="{}" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(
            "grid" if value else "axis", LEFT, WIDTH - RIGHT, y, y
        )
        yield _label(LEFT - 8, y + 4, f"{value:,}", "end")


def _values_axis(bins: Bins, unit: str, scale: float, reach: float) -> Iterator[Markup]:
    step = nice_step(int(reach), 8)
    base = HEIGHT - BOTTOM
    open_from = (len(bins.counts) - 1) * bins.width if bins.is_open else reach
    middle = scale / 2 if bins.width == 1 else 0.0
    for value in range(0, int(reach) + 1, step):
        x = LEFT + value * scale + middle
        if x > WIDTH - RIGHT:
            break
        yield Markup('<line class="axis" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>').format(x, base, base + 5)
        if value < open_from or not bins.is_open:
            yield _label(x, base + 19, f"{value:,}", "middle")
    if bins.is_open:
        yield _label(WIDTH - RIGHT, base + 19, "and more", "end")
    yield _label(LEFT + (WIDTH - LEFT - RIGHT) / 2, HEIGHT - 6, unit, "middle")


def _bound(bound: Bound, scale: float, reach: float) -> Markup:
    if bound.at > reach:
        return _label(WIDTH - RIGHT, TOP - 10, f"{bound.name} lies further right →", "end", "marked")
    x = LEFT + bound.at * scale
    line = Markup('<line class="marker" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>').format(
        x, TOP - 6, HEIGHT - BOTTOM
    )
    anchor = "end" if x > WIDTH / 2 else "start"
    return line + _label(x, TOP - 10, bound.name, anchor, "marked")


def _label(x: float, y: float, text: str, anchor: str, css: str = "") -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}" class="{}">{}</text>').format(x, y, anchor, css, text)


def nice_step(reach: int, num_steps: int) -> int:
    """Return the smallest of 1, 2, 5, 10, 20, … of which ``num_steps`` cover ``reach``."""
    step = 1
    while step * num_steps < reach:
        leading = int(str(step)[0])
        step = step * 5 // 2 if leading == 2 else step * 2
    return step
