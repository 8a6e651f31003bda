"""The tokens of one answer, as they are chosen → pieces of text, ready to be sent.

The first text goes out at once, then what has gathered every ``flush_s``: through a Serve handle a piece costs about a
millisecond, a token may cost less. Text is only decoded when it is sent, or at each token where a stop text may end the
answer. Tokens go out with the end of their text (``serving.generation``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass

from serving.detokenize import Detokenizer
from serving.generation import Alternative, Finish, GenerationRequest, Piece, TokenLogprob
from serving.sampling import Chosen
from serving.stops import StopTexts


@dataclass(frozen=True)
class Vocabulary:
    """What turns ids into text and ends an answer; ``decode`` leaves special tokens out, ``spell`` shows them."""

    decode: Callable[[list[int]], str]
    spell: Callable[[int], str]
    stop_ids: Collection[int]


@dataclass(slots=True)
class _Token:
    """A token that has not been sent; its text lies at ``begin`` to ``end`` of the answer, as far as that is known."""

    chosen: Chosen
    begin: int | None = None
    end: int | None = None


class Answer:
    """One choice of one request while it is written."""

    def __init__(self, choice: int, request: GenerationRequest, prompt_tokens: int, vocabulary: Vocabulary) -> None:
        self._choice = choice
        self._request = request
        self._prompt_tokens = prompt_tokens
        self._vocabulary = vocabulary
        self._detokenizer = Detokenizer(vocabulary.decode)
        self._stops = StopTexts(request.stop)
        self._unread: list[int] = []
        self._unplaced: list[_Token] = []
        self._placed: deque[_Token] = deque()
        self._text = ""
        self._num_read = 0
        self._num_shown = 0
        self._sent_s: float | None = None
        self._was_cut = False
        self.num_tokens = 0
        self.finish: Finish | None = None

    def take(self, chosen: Chosen) -> None:
        """Add the next token; ``finish`` is set where it is the last."""
        assert self.finish is None, "a token after the last"
        self.num_tokens += 1
        self._unplaced.append(_Token(chosen))
        if chosen.token_id in self._vocabulary.stop_ids:
            self.finish = "stop"
            return
        self._unread.append(chosen.token_id)
        if self._request.stop:
            self._read()
        if self.finish is None and self.num_tokens == self._request.max_tokens:
            self.finish = "length"

    def piece(self, now_s: float, flush_s: float) -> Piece | None:
        """Return what is to be sent now, if anything; the last piece comes once ``finish`` is set."""
        if self.finish is None and self._sent_s is not None and now_s - self._sent_s < flush_s:
            return None
        if not self._was_cut:
            self._read()
        if self.finish is not None and not self._was_cut:
            self._show(self._stops.rest())
        tokens = self._sendable()
        if not (self._text or tokens or self.finish):
            return None
        self._sent_s = now_s
        text, self._text = self._text, ""
        scored = tokens if self._request.logprobs is not None else []
        return Piece(
            choice=self._choice,
            text=text,
            token_ids=tuple(token.chosen.token_id for token in tokens),
            logprobs=tuple(self._logprob(token.chosen) for token in scored),
            finish=self.finish,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self.num_tokens,
        )

    def _read(self) -> None:
        """Turn ids into text, look for stop texts in it, and note where the tokens' text lies."""
        if not self._unread:
            return
        added = self._detokenizer.feed(self._unread)
        self._unread = []
        begin, self._num_read = self._num_read, self._num_read + len(added)
        for token in self._unplaced:
            token.begin = begin if token.begin is None else token.begin
        if self._detokenizer.is_whole:
            for token in self._unplaced:
                token.end = self._num_read
            self._placed += self._unplaced
            self._unplaced = []
        shown, met = self._stops.feed(added)
        self._show(shown)
        if met:
            self.finish, self._was_cut = "stop", True

    def _show(self, text: str) -> None:
        self._text += text
        self._num_shown += len(text)

    def _sendable(self) -> list[_Token]:
        """Return, once, the tokens whose text has been shown; at the end all but those of a stop text."""
        tokens: list[_Token] = []
        while self._placed and (self._placed[0].end or 0) <= self._num_shown:
            tokens.append(self._placed.popleft())
        if self.finish is None:
            return tokens
        left = [*self._placed, *self._unplaced]
        return tokens + [token for token in left if not self._was_cut or (token.begin or 0) < self._num_shown]

    def _logprob(self, chosen: Chosen) -> TokenLogprob:
        spell = self._vocabulary.spell
        top = tuple(Alternative(token_id, spell(token_id), logprob) for token_id, logprob in chosen.top)
        return TokenLogprob(chosen.token_id, spell(chosen.token_id), chosen.logprob, top)
