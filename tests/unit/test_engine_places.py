"""Places in the engine are bounded, come free when their request goes away, and end in an orderly way."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from cluster.errors import GenerationFailed, NotServing, Overloaded, RequestRefused
from serving.decoder import Decoder
from serving.engine import Engine, Limits
from serving.generation import GenerationRequest
from serving.stream import Stream
from tests.served import answers, engine_of, generated, prompts, read, small_model
from tests.small_tokenizers import bytewise

LLAMA = small_model()
SHORT = GenerationRequest((9, 8), max_tokens=9)


def test_prompt_and_answer_must_fit_the_context():
    with engine_of(LLAMA) as engine:
        (found,) = answers(engine, [GenerationRequest(prompts([100])[0], max_tokens=28)])
        with pytest.raises(RequestRefused, match=r"100 tokens and max_tokens 29 make 129.* reads 128"):
            answers(engine, [GenerationRequest(prompts([100])[0], max_tokens=29)])
    assert 0 < len(found.ids) <= 28


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (GenerationRequest((3, 261), max_tokens=1), "token id 261, but the model knows 0 to 260"),
        (GenerationRequest((-1,), max_tokens=1), "token id -1"),
        (GenerationRequest((), max_tokens=1), "the prompt is empty"),
        (GenerationRequest((3,), max_tokens=1, n=5), "n is 5, but 4 answers"),
        (GenerationRequest((3,) * 20, max_tokens=40, n=2), "make 120 tokens, but there is memory for 100"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_bound(asked: GenerationRequest, said: str):
    with engine_of(LLAMA, Limits(max_running=4, cache_tokens=100)) as engine:
        with pytest.raises(RequestRefused, match=said):
            answers(engine, [asked])
        assert engine.statistics().waiting == 0


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """A gate that the engine's steps wait at while it is cleared, so that a test knows what is running."""
    is_open = threading.Event()
    is_open.set()
    plain = Decoder.step

    def step(decoder: Decoder, tokens: Any) -> Any:
        assert is_open.wait(10)
        return plain(decoder, tokens)

    monkeypatch.setattr(Decoder, "step", step)
    return is_open


async def until(condition: Any) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come true in 5 s")


def test_a_full_queue_refuses_and_recovers(gate: threading.Event):
    asked = GenerationRequest((7, 8), max_tokens=3)

    async def scene(engine: Engine) -> None:
        gate.clear()
        running = asyncio.create_task(read(engine, asked))
        await until(lambda: engine.statistics().running == 1)
        waiting = [asyncio.create_task(read(engine, asked)) for _ in range(2)]
        await until(lambda: engine.statistics().waiting == 2)
        with pytest.raises(Overloaded, match=r"2 requests wait already \(at most 2\)"):
            engine.submit(asked)
        gate.set()
        expected = generated(LLAMA, (7, 8), 3)
        assert [one[0].ids for one in await asyncio.gather(running, *waiting)] == [expected] * 3
        assert (await read(engine, asked))[0].ids == expected

    with engine_of(LLAMA, Limits(max_running=1, max_waiting=2)) as engine:
        asyncio.run(scene(engine))
        assert engine.statistics().completed == 4


def test_a_cancelled_request_frees_its_place(gate: threading.Event):
    long, short = GenerationRequest((7, 8), max_tokens=100, n=2), GenerationRequest((9,), max_tokens=4)

    async def scene(engine: Engine) -> None:
        gate.clear()
        running = asyncio.create_task(read(engine, long))
        await until(lambda: engine.statistics().running == 2)
        waiting, dropped = [asyncio.create_task(read(engine, short)) for _ in range(2)]
        await until(lambda: engine.statistics().waiting == 2)
        running.cancel()
        dropped.cancel()
        await asyncio.sleep(0)
        gate.set()
        (found,) = await waiting
        assert found.ids == generated(LLAMA, (9,), 4)
        await until(lambda: engine.statistics().running == 0)

    with engine_of(LLAMA, Limits(max_running=2), stop_ids=[]) as engine:
        asyncio.run(scene(engine))
        done = engine.statistics()
    assert (done.cancelled, done.completed, done.waiting) == (2, 1, 0)
    assert done.completion_tokens < 20


def test_a_reader_that_goes_away_with_its_loop_frees_its_place():
    async def leave(engine: Engine) -> Stream:
        stream = engine.submit(GenerationRequest((7, 8), max_tokens=120))
        await anext(aiter(stream))
        return stream

    with engine_of(LLAMA, Limits(flush_s=0.0), stop_ids=[]) as engine:
        asyncio.run(leave(engine))
        asyncio.run(until(lambda: engine.statistics().running == 0))
        assert engine.statistics().cancelled == 1
        assert engine.statistics().completion_tokens < 120


def test_a_first_token_does_not_wait_for_the_second(gate: threading.Event):
    decode = bytewise().decode
    prompt = next(one for one in prompts([3] * 50) if decode(generated(LLAMA, one, 1, stop_ids=[])).strip().isalnum())

    async def scene(engine: Engine) -> None:
        gate.clear()
        async with engine.submit(GenerationRequest(prompt, max_tokens=9)) as stream:
            first = await asyncio.wait_for(anext(stream), 5)
            assert first.completion_tokens == 1
            gate.set()

    with engine_of(LLAMA, stop_ids=[]) as engine:
        asyncio.run(scene(engine))


def test_memory_bounds_how_many_run_at_once(gate: threading.Event):
    asked = GenerationRequest((7, 8), max_tokens=8)

    async def scene(engine: Engine) -> None:
        gate.clear()
        tasks = [asyncio.create_task(read(engine, asked)) for _ in range(5)]
        await until(lambda: engine.statistics().running == 3)
        assert engine.statistics().waiting == 2
        gate.set()
        await asyncio.gather(*tasks)

    with engine_of(LLAMA, Limits(cache_tokens=35), stop_ids=[]) as engine:
        asyncio.run(scene(engine))


def test_draining_finishes_what_was_taken_and_takes_no_more():
    async def scene(engine: Engine) -> None:
        streams = [engine.submit(one) for one in [SHORT] * 8]
        await engine.drain()
        with pytest.raises(NotServing, match="takes no more"):
            engine.submit(SHORT)
        assert engine.statistics().completed == 8
        ends = [[piece.finish async for piece in stream][-1] for stream in streams]
        assert set(ends) <= {"stop", "length"}

    with engine_of(LLAMA, Limits(max_running=2)) as engine:
        asyncio.run(scene(engine))


def test_closing_ends_what_runs_and_what_waits():
    async def scene(engine: Engine) -> list[Any]:
        asked = GenerationRequest((7, 8), max_tokens=120)
        tasks = [asyncio.create_task(read(engine, asked)) for _ in range(3)]
        await until(lambda: engine.statistics().running == 1)
        await asyncio.to_thread(engine.close)
        return await asyncio.gather(*tasks, return_exceptions=True)

    with engine_of(LLAMA, Limits(max_running=1), stop_ids=[]) as engine:
        found = asyncio.run(scene(engine))
        assert {type(one) for one in found} == {NotServing}
        with pytest.raises(NotServing, match="ended"):
            engine.check_health()
        with pytest.raises(NotServing):
            answers(engine, [SHORT])


def test_a_failed_step_fails_its_requests_and_no_others(monkeypatch: pytest.MonkeyPatch):
    plain, failures = Decoder.step, [1]

    def step(decoder: Decoder, tokens: Any) -> Any:
        if failures:
            failures.pop()
            raise RuntimeError("no memory")
        return plain(decoder, tokens)

    with engine_of(LLAMA) as engine:
        monkeypatch.setattr(Decoder, "step", step)
        for _ in range(2):
            with pytest.raises(GenerationFailed, match="RuntimeError: no memory"):
                answers(engine, [SHORT] * 2)
            engine.check_health()
            assert answers(engine, [SHORT])[0].ids == generated(LLAMA, (9, 8), 9)
            failures.append(1)
        failures += [1] * 9
        for _ in range(3):
            with pytest.raises(GenerationFailed):
                answers(engine, [SHORT])
        with pytest.raises(NotServing, match="last 3 steps failed"):
            engine.check_health()
