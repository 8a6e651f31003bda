"""Numbers over steps → line charts as inline SVG, for the pages of ``cluster.pages``.

A chart follows the width of its place while its text keeps its size: lines live in a stretched coordinate system of
``SPAN`` units across, everything else is placed in per cent across and pixels down. A series of many steps is thinned
to what can be seen, its ends and extremes kept, so that a page of a million steps stays small and a spike stays seen.
Series differ in stroke and dots as well as in colour; a description in words gives ends and extremes of each.

Left out: hovering (nothing runs in a page), and values that are not finite, which are counted instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor, isfinite, log10
from typing import Literal

from markupsafe import Markup

from cluster.charts import nice_step
from cluster.pages import Cell, element, joined, visible

SPAN = 1000
HEIGHT, TOP, BOTTOM = 224, 22, 22
GUTTER = 54
MAX_POINTS = 600
MAX_DOTS = 40
MAX_TICKS = 8
LOG_FROM = 20.0
"""How many times its smallest value a positive series' largest must be for a logarithmic axis."""

Point = tuple[float, float]
Stroke = Literal["faint", "main", "second"]


@dataclass(frozen=True)
class Series:
    """One line: its name in the legend, its (step, value) points by ascending step, and how it is drawn."""

    name: str
    points: Sequence[Point]
    stroke: Stroke = "main"
    has_dots: bool = False

    @property
    def finite(self) -> list[Point]:
        """The points that can be drawn."""
        return [point for point in self.points if isfinite(point[1])]


@dataclass(frozen=True)
class Axis:
    """A scale from ``low`` to ``high`` with its ticks; logarithmic where ``is_log``."""

    low: float
    high: float
    ticks: Sequence[float]
    is_log: bool = False

    def frac(self, value: float) -> float:
        """Return where a value lies, 0 at ``low`` and 1 at ``high``."""
        low, high, at = (
            (log10(v) for v in (self.low, self.high, value)) if self.is_log else (self.low, self.high, value)
        )
        return (at - low) / (high - low)


@dataclass(frozen=True)
class Mark:
    """A step (or, as a level, a value) that is marked by a dashed line with its name."""

    at: float
    name: str


def curve(
    title: str,
    unit: str,
    series: Sequence[Series],
    best: Mark | None = None,
    level: Mark | None = None,
    *,
    is_linear: bool = False,
    by: str = "step",
) -> Markup:
    """Return a chart of one or more series with its title, legend and a description in words.

    ``best`` marks a step, ``level`` a value; ``is_linear`` keeps the axis of values that lie far apart linear; ``by``
    says what is counted along the chart.
    """
    drawn = [line for line in series if line.finite]
    if not drawn:
        return Markup("")
    values = [value for line in drawn for _, value in line.finite]
    y = value_axis(min(values), max(values), is_linear=is_linear)
    last = max(step for line in drawn for step, _ in line.finite)
    x = Axis(0.0, max(last, 1.0), range(0, int(last) + 1, nice_step(int(last), 5)))
    words = visible(" ".join(described(line, by) for line in drawn))
    parts = [*_grid(x, y), _lines(drawn, x, y), *_dots(drawn, x, y, by), *_level(level, y), *_best(best, x)]
    picture = Markup(
        '<div class="plot">{}<svg class="lines" role="img" width="100%" height="{}"><title>{}</title><desc>{}</desc>'
        "{}</svg></div>"
    ).format(_value_labels(y), HEIGHT, visible(title), words, joined(parts))
    caption = element("figcaption", element("b", title) + visible(f" {unit} by {by}{' (logarithmic)' * y.is_log}"))
    return Markup('<figure class="curve">{}{}{}</figure>').format(caption, picture, _legend(series))


def thinned(points: Sequence[Point], most: int = MAX_POINTS) -> list[Point]:
    """Return at most ``most`` (four or more) points: both ends, and lowest and highest of even stretches between."""
    if len(points) <= most:
        return list(points)
    inner = range(1, len(points) - 1)
    stretches = (most - 2) // 2
    cuts = [1 + round(place * len(inner) / stretches) for place in range(stretches + 1)]
    kept = {0, len(points) - 1}
    for begin, end in pairwise(cuts):
        stretch = range(begin, end)
        kept |= {min(stretch, key=lambda at: points[at][1]), max(stretch, key=lambda at: points[at][1])}
    return [points[at] for at in sorted(kept)]


def smoothed(points: Sequence[Point], window: int) -> list[Point]:
    """Return every finite point with the mean of the ``window`` (odd) points around it; fewer at both ends."""
    known = [point for point in points if isfinite(point[1])]
    sums = [0.0]
    for _, value in known:
        sums.append(sums[-1] + value)
    half = window // 2
    ends = ((max(0, at - half), min(len(known), at + half + 1)) for at in range(len(known)))
    return [
        (point[0], (sums[end] - sums[begin]) / (end - begin)) for point, (begin, end) in zip(known, ends, strict=True)
    ]


def value_axis(low: float, high: float, *, is_linear: bool = False) -> Axis:
    """Return an axis of a few round ticks that holds both values; logarithmic for positive ones far apart."""
    if not is_linear and low > 0 and high / low >= LOG_FROM:
        return _log_axis(low, high)
    if low == high:
        low, high = (low - abs(low) / 2, high + abs(high) / 2) if low else (0.0, 1.0)
    step = _round_step((high - low) / 4)
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    ticks = [round(place * step, 12) for place in range(first, last + 1)]
    return Axis(ticks[0], ticks[-1], ticks)


def _log_axis(low: float, high: float) -> Axis:
    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    steps = [factor * 10.0**power for power in decades for factor in (1, 2, 5)]
    begin = max(place for place, step in enumerate(steps) if step <= low * (1 + 1e-9))
    end = min(place for place, step in enumerate(steps) if step >= high * (1 - 1e-9))
    ticks = steps[begin : end + 1]
    whole = [tick for tick in ticks if round(log10(tick), 9).is_integer()]
    return Axis(ticks[0], ticks[-1], ticks if len(ticks) <= MAX_TICKS else whole[:: ceil(len(whole) / 6)], is_log=True)


def _round_step(rough: float) -> float:
    """Return the nearest of 1, 2 and 5 times a power of ten that is not below ``rough``."""
    power = 10.0 ** floor(log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


def written(value: float, step: float = 0.0) -> str:
    """Return a number for an axis: as many digits as ``step`` needs, powers of ten where it is tiny."""
    if value == 0:
        return "0"
    if (step or abs(value)) < 1e-3:
        digits, _, power = f"{value:.2e}".partition("e")
        return f"{digits.rstrip('0').rstrip('.')}e{int(power)}"
    if not step:
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{value:,.{max(0, -floor(log10(step) + 1e-9))}f}"


def described(series: Series, by: str = "step") -> str:
    """Return a series in words: its ends, its extremes, and how many of its values are not finite."""
    points = series.finite
    ends = " to ".join(f"{written(value)} at {by} {step:,.0f}" for step, value in (points[0], points[-1]))
    low, high = (choose(points, key=lambda point: point[1]) for choose in (min, max))
    return (
        f"{series.name}: from {ends}, lowest {written(low[1])} at {by} {low[0]:,.0f}, highest {written(high[1])} at "
        f"{by} {high[0]:,.0f}{_unfinished(series)}."
    )


def _unfinished(series: Series) -> str:
    missing = len(series.points) - len(series.finite)
    return f" ({missing:,} not finite, left out)" if missing else ""


def _down(y: Axis, value: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - y.frac(value))


def _value_labels(y: Axis) -> Markup:
    step = 0.0 if y.is_log or len(y.ticks) < 2 else y.ticks[1] - y.ticks[0]
    labels = joined(
        Markup('<text x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(
            GUTTER - 8, _down(y, tick) + 4, written(tick, step)
        )
        for tick in y.ticks
    )
    return Markup('<svg class="ticks" width="{}" height="{}" aria-hidden="true">{}</svg>').format(
        GUTTER, HEIGHT, labels
    )


def _grid(x: Axis, y: Axis) -> Iterator[Markup]:
    for tick in y.ticks:
        yield Markup('<line class="grid" x1="0" x2="100%" y1="{0:.1f}" y2="{0:.1f}"/>').format(_down(y, tick))
    yield Markup('<line class="axis" x1="0" x2="100%" y1="{0}" y2="{0}"/>').format(HEIGHT - BOTTOM)
    for tick in x.ticks:
        share = 100 * x.frac(tick)
        anchor = "end" if share > 96 else "middle"
        yield Markup('<line class="axis" x1="{0:.2f}%" x2="{0:.2f}%" y1="{1}" y2="{2}"/>').format(
            share, HEIGHT - BOTTOM, HEIGHT - BOTTOM + 4
        )
        yield Markup('<text x="{:.2f}%" y="{}" text-anchor="{}">{:,}</text>').format(
            share, HEIGHT - 4, anchor, int(tick)
        )


def _lines(series: Sequence[Series], x: Axis, y: Axis) -> Markup:
    """Return the lines in a coordinate system of their own, ``SPAN`` across and stretched to the chart's width."""
    lines = joined(
        Markup('<polyline class="{}" points="{}"/>').format(
            line.stroke,
            " ".join(f"{SPAN * x.frac(step):.1f},{_down(y, value):.1f}" for step, value in thinned(line.finite)),
        )
        for line in series
    )
    return Markup(
        '<svg width="100%" height="{0}" viewBox="0 0 {1} {0}" preserveAspectRatio="none" overflow="visible">{2}</svg>'
    ).format(HEIGHT, SPAN, lines)


def _dots(series: Sequence[Series], x: Axis, y: Axis, by: str) -> Iterator[Markup]:
    for line in series:
        if len(line.finite) == 1 or (line.has_dots and len(line.finite) <= MAX_DOTS):
            for step, value in line.finite:
                yield Markup(
                    '<circle class="{}" cx="{:.2f}%" cy="{:.1f}" r="3.5"><title>{}, {} {:,.0f}: {}</title></circle>'
                ).format(line.stroke, 100 * x.frac(step), _down(y, value), visible(line.name), by, step, written(value))


def _best(best: Mark | None, x: Axis) -> Iterator[Markup]:
    if best is not None:
        share = 100 * x.frac(best.at)
        yield Markup('<line class="marker" x1="{0:.2f}%" x2="{0:.2f}%" y1="{1}" y2="{2}"/>').format(
            share, TOP - 6, HEIGHT - BOTTOM
        )
        anchor = "start" if share < 15 else "end" if share > 85 else "middle"
        yield Markup('<text class="marked" x="{:.2f}%" y="12" text-anchor="{}">{}</text>').format(
            share, anchor, visible(best.name)
        )


def _level(level: Mark | None, y: Axis) -> Iterator[Markup]:
    if level is not None and y.low < level.at < y.high:
        at = _down(y, level.at)
        yield Markup('<line class="marker" x1="0" x2="100%" y1="{0:.1f}" y2="{0:.1f}"/>').format(at)
        yield Markup('<text class="marked" x="100%" y="{:.1f}" text-anchor="end">{}</text>').format(
            at - 5, visible(level.name)
        )


def _legend(series: Sequence[Series]) -> Markup:
    """Return the names of the series beside a piece of each; nothing for a single one, which the title names."""
    if len(series) == 1 and not _unfinished(series[0]):
        return Markup("")

    def swatch(line: Series) -> Cell:
        dot = Markup('<circle class="{}" cx="13" cy="7" r="3.5"/>').format(line.stroke) if line.has_dots else Markup("")
        return Markup(
            '<svg width="26" height="14" aria-hidden="true"><polyline class="{}" points="0,7 26,7"/>{}</svg> '
        ).format(line.stroke, dot)

    keys = joined(element("li", swatch(line) + visible(f"{line.name}{_unfinished(line)}")) for line in series)
    return Markup('<ul class="keys">{}</ul>').format(keys)
