"""What every engine promises: over transformers everywhere, over vLLM where it is installed and there is a GPU."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cluster.errors import NotServing, Overloaded, RequestRefused
from serving.engine import Engine, EngineKind, Limits, open_engine
from serving.generation import GenerationRequest
from serving.stream import Stream
from tests.served import answers, generated, read
from tests.tiny import write_base

Opened = Callable[[Limits], AbstractContextManager[Engine]]
TEXT = "please help me with my account"
LIMITS = Limits(max_running=4, max_waiting=8, flush_s=0.0)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("release"), seed=3)


@pytest.fixture(scope="module", params=get_args(EngineKind))
def opened(request: pytest.FixtureRequest, directory: Path) -> Opened:
    """Open an engine of each kind over the same release, closed at the end."""
    kind: EngineKind = request.param
    if kind == "vllm" and not torch.cuda.is_available():
        pytest.skip("no GPU, which vllm needs")
    if kind == "vllm" and find_spec("vllm") is None:
        pytest.skip("vllm is not installed")

    @contextmanager
    def opening(limits: Limits) -> Generator[Engine]:
        engine = open_engine(str(directory), kind, limits)
        try:
            yield engine
        finally:
            engine.close()

    return opening


@pytest.fixture
def engine(opened: Opened) -> Generator[Engine]:
    with opened(LIMITS) as engine:
        yield engine


def ids_of(directory: Path, text: str = TEXT) -> tuple[int, ...]:
    return tuple(AutoTokenizer.from_pretrained(directory)(text, add_special_tokens=False)["input_ids"])


def test_an_answer_is_that_of_generate_and_its_pieces_make_it(engine: Engine, directory: Path):
    prompt = ids_of(directory)
    expected = generated(AutoModelForCausalLM.from_pretrained(directory), prompt, 12, stop_ids=[0])
    (found,) = answers(engine, [GenerationRequest(prompt, max_tokens=12)])
    assert found.ids == expected
    assert found.text == AutoTokenizer.from_pretrained(directory).decode(expected, skip_special_tokens=True)
    assert [piece.finish for piece in found.pieces[:-1]] == [None] * (len(found.pieces) - 1)
    assert found.finish in ("stop", "length")
    assert found.pieces[-1].prompt_tokens == len(prompt)
    assert found.pieces[-1].completion_tokens == len(expected)
    assert len(found.pieces) > 1


def test_chats_texts_and_ids_are_prompts(engine: Engine, directory: Path):
    tokenizer: Any = AutoTokenizer.from_pretrained(directory)
    as_text = GenerationRequest(TEXT, max_tokens=8)
    as_ids = GenerationRequest((tokenizer.bos_token_id, *ids_of(directory)), max_tokens=8)
    as_chat = GenerationRequest(({"role": "user", "content": TEXT},), max_tokens=8)
    ends_line = GenerationRequest((tokenizer.bos_token_id, *ids_of(directory, TEXT + "\n")), max_tokens=8)
    text, ids, chat, line = (one.ids for one in answers(engine, [as_text, as_ids, as_chat, ends_line]))
    assert text == ids
    assert chat == line


def test_a_stop_text_ends_an_answer_before_it(engine: Engine, directory: Path):
    (whole,) = answers(engine, [GenerationRequest(TEXT, max_tokens=30)])
    stop = whole.text[5:9]
    assert stop
    (found,) = answers(engine, [GenerationRequest(TEXT, max_tokens=30, stop=(stop,))])
    assert found.text == whole.text[: whole.text.index(stop)]
    assert found.finish == "stop"


def test_a_seed_draws_the_same_again_and_each_answer_for_itself(engine: Engine):
    asked = GenerationRequest(TEXT, max_tokens=16, temperature=1.0, top_p=0.95, seed=4, n=3)
    first, again = asyncio.run(read(engine, asked)), asyncio.run(read(engine, asked))
    assert [one.ids for one in first] == [one.ids for one in again]
    assert len({tuple(one.ids) for one in first}) > 1


def test_log_probabilities_are_the_models(engine: Engine, directory: Path):
    prompt = ids_of(directory)
    (found,) = answers(engine, [GenerationRequest(prompt, max_tokens=6, logprobs=2)])
    with torch.no_grad():
        model: Any = AutoModelForCausalLM.from_pretrained(directory)
        logp = model(torch.tensor([[*prompt, *found.ids]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    scored = [one for piece in found.pieces for one in piece.logprobs]
    tolerance = 1e-4 if next(model.parameters()).device.type == "cpu" else 0.1  # bf16 rounds logits
    assert [one.token_id for one in scored] == found.ids
    for one, row in zip(scored, logp, strict=True):
        assert one.logprob == pytest.approx(row[one.token_id].item(), abs=tolerance)
        assert len(one.top) == 2
        assert one.top[0].logprob >= one.top[1].logprob


def test_what_the_model_cannot_read_is_refused(engine: Engine):
    with pytest.raises(RequestRefused, match=str(engine.context_tokens)):
        answers(engine, [GenerationRequest(TEXT, max_tokens=engine.context_tokens)])
    with pytest.raises(RequestRefused, match="token id 100000"):
        answers(engine, [GenerationRequest((100_000,), max_tokens=1)])


def test_more_than_may_wait_are_refused_and_those_taken_are_answered(opened: Opened):
    def fill(engine: Engine, taken: list[Stream]) -> None:
        while len(taken) < 50:
            taken += [engine.submit(GenerationRequest(TEXT, max_tokens=90))]

    async def scene(engine: Engine) -> int:
        taken: list[Stream] = []
        with pytest.raises(Overloaded):
            fill(engine, taken)
        for stream in taken:
            assert [piece async for piece in stream][-1].finish
        return len(taken)

    with opened(Limits(max_running=1, max_waiting=2)) as engine:
        assert 2 <= asyncio.run(scene(engine)) <= 10  # some may have been finished meanwhile


def test_who_goes_away_frees_a_place(opened: Opened):
    async def scene(engine: Engine) -> None:
        async with engine.submit(GenerationRequest(TEXT, max_tokens=100, temperature=1.0, seed=0)) as stream:
            await anext(stream)
        await read(engine, GenerationRequest(TEXT, max_tokens=2))
        done = engine.statistics()
        assert (done.cancelled, done.completed, done.running, done.waiting) == (1, 1, 0, 0)

    with opened(Limits(max_running=1, flush_s=0.0)) as engine:
        asyncio.run(scene(engine))


def test_a_drained_engine_finishes_and_takes_no_more(opened: Opened):
    async def scene(engine: Engine) -> None:
        streams = [engine.submit(GenerationRequest(TEXT, max_tokens=20)) for _ in range(3)]
        await engine.drain()
        engine.check_health()
        with pytest.raises(NotServing):
            engine.submit(GenerationRequest(TEXT, max_tokens=2))
        for stream in streams:
            assert [piece async for piece in stream][-1].finish
        assert engine.statistics().completed == 3

    with opened(Limits(max_running=2)) as engine:
        asyncio.run(scene(engine))


def test_closing_fails_what_runs(opened: Opened):
    async def scene(engine: Engine) -> None:
        stream = engine.submit(GenerationRequest(TEXT, max_tokens=100, temperature=1.0, seed=0))
        engine.close()
        with pytest.raises(NotServing):
            async for _ in stream:
                pass

    with opened(LIMITS) as engine:
        asyncio.run(scene(engine))
