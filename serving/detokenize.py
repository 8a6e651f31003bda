"""Token ids as they are written → the text they add, in whole characters.

A character may lie across tokens, and what a token reads as may depend on the one before it (SentencePiece writes a
space before a word, but not before the first). So new ids are decoded behind those last shown, whose text is then cut
off, and an end that decodes to U+FFFD is held until the tokens that complete it have come. Once nothing more comes, an
incomplete character is dropped. In the middle of an answer bytes that make no character stay U+FFFD, as
``decode`` of the whole answer shows them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

BROKEN = "\ufffd"
MOST_HELD = 256
"""Characters of U+FFFD after which an end is shown as it is: no character is so long, and each look decodes it all."""


class Detokenizer:
    """Text of one answer; ``decode`` must give text for ids, special tokens left out."""

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._context: list[int] = []
        self._new: list[int] = []
        self._num_shown = 0

    @property
    def is_whole(self) -> bool:
        """Whether everything that was fed has been returned as text."""
        return not self._new

    def feed(self, ids: Sequence[int]) -> str:
        """Return the text that is now known, which may be none."""
        self._new += ids
        text = self._decode(self._context + self._new)
        whole = text.rstrip(BROKEN)
        if len(text) - len(whole) > MOST_HELD:
            whole = text
        added = whole[self._num_shown :]
        self._num_shown = max(self._num_shown, len(whole))
        if whole == text:
            self._go_on(added)
        return added

    def _go_on(self, added: str) -> None:
        """Make the new ids the context of the next, together with the old where they added no text of their own."""
        self._context = self._new if added else self._context + self._new
        self._new = []
        self._num_shown = len(self._decode(self._context))
