"""Pieces of an answer, from the engine's thread (or a task) to the one coroutine that reads them.

A reader that goes away takes its request with it: leaving ``async with``, an exception in it included, cancels what is
not finished. Pieces of several streams are handed to a loop in one call, because waking a loop costs a system call.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from serving.generation import Piece


class Stream:
    """The pieces of one request, read once, from the event loop it was made in. Iterating may raise a HoneError."""

    def __init__(self, cancel: Callable[[], None]) -> None:
        self._cancel = cancel
        self._items: deque[Piece | Exception | None] = deque()  # None: nothing follows
        self._waiter: asyncio.Future[None] | None = None
        self.loop = asyncio.get_running_loop()
        self.is_over = False

    def put(self, item: Piece | Exception | None) -> None:
        """Add a piece, an error that ends the stream, or None at its end; ``wake`` must follow. Any thread."""
        self._items.append(item)

    def wake(self) -> None:
        """Let the reader go on. Only in the stream's loop."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def cancel(self) -> None:
        """Give the request up; its place is free at the next step. Nothing happens where it is finished."""
        if not self.is_over:
            self.is_over = True
            self._cancel()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Piece:
        while not self._items:
            if self.is_over:
                raise StopAsyncIteration
            self._waiter = self.loop.create_future()
            await self._waiter
        item = self._items.popleft()
        if isinstance(item, Piece):
            return item
        self.is_over = True
        raise StopAsyncIteration if item is None else item

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cancel()


def wake_all(streams: Iterable[Stream]) -> list[Stream]:
    """Wake the readers of streams, from any thread; return those whose loop is closed, which nobody reads any more."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Stream]] = {}
    for stream in streams:
        by_loop.setdefault(stream.loop, []).append(stream)
    unread: list[Stream] = []
    for loop, mine in by_loop.items():
        try:
            loop.call_soon_threadsafe(_wake_each, mine)
        except RuntimeError:  # the loop is closed
            unread += mine
    return unread


def _wake_each(streams: list[Stream]) -> None:
    for stream in streams:
        stream.wake()
