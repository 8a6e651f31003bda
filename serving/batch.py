"""The answers in flight: who joins, one token each a turn, who leaves.

A row here has the same number as in the decoder; when one leaves, the last takes its place in both. Pieces are handed
over when new rows have their first token and at the end of a turn. Everything runs in the engine's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cluster.errors import GenerationFailed, HoneError
from serving.answer import Answer
from serving.decoder import Decoder
from serving.jobs import Job, Tally
from serving.load import LoadedRelease
from serving.penalties import Penalties
from serving.sampling import Chosen, Draw, choose, draw_of
from serving.stream import Stream, wake_all

FEW_ROWS = 8
"""Up to so many rows tokens gather for ``flush_s``, beyond that in proportion: what pieces cost stays the same."""


@dataclass(eq=False)
class Row:
    """An answer in flight."""

    job: Job
    answer: Answer
    draw: Draw
    written: list[int] = field(default_factory=list[int])

    @property
    def last_token(self) -> int:
        """The token to go on with; any where nobody waits for the row any more, which may have none."""
        return self.written[-1] if self.written else 0


class Batch:
    """Rows over one model; what they write goes to their jobs' streams."""

    def __init__(self, release: LoadedRelease, tally: Tally, flush_s: float, clock: Callable[[], float]) -> None:
        self._decoder = Decoder(release.model)
        self._vocabulary = release.vocabulary()
        self._penalties = Penalties(release.model.generation_config, release.model.device)
        self._tally = tally
        self._flush_s = flush_s
        self._clock = clock
        self._rows: list[Row] = []
        self._touched: set[Stream] = set()

    @property
    def num_rows(self) -> int:
        """Answers in flight."""
        return len(self._rows)

    @property
    def longest_tokens(self) -> int:
        """Tokens that the longest row may come to."""
        return max((row.job.reserved_tokens for row in self._rows), default=0)

    def turn(self, joining: Sequence[Job]) -> None:
        """Let those leave that nobody waits for, let the new join, then write one token of every row."""
        for place in reversed([place for place, row in enumerate(self._rows) if row.job.is_over]):
            self._leave(place)
        if joining:
            self._join(joining)
        if self._rows:
            self._settle(self._decoder.step([row.last_token for row in self._rows]), 0)

    def fail(self, jobs: Sequence[Job], error: HoneError) -> None:
        """End these requests and all in flight with an error, and forget what the model has read."""
        for job in {*jobs, *(row.job for row in self._rows)}:
            self._end_with(job, error)
        self._rows.clear()
        self._decoder.clear()

    def hand_over(self) -> None:
        """Wake the readers of what was written; a request whose event loop is closed is given up."""
        for stream in wake_all(self._touched):
            stream.cancel()
        self._touched.clear()

    def _join(self, jobs: Sequence[Job]) -> None:
        logits_RV = self._decoder.join([job.prompt for job in jobs], [job.request.n for job in jobs])
        first = len(self._rows)
        for job in jobs:
            self._tally.prompt_tokens += len(job.prompt)
            self._rows += [self._row(job, choice) for choice in range(job.request.n)]
        self._settle(logits_RV, first)
        self.hand_over()  # a first token does not wait for the second

    def _row(self, job: Job, choice: int) -> Row:
        asked = job.request
        answer = Answer(choice, asked, len(job.prompt), self._vocabulary)
        device = self._decoder.device
        return Row(job, answer, draw_of(asked.temperature, asked.top_p, job.seed, choice, asked.logprobs, device))

    def _settle(self, logits_RV: Tensor, first: int) -> None:
        """Choose the next token of the rows from ``first`` on, and let those leave that it finishes."""
        rows = self._rows[first:]
        now_s, flush_s = self._clock(), self._flush_s * max(1.0, len(self._rows) / FEW_ROWS)
        for row, one in zip(rows, self._chosen(logits_RV, rows), strict=True):
            if not one.is_finite:
                row.job.is_broken = True
                self._end_with(row.job, GenerationFailed("the model's logits are not finite", "Serve another release."))
            if not row.job.is_over:
                self._write(row, one, now_s, flush_s)
        for place in reversed(range(first, len(self._rows))):
            if self._rows[place].answer.finish is not None:
                self._leave(place)

    def _chosen(self, logits_RV: Tensor, rows: Sequence[Row]) -> list[Chosen]:
        draws = [row.draw for row in rows]
        if not self._penalties:
            return choose(logits_RV, draws)
        changed = [
            self._penalties.apply(logits_V, [*row.job.prompt, *row.written])
            for logits_V, row in zip(logits_RV, rows, strict=True)
        ]
        return choose(torch.stack(changed), draws, logits_RV)

    def _write(self, row: Row, chosen: Chosen, now_s: float, flush_s: float) -> None:
        row.written.append(chosen.token_id)
        row.answer.take(chosen)
        self._tally.completion_tokens += 1
        job = row.job
        if (piece := row.answer.piece(now_s, flush_s)) is not None:
            job.stream.put(piece)
            self._touched.add(job.stream)
        if row.answer.finish is not None:
            job.open_answers -= 1
            if not job.open_answers and self._tally.end(job, "completed"):
                job.stream.put(None)

    def _leave(self, place: int) -> None:
        self._decoder.leave(place, wipe=self._rows[place].job.is_broken)
        self._rows[place] = self._rows[-1]
        self._rows.pop()

    def _end_with(self, job: Job, error: HoneError) -> None:
        if self._tally.end(job, "failed"):
            job.stream.put(error)
            self._touched.add(job.stream)
