"""A typical training row → the section that shows it token by token, exactly as the model reads it.

The ids and the mask are those on disk that training maps, not a rendering made for show. What is learned is marked by
colour, weight and an underline; a template that opens the answer wrongly, a mask that is off by one, a prompt that is
learned or an answer without its stop token are seen at a glance, and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from cluster.pages import Section, element, facts, folded, joined, visible
from cluster.plain_template import PLAIN_TEMPLATE
from trainers.pieces import Piece, example_pieces
from trainers.prepared import TRAIN
from trainers.tokens import TokenSet

if TYPE_CHECKING:
    from trainers.prepared import Prepared

SHOWN_TOKENS, SHOWN_PARTS = 3000, 12
LINE_BREAK, TAB, SPACE, PART, HIDDEN = "↵", "⇥", "·", "◌", "▪"
LEGEND = Markup(
    '<p class="legend"><span><mark>learned</mark> a target: it carries loss</span>'
    '<span><span class="plain">read</span> given to the model</span>'
    '<span><span class="special">special</span> a special token</span>'
    "<span>{} line break</span><span>{} a space alone</span><span>{} begins a letter that the next one ends</span></p>"
).format(LINE_BREAK, SPACE, PART)


def example_section(prepared: Prepared, tokenizer: Any, own_template: bool) -> Section:
    """Return the section; ``own_template`` says that the job gave the chat template."""
    record = prepared.record
    path = prepared.tokens_path(TRAIN)
    assert path is not None, "a prepared data set without training tokens"
    ids, is_target = TokenSet.load(path).example(record.typical.index)
    pieces = example_pieces(tokenizer, ids.tolist(), is_target.tolist())
    plain = "hone's plain one, since the base has none"
    source = "the job's" if own_template else plain if record.template == PLAIN_TEMPLATE else "the base's own"
    cut = record.typical.tokens - len(pieces)
    end = element("span", f" ✂ max_length cuts {cut:,} tokens here", "left-out") if cut else Markup("")
    body = [
        facts(_counts(prepared, pieces, source)),
        LEGEND,
        Markup('<div class="tokens">{}{}</div>').format(tokens_markup(pieces), end),
        folded("The chat template", element("pre", record.template, "text")),
    ]
    lead = (
        "A training row of median length, token by token, as it lies on disk for training. Shading alternates by token."
    )
    return Section("One example as the model sees it", joined(body), lead)


def _counts(prepared: Prepared, pieces: Sequence[Piece], template: str) -> Iterator[tuple[str, str]]:
    typical, max_length = prepared.record.typical, prepared.record.max_length
    parts = [len(list(run)) for learned, run in groupby(pieces, key=lambda piece: piece.is_target) if learned]
    learned, special = sum(parts), sum(piece.is_special for piece in pieces)
    cut = typical.tokens - len(pieces)
    yield "row", typical.where
    yield (
        "tokens",
        f"{len(pieces):,}: {learned:,} learned ({learned / len(pieces):.0%}), {len(pieces) - learned:,} only read; "
        f"{special:,} of all are special",
    )
    listed = " + ".join(f"{num:,}" for num in parts[:SHOWN_PARTS]) + " + …" * (len(parts) > SHOWN_PARTS)
    yield "learned parts", f"{len(parts)} ({listed} tokens)"
    yield "cut", f"{cut:,} tokens, by max_length {max_length:,}" if cut else f"nothing (max_length {max_length:,})"
    yield "template", template
    if any(piece.hidden for piece in pieces):
        yield "masked", f"personal data is hidden on this page only; each {HIDDEN} is a token the model does see"


def tokens_markup(pieces: Sequence[Piece]) -> Markup:
    """Return the tokens in order, each in an element of its own, ``mark`` where it is learned."""
    gap = len(pieces) - SHOWN_TOKENS
    if gap <= 0:
        return joined(_shown(pieces))
    half = SHOWN_TOKENS // 2
    left_out = element("span", f" … {gap:,} tokens are not shown … ", "left-out")
    return joined([*_shown(pieces[:half]), left_out, *_shown(pieces[-half:])])


def _shown(pieces: Sequence[Piece]) -> Iterator[Markup]:
    before = ""
    for place, piece in enumerate(pieces):
        names = (("special", piece.is_special), ("hidden", piece.hidden), ("shade", place % 2 == 1))
        css = " ".join(name for name, holds in names if holds)
        tag = "mark" if piece.is_target else "span"
        title = f"token {piece.token}" if not piece.hidden else f"masked: {piece.hidden}"
        text = _text(piece) if not piece.hidden else Markup(HIDDEN)
        if piece.hidden and piece.hidden != before:
            text = visible(f"[{piece.hidden.upper()}]")
        before = piece.hidden
        yield Markup('<{0} class="{1}" title="{2}">{3}</{0}>').format(tag, css, title, text)


def _text(piece: Piece) -> Markup:
    if not piece.text:
        return element("i", PART)
    if not piece.text.strip(" "):
        return element("i", SPACE * len(piece.text))
    parts = re.split(r"([\n\t])", piece.text)
    glyphs = {"\n": LINE_BREAK, "\t": TAB}
    return joined(element("i", glyphs[part]) + Markup(part) if part in glyphs else visible(part) for part in parts)
