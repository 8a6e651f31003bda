"""Trials → scatters, bundles of curves and parallel coordinates as inline SVG, for the sweep's page.

Drawn like the charts of ``cluster.curves``: places across in per cent, down in pixels, so text keeps its size; what
must stretch lives in a coordinate system of its own. A trial's state is told by shape as well as by colour: full dots
finished, hollow ones were pruned, crosses diverged. Every dot names its trial.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log10
from typing import Literal

from markupsafe import Markup

from cluster.curves import Axis, value_axis, written
from cluster.pages import element, joined, visible

HEIGHT, TOP, BOTTOM, GUTTER = 224, 14, 24, 58
PARALLEL_HEIGHT, PARALLEL_WIDTH, EDGE = 320, 900, 64
SPAN = 1000
Kind = Literal["full", "hollow", "cross", "best"]
KINDS: dict[Kind, str] = {
    "full": "finished its budget",
    "hollow": "pruned",
    "cross": "diverged",
    "best": "the winner",
}


@dataclass(frozen=True)
class Scale:
    """A horizontal or parallel axis: numbers on an ``axis``, or ``names`` at equal distances."""

    axis: Axis | None
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, values: Sequence[object], *, is_log: bool = False, ends: tuple[float, float] | None = None) -> Scale:
        """Return a scale that holds the values: of numbers from end to end, or of names in order of appearance."""
        numbers = [float(value) for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
        if len(numbers) < len(values) or not numbers:
            return cls(None, tuple(dict.fromkeys(str(value) for value in values)))
        low, high = ends or (min(numbers), max(numbers))
        if is_log and 0 < low < high:
            return cls(Axis(low, high, _log_ticks(low, high), is_log=True))
        return cls(value_axis(low, high, is_linear=True))

    def frac(self, value: object) -> float:
        """Return where a value lies, 0 to 1."""
        if self.axis is None:
            return (self.names.index(str(value)) + 0.5) / len(self.names)
        assert isinstance(value, (int, float)), value
        return self.axis.frac(float(value))

    def ticks(self) -> list[tuple[float, str]]:
        """Return the ticks' places, 0 to 1, with their labels."""
        if self.axis is None:
            return [(self.frac(name), name) for name in self.names]
        return [(self.axis.frac(tick), written(tick)) for tick in self.axis.ticks]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(int(log10(low)) - 1, int(log10(high)) + 2)
    steps = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    inside = [step for step in steps if low * (1 - 1e-9) <= step <= high * (1 + 1e-9)]
    whole = [step for step in inside if round(log10(step), 9).is_integer()]
    return (whole if len(inside) > 6 and len(whole) >= 2 else inside) or [low, high]


@dataclass(frozen=True)
class Dot:
    """One trial in a scatter."""

    x: object
    y: float
    kind: Kind
    name: str


@dataclass(frozen=True)
class Strand:
    """One trial's curve: its points, how it ended, and its name."""

    points: Sequence[tuple[float, float]]
    kind: Kind
    name: str


def scatter(title: str, unit: str, x: Scale, dots: Sequence[Dot], line: Sequence[tuple[float, float]] = ()) -> Markup:
    """Return trials as dots, with a line (the best so far) where one is given."""
    if not dots:
        return Markup("")
    y = value_axis(min(dot.y for dot in dots), max(dot.y for dot in dots), is_linear=True)
    parts = [*_frame(x, y)]
    if line:
        parts.append(_stretched([(x.frac(at), _down(y, value)) for at, value in line], "main"))
    parts += [_dot(100 * x.frac(dot.x), _down(y, dot.y), dot.kind, f"{dot.name}: {written(dot.y)}") for dot in dots]
    told = f"{title}: {len(dots)} trials, from {written(min(d.y for d in dots))} to {written(max(d.y for d in dots))}."
    return _figure(title, unit, y, parts, told, [dot.kind for dot in dots])


def bundle(title: str, unit: str, x: Scale, strands: Sequence[Strand], rungs: Sequence[float]) -> Markup:
    """Return all trials' curves in one chart, each with its end marked, and the rungs as dashed lines."""
    drawn = [strand for strand in strands if strand.points]
    if not drawn:
        return Markup("")
    values = [value for strand in drawn for _, value in strand.points]
    y = value_axis(min(values), max(values))
    parts = [*_frame(x, y)]
    parts += [_rung(100 * x.frac(rung)) for rung in rungs]
    for strand in sorted(drawn, key=lambda strand: strand.kind == "best"):
        places = [(x.frac(at), _down(y, value)) for at, value in strand.points]
        parts.append(_stretched(places, "second" if strand.kind == "best" else "faint"))
        at, value = strand.points[-1]
        parts.append(_dot(100 * x.frac(at), _down(y, value), strand.kind, f"{strand.name}: {written(value)}"))
    told = f"{title}: {len(drawn)} trials, from {written(min(values))} to {written(max(values))}."
    return _figure(title, unit, y, parts, told, [strand.kind for strand in drawn])


def parallel(axes: Sequence[tuple[str, Scale]], rows: Sequence[tuple[Sequence[object], Kind, str]]) -> Markup:
    """Return trials as lines across one vertical axis a key; a row has a value (or None) for each axis."""
    gap = (PARALLEL_WIDTH - 2 * EDGE) / max(1, len(axes) - 1)
    inner = PARALLEL_HEIGHT - 2 * BOTTOM - TOP
    parts: list[Markup] = []
    for values, kind, name in sorted(rows, key=lambda row: row[1] == "best"):
        places = [
            f"{EDGE + place * gap:.1f},{TOP + BOTTOM + inner * (1 - scale.frac(value)):.1f}"
            for place, ((_, scale), value) in enumerate(zip(axes, values, strict=True))
            if value is not None
        ]
        parts.append(
            Markup('<polyline class="{}" points="{}"><title>{}</title></polyline>').format(
                kind, " ".join(places), visible(name)
            )
        )
    parts += [_parallel_axis(name, scale, EDGE + place * gap, inner) for place, (name, scale) in enumerate(axes)]
    return Markup(
        '<div class="wide"><svg class="chart parallel" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg></div>'
    ).format(PARALLEL_WIDTH, PARALLEL_HEIGHT, f"Parallel coordinates of {len(rows)} trials", joined(parts))


def _parallel_axis(name: str, scale: Scale, x: float, inner: float) -> Markup:
    top = TOP + BOTTOM
    parts = [Markup('<line class="axis" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>').format(x, top, top + inner)]
    parts.append(Markup('<text class="marked" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(x, TOP, name))
    parts += [
        Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="end">{}</text>').format(
            x - 6, top + inner * (1 - at) + 4, visible(label[-14:])
        )
        for at, label in scale.ticks()
    ]
    return joined(parts)


def _rung(percent: float) -> Markup:
    return Markup('<line class="marker" x1="{0:.2f}%" x2="{0:.2f}%" y1="{1}" y2="{2}"/>').format(
        percent, TOP - 8, HEIGHT - BOTTOM
    )


def _figure(title: str, unit: str, y: Axis, parts: list[Markup], told: str, kinds: Sequence[Kind]) -> Markup:
    step = 0.0 if y.is_log or len(y.ticks) < 2 else y.ticks[1] - y.ticks[0]
    labels = joined(
        Markup('<text x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(
            GUTTER - 8, _down(y, tick) + 4, written(tick, step)
        )
        for tick in y.ticks
    )
    picture = Markup(
        '<div class="plot"><svg class="ticks" width="{}" height="{}" aria-hidden="true">{}</svg>'
        '<svg class="lines" role="img" width="100%" height="{}"><title>{}</title><desc>{}</desc>{}</svg></div>'
    ).format(GUTTER, HEIGHT, labels, HEIGHT, visible(title), visible(told), joined(parts))
    caption = element("figcaption", element("b", title) + visible(f" {unit}"))
    return Markup('<figure class="curve trials">{}{}{}</figure>').format(caption, picture, legend(kinds))


def legend(kinds: Sequence[Kind]) -> Markup:
    """Return what the dots' shapes mean, of those that occur."""
    swatch = Markup('<svg width="14" height="14" aria-hidden="true">{}</svg> {}')
    shown: list[tuple[Kind, str]] = [(kind, text) for kind, text in KINDS.items() if kind in kinds]
    keys = joined(element("li", swatch.format(_dot(7, 7, kind, "", ""), text)) for kind, text in shown)
    return Markup('<ul class="keys">{}</ul>').format(keys)


def _frame(x: Scale, y: Axis) -> Iterator[Markup]:
    for tick in y.ticks:
        yield Markup('<line class="grid" x1="0" x2="100%" y1="{0:.1f}" y2="{0:.1f}"/>').format(_down(y, tick))
    yield Markup('<line class="axis" x1="0" x2="100%" y1="{0}" y2="{0}"/>').format(HEIGHT - BOTTOM)
    for at, label in x.ticks():
        anchor = "start" if at < 0.04 else "end" if at > 0.96 else "middle"
        yield Markup('<line class="axis" x1="{0:.2f}%" x2="{0:.2f}%" y1="{1}" y2="{2}"/>').format(
            100 * at, HEIGHT - BOTTOM, HEIGHT - BOTTOM + 4
        )
        yield Markup('<text x="{:.2f}%" y="{}" text-anchor="{}">{}</text>').format(
            100 * at, HEIGHT - 5, anchor, visible(label[-16:])
        )


def _down(y: Axis, value: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - y.frac(value))


def _stretched(places: Sequence[tuple[float, float]], css: str) -> Markup:
    return Markup(
        '<svg width="100%" height="{0}" viewBox="0 0 {1} {0}" preserveAspectRatio="none" overflow="visible">'
        '<polyline class="{2}" points="{3}"/></svg>'
    ).format(HEIGHT, SPAN, css, " ".join(f"{SPAN * at:.1f},{down:.1f}" for at, down in places))


def _dot(x: float, y: float, kind: Kind, name: str, unit: str = "%") -> Markup:
    titled = element("title", name) if name else Markup("")
    if kind == "cross":
        return Markup(
            '<svg x="{:.2f}{}" y="{:.1f}" overflow="visible"><path class="cross" d="M-4,-4 4,4 M-4,4 4,-4"/>{}</svg>'
        ).format(x, unit, y, titled)
    return Markup('<circle class="{}" cx="{:.2f}{}" cy="{:.1f}" r="{}">{}</circle>').format(
        kind, x, unit, y, 5.5 if kind == "best" else 4, titled
    )
