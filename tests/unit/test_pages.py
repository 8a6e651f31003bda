from __future__ import annotations

import re

import pytest
from markupsafe import Markup

from cluster import charts
from cluster.charts import Bar, Bins, Bound, Span
from cluster.curves import Mark, Series, curve
from cluster.page_style import STYLE
from cluster.pages import Section, Tile, badge, banner, element, facts, folded, page, table, tiles, visible
from tests.page_outline import Outline, refuse_fetching_or_running

EVIL = "<script>alert('x')</script><img src=x onerror=alert(1)> & \"quoted\""


BLOCKS = {
    "visible": visible(EVIL),
    "table": table([EVIL], [[EVIL]]),
    "facts": facts([(EVIL, EVIL)]),
    "tiles": tiles([Tile(EVIL, EVIL, EVIL)]),
    "element": element("p", EVIL, "soft"),
    "badge": badge("error", EVIL),
    "banner": banner("error", EVIL, EVIL),
    "folded": folded(EVIL, visible(EVIL)),
    "bars": charts.bars([Bar(EVIL, 1, EVIL)]),
    "spans": charts.spans([Span(EVIL, EVIL, 0.5, EVIL, (0.2, 0.7))], (0.0, 1.0)),
    "curve": curve(EVIL, EVIL, [Series(EVIL, [(1, 2.0), (2, 3.0)], has_dots=True)] * 2, Mark(1, EVIL), Mark(2.5, EVIL)),
    "histogram": charts.histogram(Bins(1, [1]), EVIL, EVIL, Bound(1, EVIL)),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_no_block_lets_text_become_markup(name: str):
    outline = Outline(BLOCKS[name])
    assert {"script", "img"}.isdisjoint(tag for tag, _ in outline.tags)
    assert "<script>alert('x')</script>" in outline.text


def test_a_page_of_everything_is_well_formed_and_fetches_and_runs_nothing():
    sections = [Section(name, block, EVIL) for name, block in BLOCKS.items()]
    text = page(EVIL, EVIL, BLOCKS["banner"], sections, EVIL)
    refuse_fetching_or_running(text)
    assert "default-src 'none'" in text
    assert Outline(text).text.count("<script>alert('x')</script>") >= 3 * len(BLOCKS)


def test_markup_is_taken_as_it_is():
    assert table(["n"], [[Markup("<b>1</b>")]]).count("<b>1</b>") == 1


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("a\x00b", "U+0000"),
        ("a\u202eb", "U+202E"),
        ("a\u200bb", "U+200B"),
        ("a\ud83db", "U+D83D"),
        ("a\U000e0041b", "U+E0041"),
        ("a\rb", "U+000D"),
    ],
)
def test_unprinted_characters_are_spelled_out(text: str, spelled: str):
    assert Outline(visible(text)).text == f"a{spelled}b"
    assert visible(text).encode()


@pytest.mark.parametrize("text", ["a\n\tb", "ß 日本 👩‍👩‍👧 می‌خواهم", "\ufffd"])
def test_printed_characters_stay(text: str):
    assert visible(text) == text


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours as #RRGGBB (WCAG 2.2, definition of contrast ratio)."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(
    ("text", "back"),
    [
        *((name, back) for name in ("ink", "soft", "link", "odd", "second") for back in ("paper", "panel")),
        ("ink", "target"),
        ("ink", "special"),
        *((tone, f"{tone}-back") for tone in ("good", "error", "warning", "note")),
    ],
)
def test_text_stands_out_from_what_is_behind_it(theme: str, text: str, back: str):
    found = re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", STYLE)
    half = len(found) // 2
    colours = dict(found[:half] if theme == "light" else found[half:])
    assert contrast(colours[text], colours[back]) >= 4.5


def drawn_bars(markup: str) -> list[tuple[str, float, float]]:
    found = re.findall(r'<rect class="(bar[a-z ]*)" x="([\d.]+)" [^>]*? height="([\d.]+)"><title>', markup)
    return [(css, float(x), float(height)) for css, x, height in found]


def test_a_histogram_draws_every_count_in_proportion():
    counts = [0, 5, 20, 10]
    heights = [height for _, _, height in drawn_bars(charts.histogram(Bins(10, counts), "tokens", "rows"))]
    assert heights == pytest.approx(
        [height / 20 * max(heights) for height in counts], abs=0.1
    )  # one decimal is written


def test_bars_beyond_a_bound_are_set_apart_and_the_bound_is_named():
    markup = charts.histogram(Bins(10, [1, 2, 3, 4]), "tokens", "rows", Bound(21, "max_length 20"))
    assert [css for css, _, _ in drawn_bars(markup)] == ["bar", "bar", "bar", "bar beyond"]
    assert "max_length 20</text>" in markup
    far = charts.histogram(Bins(10, [1, 2]), "tokens", "rows", Bound(1025, "max_length 1,024"))
    assert "max_length 1,024 lies further right" in far
    assert 'class="marker"' not in far


def test_an_open_last_bin_says_so():
    markup = charts.histogram(Bins(10, [3, 1], is_open=True), "tokens", "rows")
    assert "<title>10 or more: 1</title>" in markup
    assert "and more</text>" in markup


def test_bars_are_as_long_as_their_values():
    widths = re.findall(r'class="bar" width="([\d.]+)%"', charts.bars([Bar("a", 50, ""), Bar("b", 25, "")], whole=100))
    assert widths == ["50.00", "25.00"]


@pytest.mark.parametrize(("reach", "step"), [(0, 1), (8, 1), (9, 2), (17, 5), (41, 10), (160, 20), (161, 50)])
def test_axes_are_divided_into_round_steps(reach: int, step: int):
    assert charts.nice_step(reach, 8) == step


def test_intervals_are_drawn_where_their_axis_has_them():
    markup = charts.spans(
        [
            Span("accuracy", "base", 0.5, "0.500", (0.25, 0.75), "hollow"),
            Span("accuracy", "tuned", 2.0, "2.000"),
        ],
        (0.0, 0.5, 1.0),
    )
    dots = re.findall(r'class="dot ([a-z ]+)" cx="([\d.]+)%"', markup)
    assert dots == [("hollow", "50.00"), ("full", "100.00")], "what lies beyond the axis is drawn at its end"
    assert re.findall(r'class="whisker" x1="([\d.]+)%" x2="([\d.]+)%" y1="50%"', markup) == [("25.00", "75.00")]
    assert Outline(markup).text.count("accuracy") == 1, "a group is named before its first span"
