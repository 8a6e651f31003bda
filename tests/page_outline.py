"""A page's tags and text, and what no report of ours may do: fetch, run, link to nowhere, or be malformed."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta"}


class Outline(HTMLParser):
    """The tags of a page, with a complaint for each that is closed in another order than opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.wrong: list[str] = []
        self.text = ""
        self.feed(str(text))  # Markup would escape what the parser adds to it

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def refuse_fetching_or_running(text: str) -> None:
    """Fail where a page would load or run anything, links to a place it does not have, or is not well formed."""
    outline = Outline(text)
    assert (outline.wrong, outline.open) == ([], [])
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for tag, attributes in outline.tags:
        assert tag not in {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "srcset", "style")]
        if tag == "a":
            assert (attributes["href"] or "").removeprefix("#") in ids
    assert "url(" not in text
    assert "@import" not in text
