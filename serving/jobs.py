"""Requests that an engine has taken, each ended exactly once: completed, cancelled or failed.

A reader may cancel in its own thread while the engine's completes or fails the same request, so the first to end it
wins, under one lock. What was ended is counted there too.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Literal

from serving.generation import GenerationRequest
from serving.stream import Stream

Ending = Literal["completed", "cancelled", "failed"]


class Tally:
    """What an engine has taken on and how it ended, in requests; and the tokens read and written."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.open = 0
        self.ended: dict[Ending, int] = {"completed": 0, "cancelled": 0, "failed": 0}
        self.prompt_tokens = 0
        self.completion_tokens = 0

    def begin(self) -> None:
        """Count a request that was taken."""
        with self._lock:
            self.open += 1

    def end(self, job: Job, how: Ending) -> bool:
        """End a request; return False where it was over already."""
        with self._lock:
            if job.is_over:
                return False
            job.is_over = True
            self.open -= 1
            self.ended[how] += 1
            return True


@dataclass(eq=False)
class Job:
    """A request with the ids of its prompt, its seed, and how many of its answers are unfinished.

    ``is_over``: nobody waits for more. ``is_broken``: its rows may hold values that are not finite.
    """

    request: GenerationRequest
    prompt: list[int]
    seed: int
    stream: Stream = field(init=False)
    open_answers: int = field(init=False)
    is_over: bool = False
    is_broken: bool = False

    def __post_init__(self) -> None:
        self.open_answers = self.request.n

    @property
    def reserved_tokens(self) -> int:
        """Tokens that one of its answers may come to, prompt included."""
        return len(self.prompt) + self.request.max_tokens
