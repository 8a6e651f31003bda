"""Text as it is written → text that may be shown, up to the first stop text.

A stop text may lie across tokens and pieces, and its beginning must not be shown before it is known to be something
else. So the longest end of the text that begins a stop text is held back. The first stop text to be complete counts,
and of several complete at the same character the longest: what is shown does not depend on how the text was cut into
pieces.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopTexts:
    """Looks for stop texts in a text that comes bit by bit."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def feed(self, text: str) -> tuple[str, bool]:
        """Return what may now be shown, and whether a stop text was met (nothing follows then)."""
        seen = self._held + text
        matches = [(at + len(stop), at) for stop in self._stops if (at := seen.find(stop)) >= 0]
        if matches:
            self._held = ""
            return seen[: min(matches)[1]], True
        keep = max((_overlap(seen, stop) for stop in self._stops), default=0)
        shown = seen[: len(seen) - keep]
        self._held = seen[len(shown) :]
        return shown, False

    def rest(self) -> str:
        """Return what was held back, once no more text will come."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of ``text`` that begins ``stop`` without completing it."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
