"""The default engine: answers as ``generate`` gives them, whoever shares the batch, and places that are bounded."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
import torch

from cluster.errors import BaseModelError, GenerationFailed, NotServing, Overloaded, RequestRefused
from serving.decoder import Decoder
from serving.engine import Engine, Limits
from serving.generation import GenerationRequest
from serving.stream import Stream
from tests.served import CONFIGS, answers, astray, engine_of, generated, prompts, read, small_model

LLAMA = small_model()
LENGTHS = [3, 40, 1, 17, 9, 25, 2, 60]
MAX_TOKENS = [20, 5, 31, 1, 12, 40, 8, 16]


def mixed(seed: int = 0) -> list[GenerationRequest]:
    pairs = zip(prompts(LENGTHS, seed), MAX_TOKENS, strict=True)
    return [GenerationRequest(prompt, max_tokens=most) for prompt, most in pairs]


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_answers_are_those_of_generate_one_by_one(name: str):
    model = small_model(name)
    asked = mixed()
    with engine_of(model, Limits(max_running=3, prefill_tokens=50)) as engine:
        found = answers(engine, asked)
    for request, mine in zip(asked, found, strict=True):
        assert not astray(model, request, mine.ids)


@pytest.mark.parametrize(("max_running", "every_s"), [(1, 0.0), (2, 0.004), (8, 0.002), (8, 0.0)])
def test_when_others_join_and_leave_makes_no_difference(max_running: int, every_s: float):
    asked = mixed(seed=1)
    with engine_of(LLAMA, Limits(max_running=max_running)) as engine:
        found = answers(engine, asked, every_s)
    for request, mine in zip(asked, found, strict=True):
        assert not astray(LLAMA, request, mine.ids)


def test_an_answer_says_why_it_ended_and_what_it_took():
    (prompt,) = prompts([7])
    ids = generated(LLAMA, prompt, 12, stop_ids=[])
    end = next(token for token in ids if ids.index(token) > 2)
    with engine_of(LLAMA, stop_ids=[end]) as engine:
        stopped, cut = answers(engine, [GenerationRequest(prompt, max_tokens=most) for most in (12, 2)])
    assert stopped.ids == ids[: ids.index(end) + 1]
    assert (stopped.finish, cut.finish) == ("stop", "length")
    assert cut.ids == ids[:2]
    last = stopped.pieces[-1]
    assert (last.prompt_tokens, last.completion_tokens) == (7, len(stopped.ids))


def test_a_models_own_penalties_are_those_of_generate():
    model = small_model()
    model.generation_config.repetition_penalty = 1.4
    model.generation_config.no_repeat_ngram_size = 2
    model.generation_config.suppress_tokens = [generated(LLAMA, prompt, 1)[0] for prompt in prompts([9])]
    (prompt,) = prompts([9])
    with engine_of(model) as engine:
        found, other = answers(engine, [GenerationRequest(prompt, max_tokens=30), *mixed()[:1]])
    assert found.ids == generated(model, prompt, 30)
    assert other.ids == generated(model, prompts(LENGTHS)[0], MAX_TOKENS[0])
    assert found.ids != generated(LLAMA, prompt, 30)
    model.generation_config.min_new_tokens = 4
    with pytest.raises(BaseModelError, match="min_new_tokens 4"), engine_of(model):
        pass


def test_what_a_seed_draws_does_not_depend_on_who_shares_the_batch():
    (prompt, *others) = prompts([11, 4, 30, 8])
    mine = GenerationRequest(prompt, max_tokens=25, temperature=1.0, top_p=0.9, seed=5)
    crowd = [GenerationRequest(other, max_tokens=20, temperature=1.5, seed=5) for other in others]
    with engine_of(LLAMA) as engine:
        (solo,) = answers(engine, [mine])
        (_, shared, *_) = answers(engine, [crowd[0], mine, *crowd[1:]])
        (_, late, *_) = answers(engine, [crowd[0], mine, *crowd[1:]], every_s=0.003)
        (again,) = answers(engine, [GenerationRequest(prompt, max_tokens=25, temperature=1.0, top_p=0.9, seed=6)])
    assert shared.ids == late.ids == solo.ids
    assert again.ids != solo.ids


def test_several_answers_to_one_prompt_are_drawn_each_for_itself():
    (prompt,) = prompts([6])
    asked = GenerationRequest(prompt, max_tokens=12, temperature=1.0, seed=3, n=3)
    with engine_of(LLAMA) as engine:
        found = asyncio.run(read(engine, asked))
        again = asyncio.run(read(engine, asked))
    assert [one.ids for one in found] == [one.ids for one in again]
    assert len({tuple(one.ids) for one in found}) == 3
    assert {one.finish for one in found} <= {"stop", "length"}


def test_log_probabilities_are_those_of_a_full_forward_pass():
    (prompt, other) = prompts([9, 21])
    asked = GenerationRequest(prompt, max_tokens=10, logprobs=4, temperature=1.0, seed=1)
    with engine_of(LLAMA) as engine:
        found, _ = answers(engine, [asked, GenerationRequest(other, max_tokens=15)])
    scored = [one for piece in found.pieces for one in piece.logprobs]
    with torch.no_grad():
        logits = LLAMA(torch.tensor([[*prompt, *found.ids]])).logits[0, len(prompt) - 1 : -1]
    expected = logits.double().log_softmax(-1)
    assert [one.token_id for one in scored] == found.ids
    for one, row in zip(scored, expected, strict=True):
        assert one.logprob == pytest.approx(row[one.token_id].item(), abs=1e-4)  # fp32 sums in another order
        assert [top.token_id for top in one.top] == row.topk(4).indices.tolist()
        assert [top.logprob for top in one.top] == pytest.approx(row.topk(4).values.tolist(), abs=1e-4)


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
        streams = [engine.submit(one) for one in mixed()]
        await engine.drain()
        with pytest.raises(NotServing, match="takes no more"):
            engine.submit(mixed()[0])
        assert engine.statistics().completed == len(LENGTHS)
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
            answers(engine, mixed()[:1])


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
                answers(engine, mixed()[:2])
            engine.check_health()
            assert answers(engine, mixed()[:1])[0].ids == generated(LLAMA, prompts(LENGTHS)[0], MAX_TOKENS[0])
            failures.append(1)
        failures += [1] * 9
        for _ in range(3):
            with pytest.raises(GenerationFailed):
                answers(engine, mixed()[:1])
        with pytest.raises(NotServing, match="last 3 steps failed"):
            engine.check_health()


def test_logits_that_are_no_numbers_fail_their_own_request_only():
    model = small_model()
    with engine_of(model) as engine, torch.no_grad():
        model.get_input_embeddings().weight[200] = torch.nan
        asked = [GenerationRequest((9, 200, 7), max_tokens=9), GenerationRequest((9, 8), max_tokens=9)]

        async def both() -> list[Any]:
            return await asyncio.gather(*(read(engine, one) for one in asked), return_exceptions=True)

        broken, whole = asyncio.run(both())
        assert isinstance(broken, GenerationFailed)
        assert "not finite" in str(broken)
        assert whole[0].ids == generated(LLAMA, (9, 8), 9)


def test_a_release_whose_logits_are_no_numbers_is_not_served():
    model = small_model()
    with torch.no_grad():
        model.model.norm.weight[0] = torch.nan
    with pytest.raises(BaseModelError, match="off by nan"), engine_of(model):
        pass
