"""Tables, facts and charts → one self-contained HTML page: the frame of every report.

A report is opened years later, on another machine, without a network: nothing is fetched, nothing runs, and the page's
own policy forbids both; only an endpoint's console has a script, which its policy names by its hash. Light and dark
follow the reader's system. Text of the user's data goes through ``visible`` wherever it comes in: markup is escaped,
and characters that a browser would swallow or obey (controls, directional overrides) are spelled out. Blocks are
``Markup``, so nothing is escaped twice or not at all.

Left out: charts (``cluster.charts``), and what any report says.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from cluster.page_style import STYLE

Cell = str | Markup
Tone = Literal["good", "error", "warning", "note"]

MARKS: dict[Tone, str] = {"good": "✓", "error": "✗", "warning": "!", "note": "i"}
"""What stands before a tone's words, so that colour is never the only cue."""
# Controls without tab and line feed, line and paragraph separators, zero-width and directional characters, tags, and
# halves of surrogate pairs, which no file can hold. Joiners stay: emoji and several scripts need them.
UNPRINTED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"
    "\ud800-\udfff]"
)
FRAME = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<meta name="color-scheme" content="light dark">
<title>{{ title }}: {{ kind }}</title>
<style>{{ style }}</style>
</head>
<body>
<header><p class="kind">{{ kind }}</p><h1>{{ title }}</h1>{{ head }}</header>
<nav aria-label="Sections"><ul>
{%- for section in sections %}<li><a href="#{{ section.anchor }}">{{ section.title }}</a></li>{% endfor -%}
</ul></nav>
<main>
{% for section in sections -%}
<section id="{{ section.anchor }}"><h2>{{ section.title }}</h2>
{% if section.lead %}<p class="lead">{{ section.lead }}</p>{% endif %}
{{ section.body }}
</section>
{% endfor -%}
</main>
<footer>{{ foot }}</footer>
{% if script %}<script>{{ script }}</script>
{% endif -%}
</body>
</html>
"""
TABLE = """\
<div class="wide"><table><thead><tr>
{%- for name in head %}<th scope="col" class="{{ kinds[loop.index0] }}">{{ name }}</th>{% endfor -%}
</tr></thead><tbody>
{% for row in rows -%}
<tr>{% for cell in row %}<td class="{{ kinds[loop.index0] }}">{{ cell }}</td>{% endfor %}</tr>
{% endfor -%}
</tbody></table></div>
"""
FACTS = """\
<dl class="facts">
{% for name, value in pairs -%}
<div><dt>{{ name }}</dt><dd>{{ value }}</dd></div>
{% endfor -%}
</dl>
"""
TILES = """\
<ul class="tiles">
{%- for tile in tiles %}<li><b>{{ tile.value }}</b> {{ tile.label }}
{%- if tile.note %}<small>{{ tile.note }}</small>{% endif %}</li>{% endfor -%}
</ul>
"""


@dataclass(frozen=True)
class Section:
    """One part of a page: its heading, the sentence below it, and its blocks."""

    title: str
    body: Markup
    lead: Cell = ""

    @property
    def anchor(self) -> str:
        """The section's address on the page."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True)
class Tile:
    """One number at the top of a page, with what it counts and a remark."""

    value: str
    label: str
    note: str = ""


def page(
    title: str, kind: str, head: Markup, sections: Sequence[Section], foot: Cell = "", script: Markup | None = None
) -> str:
    """Return the whole page as text; ``kind`` says what report it is, ``head`` stands above all sections.

    With a ``script`` the page may run that and nothing else, which may ask its own server only.
    """
    return _rendered(
        FRAME,
        title=title,
        kind=kind,
        policy=Markup(_policy(script)),
        style=Markup(STYLE),
        head=head,
        sections=sections,
        foot=foot,
        script=script,
    )


def _policy(script: str | None) -> str:
    """Return what a browser may load and run on the page."""
    if script is None:
        return "default-src 'none'; style-src 'unsafe-inline'"
    digest = b64encode(sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'"
    )


def visible(text: Cell) -> Markup:
    """Return text escaped for HTML, with unprinted characters spelled as their code points."""
    if isinstance(text, Markup):
        return text
    found = UNPRINTED.split(text), UNPRINTED.findall(text)
    parts = [escape(found[0][0])]
    for letter, rest in zip(found[1], found[0][1:], strict=True):
        parts += [Markup('<span class="code-point">U+{:04X}</span>').format(ord(letter)), escape(rest)]
    return joined(parts)


def joined(blocks: Iterable[Markup]) -> Markup:
    """Return blocks one after another."""
    return Markup("").join(blocks)


def table(head: Sequence[str], rows: Iterable[Sequence[Cell]], numeric: Collection[int] = ()) -> Markup:
    """Return a table; the columns at the places ``numeric`` are set to the right."""
    kinds = ["number" if place in numeric else "words" for place in range(len(head))]
    return _block(TABLE, head=head, rows=list(rows), kinds=kinds)


def facts(pairs: Iterable[tuple[str, Cell]]) -> Markup:
    """Return names with their values, one a line."""
    return _block(FACTS, pairs=list(pairs))


def tiles(found: Sequence[Tile]) -> Markup:
    """Return a row of numbers to be seen first."""
    return _block(TILES, tiles=found)


def element(name: str, content: Cell, css: str = "") -> Markup:
    """Return one HTML element around text or a block."""
    return Markup('<{0} class="{1}">{2}</{0}>').format(name, css, visible(content))


def badge(tone: Tone, text: str) -> Markup:
    """Return a word in its tone's colour, behind its tone's mark."""
    mark = Markup('<span aria-hidden="true">{}</span> ').format(MARKS[tone])
    return element("span", mark + visible(text), f"badge {tone}")


def banner(tone: Tone, text: str, more: Cell = "") -> Markup:
    """Return the one sentence that the reader came for, and what is to be added to it."""
    mark = Markup('<span class="mark" aria-hidden="true">{}</span>').format(MARKS[tone])
    said = element("strong", text) + (element("span", more) if more else Markup(""))
    return element("div", mark + element("div", said), f"banner {tone}")


def folded(summary: str, body: Markup, *, is_open: bool = False) -> Markup:
    """Return a block that opens where its summary is clicked, which needs no script."""
    opened = Markup(" open") if is_open else Markup("")
    return Markup("<details{}><summary>{}</summary>{}</details>").format(opened, visible(summary), body)


def _finalized(value: object) -> object:
    return visible(value) if isinstance(value, str) else value


_TEMPLATES = Environment(autoescape=True, undefined=StrictUndefined, finalize=_finalized)


def _rendered(source: str, **values: object) -> str:
    return _TEMPLATES.from_string(source).render(**values)


def _block(source: str, **values: object) -> Markup:
    return Markup(_rendered(source, **values))
