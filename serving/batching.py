"""The default engine: iteration-level batching over a transformers model, in a thread of its own.

Between two tokens whoever is finished or cancelled leaves and whoever waits joins (Orca, Yu et al., OSDI 2022, section
4.1), so a short answer never waits for a long one. Requests join in the order they came in, each with all its ``n``
answers, as far as rows and memory allow. What a request may become (prompt and ``max_tokens``) is set aside when it
joins, so nothing that runs is ever put back.

A step that fails (memory, a fault in the model) fails the requests in it and the engine goes on; after
``MOST_FAILURES`` in a row it says that it is broken.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from random import Random

import torch

from cluster.errors import GenerationFailed, NotServing, Overloaded, RequestRefused
from serving.batch import Batch
from serving.decoder import refuse_unfit
from serving.engine import Limits, Statistics, fitted
from serving.generation import GenerationRequest
from serving.jobs import Job, Tally
from serving.load import LoadedRelease
from serving.memory import cache_tokens
from serving.packed_output import pack_output
from serving.prompts import PromptEncoder
from serving.stream import Stream

MOST_FAILURES = 3
DRAIN_LOOK_S = 0.02


class BatchingEngine:
    """Answers requests with one model; safe to use from several threads and event loops.

    ``clock`` and ``seeds`` (for requests without one) are given in tests. Raises BaseModelError for a model whose cache
    it cannot keep, or whose generation settings it does not know.
    """

    def __init__(
        self,
        release: LoadedRelease,
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
        seeds: Random | None = None,
    ) -> None:
        refuse_unfit(release.model, release.num_ids)
        pack_output(release.model)
        self.context_tokens = release.context_tokens
        self._limits = limits
        self._num_ids = release.num_ids
        self._encoder = PromptEncoder(release.tokenizer)
        self._cache_tokens = limits.cache_tokens or cache_tokens(release.model)
        self._seeds = seeds or Random()
        self._tally = Tally()
        self._batch = Batch(release, self._tally, limits.flush_s, clock)
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._is_draining = self._is_closed = False
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, request: GenerationRequest) -> Stream:
        """Take a request; call it in an event loop. Raises RequestRefused, Overloaded or NotServing."""
        job = self._job(request)
        with self._changed:
            if self._is_draining or self._is_closed:
                raise NotServing("this engine takes no more requests", "Send the request again.")
            if len(self._waiting) >= self._limits.max_waiting:
                raise Overloaded(
                    f"{len(self._waiting)} requests wait already (at most {self._limits.max_waiting})",
                    "Send the request again a little later.",
                )
            self._tally.begin()
            self._waiting.append(job)
            self._changed.notify()
        return job.stream

    def statistics(self) -> Statistics:
        """Return what is going on. Any thread."""
        return Statistics(
            running=self._batch.num_rows,
            waiting=len(self._waiting),
            prompt_tokens=self._tally.prompt_tokens,
            completion_tokens=self._tally.completion_tokens,
            **self._tally.ended,
        )

    def check_health(self) -> None:
        """Raise NotServing where the engine can answer nothing any more and must be started again."""
        if self._failures >= MOST_FAILURES:
            raise NotServing(f"the engine's last {self._failures} steps failed", "Start the replica again.")
        if not self._thread.is_alive():
            raise NotServing("the engine's thread has ended", "Start the replica again.")

    async def drain(self) -> None:
        """Take no more requests, and return when those taken are finished."""
        with self._changed:
            self._is_draining = True
        while self._thread.is_alive() and self._tally.open:
            await asyncio.sleep(DRAIN_LOOK_S)

    def close(self) -> None:
        """End at once; answers under way fail with NotServing."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _job(self, request: GenerationRequest) -> Job:
        prompt = self._encoder.ids(request.prompt)
        request = fitted(prompt, request, self.context_tokens, self._num_ids)
        if request.n > self._limits.max_running:
            raise RequestRefused(
                f"n is {request.n}, but {self._limits.max_running} answers are written at once", "Give a smaller n."
            )
        job = Job(request, prompt, self._seeds.getrandbits(64) if request.seed is None else request.seed)
        needed = request.n * job.reserved_tokens
        if needed > self._cache_tokens:
            raise RequestRefused(
                f"prompt and max_tokens, times n, make {needed} tokens, but there is memory for {self._cache_tokens}",
                "Give smaller max_tokens or n.",
            )
        job.stream = Stream(lambda: self._cancel(job))
        return job

    def _cancel(self, job: Job) -> None:
        if self._tally.end(job, "cancelled"):
            with self._changed:
                self._changed.notify()

    def _run(self) -> None:
        """Take turns until the engine is closed: the engine's thread."""
        with torch.inference_mode():
            while (joining := self._next()) is not None:
                try:
                    self._batch.turn(joining)
                    self._failures = 0
                except Exception as error:  # noqa: BLE001 (handed to the requests that were in the step)
                    self._failures += 1
                    why = f"a step of the engine failed: {type(error).__name__}: {error}"
                    self._batch.fail(joining, GenerationFailed(why, "Send the request again."))
                self._batch.hand_over()
        self._batch.fail([*self._waiting], NotServing("the engine was closed", "Send the request again."))
        self._batch.hand_over()

    def _next(self) -> list[Job] | None:
        """Wait for something to do; return the requests that join now, None where the engine is closed."""
        with self._changed:
            while not self._is_closed:
                for job in [job for job in self._waiting if job.is_over]:
                    self._waiting.remove(job)
                if self._waiting or self._batch.num_rows:
                    return self._admitted()
                self._changed.wait()
        return None

    def _admitted(self) -> list[Job]:
        """Take requests from the queue's head while rows, memory and the bound on prompt tokens allow."""
        rows, longest, to_read = self._batch.num_rows, self._batch.longest_tokens, 0
        joining: list[Job] = []
        while self._waiting:
            job = self._waiting[0]
            rows += job.request.n
            longest = max(longest, job.reserved_tokens)
            to_read += len(job.prompt)
            if rows > self._limits.max_running or rows * longest > self._cache_tokens:
                break
            if joining and to_read > self._limits.prefill_tokens:
                break
            joining.append(self._waiting.popleft())
        return joining
