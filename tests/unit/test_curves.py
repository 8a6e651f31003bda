"""Line charts: points lie where their axes say, thinning loses no end and no extreme, and words say what is drawn."""

from __future__ import annotations

import re
from math import inf, isclose, log10, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from cluster.curves import (
    BOTTOM,
    HEIGHT,
    MAX_POINTS,
    MAX_TICKS,
    SPAN,
    TOP,
    Mark,
    Series,
    curve,
    smoothed,
    thinned,
    value_axis,
    written,
)
from tests.page_outline import Outline

LOWEST, HIGHEST = HEIGHT - BOTTOM, TOP

finite = st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: round(value, 6))


def drawn_points(markup: Markup) -> list[list[tuple[float, float]]]:
    """Return the points of every line in the chart's own coordinates, without those of the legend."""
    chart = markup[: markup.index("</figure>")].split('<ul class="keys">')[0]
    lines = re.findall(r'<polyline class="[a-z]+" points="([^"]*)"', chart)
    return [[tuple(map(float, point.split(","))) for point in line.split(" ")] for line in lines]


def test_points_lie_where_their_axes_say():
    markup = curve("t", "u", [Series("a", [(0, 0.0), (50, 5.0), (100, 10.0)])])
    assert drawn_points(markup) == [[(0.0, LOWEST), (SPAN / 2, (LOWEST + HIGHEST) / 2), (SPAN, HIGHEST)]]


def test_values_far_apart_lie_on_a_logarithmic_axis_that_says_so():
    series = [Series("a", [(0, 1.0), (50, 10.0), (100, 100.0)])]
    markup = curve("t", "u", series)
    assert drawn_points(markup) == [[(0.0, LOWEST), (SPAN / 2, (LOWEST + HIGHEST) / 2), (SPAN, HIGHEST)]]
    assert "(logarithmic)" in markup
    straight = curve("t", "u", series, is_linear=True)
    assert "(logarithmic)" not in straight
    assert drawn_points(straight)[0][1][1] == pytest.approx(LOWEST - 0.1 * (LOWEST - HIGHEST))


def test_two_series_share_their_axes():
    markup = curve("t", "u", [Series("a", [(0, 0.0), (100, 10.0)]), Series("b", [(50, 5.0), (100, 5.0)])])
    middle = (LOWEST + HIGHEST) / 2
    assert drawn_points(markup)[1] == [(SPAN / 2, middle), (SPAN, middle)]


def test_the_best_step_and_a_level_are_marked_where_they_are():
    markup = curve("t", "u", [Series("a", [(0, 0.0), (100, 10.0)])], Mark(25, "best: step 25"), Mark(2.5, "clipped"))
    assert '<line class="marker" x1="25.00%" x2="25.00%"' in markup
    assert f'<line class="marker" x1="0" x2="100%" y1="{LOWEST - (LOWEST - HIGHEST) / 4:.1f}"' in markup
    assert {"best: step 25", "clipped"} <= set(re.findall(r'class="marked"[^>]*>([^<]*)<', markup))


def test_a_level_outside_the_axis_is_not_drawn():
    assert "marked" not in curve("t", "u", [Series("a", [(0, 0.0), (100, 10.0)])], level=Mark(99.0, "far"))


def test_a_chart_is_described_in_words():
    markup = curve("Loss", "nats", [Series("training", [(1, 4.0), (2, 5.0), (3, 0.5)])])
    outline = Outline(markup)
    assert ("svg", "img") in [(tag, attributes.get("role")) for tag, attributes in outline.tags]
    assert "<title>Loss</title>" in markup
    said = "from 4 at step 1 to 0.5 at step 3, lowest 0.5 at step 3, highest 5 at step 2"
    assert f"<desc>training: {said}.</desc>" in markup


def test_values_that_are_not_finite_are_counted_not_drawn():
    markup = curve("t", "u", [Series("a", [(1, 1.0), (2, nan), (3, inf), (4, 2.0)])])
    (line,) = drawn_points(markup)
    assert len(line) == 2
    assert "2 not finite, left out" in Outline(markup).text
    assert curve("t", "u", [Series("a", [(1, nan)])]) == ""


def test_a_single_point_is_seen():
    assert '<circle class="main" cx="100.00%"' in curve("t", "u", [Series("a", [(3, 7.0)])])


@given(st.lists(finite, min_size=1, max_size=400), st.integers(4, 60))
def test_thinning_keeps_ends_and_extremes(values: list[float], most: int):
    points = list(enumerate(values))
    kept = thinned(points, most)
    assert len(kept) <= most
    assert kept == sorted(set(kept)), "in order, none twice"
    assert set(kept) <= set(points)
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert {min(values), max(values)} <= {value for _, value in kept}


def test_a_spike_in_a_long_curve_is_drawn():
    points = [(step, 1.0) for step in range(100_000)]
    points[77_777] = (77_777, 9.0)
    (line,) = drawn_points(curve("t", "u", [Series("a", points)]))
    assert len(line) <= MAX_POINTS
    assert min(y for _, y in line) < LOWEST / 2


@pytest.mark.parametrize("window", [1, 5, 9])
def test_smoothing_is_the_mean_of_the_steps_around(window: int):
    values = np.random.default_rng(0).normal(size=50)
    found = smoothed(list(enumerate(values.tolist())), window)
    inner = np.convolve(values, np.ones(window) / window, mode="valid")
    half = window // 2
    np.testing.assert_allclose([value for _, value in found[half : len(found) - half]], inner, atol=1e-12)
    assert found[0][1] == pytest.approx(values[: half + 1].mean())
    assert found[-1][1] == pytest.approx(values[len(values) - half - 1 :].mean())
    assert [step for step, _ in found] == list(range(50))


@given(st.lists(finite, min_size=1, max_size=20), st.booleans())
def test_an_axis_holds_its_values_between_a_few_round_ticks(values: list[float], is_linear: bool):
    low, high = min(values), max(values)
    axis = value_axis(low, high, is_linear=is_linear)
    slack = 1e-9 * max(1.0, abs(low), abs(high))
    assert axis.low <= low + slack
    assert high - slack <= axis.high
    assert 2 <= len(axis.ticks) <= MAX_TICKS
    assert -1e-6 <= axis.frac(low) <= axis.frac(high) <= 1 + 1e-6
    if not axis.is_log:
        step = axis.ticks[1] - axis.ticks[0]
        leading = step / 10 ** round(log10(step) - 0.35)
        assert any(isclose(leading, digit, rel_tol=1e-3) for digit in (0.5, 1, 2, 5, 10))


@pytest.mark.parametrize(
    ("value", "step", "text"),
    [
        (0.0, 0.1, "0"),
        (0.5, 0.1, "0.5"),
        (1.0, 0.05, "1.00"),
        (20_000.0, 5000.0, "20,000"),
        (2e-5, 5e-6, "2e-5"),
        (1.5e-3, 5e-4, "1.5e-3"),
        (0.6931, 0.0, "0.6931"),
        (1945.25, 0.0, "1,945"),
        (123456.0, 0.0, "123,456"),
    ],
)
def test_numbers_are_written_with_the_digits_that_matter(value: float, step: float, text: str):
    assert written(value, step) == text
