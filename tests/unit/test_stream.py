"""What one thread puts into a stream, one coroutine reads, in order and to the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from cluster.errors import GenerationFailed
from serving.generation import Piece
from serving.stream import Stream, wake_all

PIECES = [Piece(0, str(number), (number,), (), None, 1, number) for number in range(200)]


def nothing() -> None:
    """A request that needs no cancelling."""


def read_from_thread(put: Callable[[Stream], None]) -> list[Piece]:
    async def scene() -> list[Piece]:
        stream = Stream(nothing)
        writer = threading.Thread(target=put, args=(stream,))
        writer.start()
        try:
            return [piece async for piece in stream]
        finally:
            writer.join()

    return asyncio.run(asyncio.wait_for(scene(), 10))


def test_pieces_come_in_order_however_the_threads_take_turns():
    def put(stream: Stream) -> None:
        for item in [*PIECES, None]:
            stream.put(item)
            wake_all([stream])

    assert read_from_thread(put) == PIECES


def test_an_error_comes_after_the_pieces_before_it():
    async def scene() -> None:
        stream = Stream(nothing)
        stream.put(PIECES[0])
        stream.put(GenerationFailed("no memory"))
        assert await anext(stream) == PIECES[0]
        with pytest.raises(GenerationFailed, match="no memory"):
            await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    asyncio.run(scene())


@pytest.mark.parametrize("is_read", [False, True])
def test_leaving_cancels_what_is_not_finished_and_only_that(is_read: bool):
    cancelled: list[bool] = []

    async def scene() -> None:
        async with Stream(lambda: cancelled.append(True)) as stream:
            stream.put(PIECES[0])
            stream.put(None)
            if is_read:
                assert [piece async for piece in stream] == PIECES[:1]
        stream.cancel()

    asyncio.run(scene())
    assert cancelled == ([] if is_read else [True])


def test_streams_of_a_closed_loop_are_told_from_the_others():
    async def made() -> Stream:
        return Stream(nothing)

    async def scene(gone: Stream) -> None:
        mine = Stream(nothing)
        mine.put(None)
        assert wake_all([gone, mine]) == [gone]
        assert [piece async for piece in mine] == []

    asyncio.run(scene(asyncio.run(made())))
