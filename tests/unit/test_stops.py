"""What is shown of a text ends before the first stop text, however the text was cut into pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.stops import StopTexts

TEXTS = st.text(alphabet="ab", max_size=12)
STOPS = st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=3)


def shown(stops: list[str], pieces: list[str]) -> str:
    texts = StopTexts(stops)
    out = ""
    for piece in pieces:
        text, met = texts.feed(piece)
        out += text
        if met:
            return out
    return out + texts.rest()


def first_cut(stops: list[str], text: str) -> str:
    """The same by brute force: the first character at which stop texts are complete, cut at the longest of them."""
    for end in range(len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))]
    return text


@given(STOPS, st.lists(TEXTS, max_size=6))
def test_how_a_text_is_cut_into_pieces_makes_no_difference(stops: list[str], pieces: list[str]):
    assert shown(stops, pieces) == first_cut(stops, "".join(pieces))


@given(STOPS, st.lists(TEXTS, max_size=6))
def test_nothing_is_shown_that_may_begin_a_stop_text(stops: list[str], pieces: list[str]):
    texts, out, fed = StopTexts(stops), "", ""
    for piece in pieces:
        text, met = texts.feed(piece)
        out, fed = out + text, fed + piece
        assert first_cut(stops, fed).startswith(out)
        if met:
            break
        held = fed[len(out) :]
        assert not held or any(stop.startswith(held) for stop in stops)
        assert not any(stop.startswith(out[at:] + held) for stop in stops for at in range(len(out)))
