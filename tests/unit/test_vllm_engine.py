"""What is said to vLLM and made of what it says, with a stand-in that speaks as its documentation does."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from cluster.errors import GenerationFailed, NotServing, Overloaded, UsageError
from serving import engine as engines
from serving.engine import Limits, open_engine
from serving.generation import GenerationRequest
from tests.served import read
from tests.tiny import write_base

TEXT = "my invoice"


class Kind(Enum):
    DELTA = 1


class Vllm:
    """vLLM's AsyncLLM, of which a test scripts the outputs."""

    def __init__(self, arguments: SimpleNamespace):
        self.arguments = arguments
        self.calls: list[SimpleNamespace] = []
        self.model_config = SimpleNamespace(max_model_len=64, get_vocab_size=lambda: 400)
        self.errored, self.dead_error, self.is_shut = False, RuntimeError("its process is gone"), False
        self.outputs: Callable[[], AsyncIterator[Any]] = self.nothing

    @classmethod
    def from_engine_args(cls, arguments: SimpleNamespace) -> Vllm:
        return cls(arguments)

    async def nothing(self) -> AsyncIterator[Any]:
        return
        yield

    async def generate(self, prompt: Any, parameters: Any, request_id: str, *, lora_request: Any) -> AsyncIterator[Any]:
        call = SimpleNamespace(prompt=prompt, parameters=parameters, id=request_id, lora=lora_request, is_aborted=False)
        self.calls.append(call)
        try:
            async for output in self.outputs():
                yield output
        except (asyncio.CancelledError, GeneratorExit):
            call.is_aborted = True
            raise

    def shutdown(self) -> None:
        self.is_shut = True


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for the modules that the engine imports."""

    def module(name: str, **contents: Any) -> None:
        found = ModuleType(name)
        vars(found).update(contents)
        monkeypatch.setitem(sys.modules, name, found)

    module("vllm", AsyncEngineArgs=SimpleNamespace)
    module("vllm.lora")
    module("vllm.lora.request", LoRARequest=lambda *values: values)
    module("vllm.v1")
    module("vllm.v1.engine")
    module("vllm.v1.engine.async_llm", AsyncLLM=Vllm)
    module("vllm.sampling_params", SamplingParams=SimpleNamespace, RequestOutputKind=Kind)
    monkeypatch.setattr(engines, "find_spec", lambda name: name)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("release"))


@contextmanager
def opened(directory: Path, limits: Limits | None = None) -> Generator[tuple[Any, Vllm]]:
    engine: Any = open_engine(str(directory), "vllm", limits)
    yield engine, vars(engine)["_vllm"]
    engine.close()


def output(*parts: dict[str, Any]) -> SimpleNamespace:
    """An output of vLLM's with what is new in each completion."""
    plain: dict[str, Any] = {"index": 0, "text": "", "token_ids": [], "logprobs": None, "finish_reason": None}
    return SimpleNamespace(outputs=[SimpleNamespace(**(plain | part)) for part in parts])


def scripted(*outputs: SimpleNamespace) -> Callable[[], AsyncIterator[Any]]:
    async def script() -> AsyncIterator[Any]:
        for one in outputs:
            await asyncio.sleep(0)
            yield one

    return script


def test_a_request_is_put_in_vllms_words(directory: Path):
    asked = GenerationRequest((5, 6), max_tokens=9, temperature=0.5, top_p=0.8, seed=3, stop=("x",), n=2, logprobs=1)
    with opened(directory) as (engine, vllm):
        vllm.outputs = scripted(output({"finish_reason": "stop"}, {"index": 1, "finish_reason": "length"}))
        asyncio.run(read(engine, asked))
    (call,) = vllm.calls
    assert call.prompt == {"prompt_token_ids": [5, 6]}
    assert vars(call.parameters) == {
        "n": 2,
        "temperature": 0.5,
        "top_p": 0.8,
        "seed": 3,
        "stop": ["x"],
        "stop_token_ids": [0],
        "max_tokens": 9,
        "logprobs": 1,
        "output_kind": Kind.DELTA,
    }
    assert call.lora is None
    assert vllm.arguments.model == vllm.arguments.tokenizer == str(directory)
    assert vllm.is_shut


def test_outputs_become_pieces(directory: Path):
    def value(rank: int, logprob: float) -> SimpleNamespace:
        return SimpleNamespace(rank=rank, logprob=logprob, decoded_token=f"<{rank}>")

    tables = [{7: value(5, -3.0), 1: value(1, -0.1), 2: value(2, -0.5)}, {8: value(1, -0.2), 3: value(2, -0.9)}]
    with opened(directory) as (engine, vllm):
        vllm.outputs = scripted(
            output({"text": "a", "token_ids": [7], "logprobs": tables[:1]}),
            output({"text": "b", "token_ids": (8,), "logprobs": tables[1:], "finish_reason": "length"}),
        )
        (found,) = asyncio.run(read(engine, GenerationRequest(TEXT, max_tokens=2, logprobs=2)))
        done = engine.statistics()
    assert (found.text, found.ids, found.finish) == ("ab", [7, 8], "length")
    assert [piece.completion_tokens for piece in found.pieces] == [1, 2]
    first, second = (piece.logprobs[0] for piece in found.pieces)
    assert (first.token_id, first.text, first.logprob) == (7, "<5>", -3.0)
    assert [one.token_id for one in first.top] == [1, 2]
    assert [one.token_id for one in second.top] == [8, 3]
    assert (done.completed, done.completion_tokens, done.running) == (1, 2, 0)


def test_an_adapter_is_given_beside_its_base(directory: Path, tmp_path: Path):
    for file in directory.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "adapter_config.json").write_text(
        f'{{"peft_type": "LORA", "r": 20, "base_model_name_or_path": "{directory}"}}'
    )
    with opened(tmp_path) as (engine, vllm):
        asyncio.run(read_all(engine))
    assert (vllm.arguments.model, vllm.arguments.tokenizer) == (str(directory), str(tmp_path))
    assert (vllm.arguments.enable_lora, vllm.arguments.max_lora_rank) == (True, 32)
    assert vllm.calls[0].lora == ("release", 1, str(tmp_path))
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 600, "base_model_name_or_path": "x"}')
    with pytest.raises(UsageError, match="rank 600, but vLLM serves at most 512"), opened(tmp_path):
        pass


async def pieces_of(stream: Any) -> list[Any]:
    return [piece async for piece in stream]


async def read_all(engine: Any) -> list[Any]:
    return await pieces_of(engine.submit(GenerationRequest(TEXT, max_tokens=2)))


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_what_vllm_gives_up_fails(directory: Path, reason: str):
    with opened(directory) as (engine, vllm):
        vllm.outputs = scripted(output({"text": "a", "token_ids": [7]}), output({"finish_reason": reason}))
        with pytest.raises(GenerationFailed, match=reason):
            asyncio.run(read_all(engine))
        assert engine.statistics().failed == 1


def test_what_vllm_raises_fails_the_request_and_its_health_is_ours(directory: Path):
    async def script() -> AsyncIterator[Any]:
        raise ValueError("no memory")
        yield

    with opened(directory) as (engine, vllm):
        vllm.outputs = script
        with pytest.raises(GenerationFailed, match="vLLM failed: no memory"):
            asyncio.run(read_all(engine))
        engine.check_health()
        vllm.errored = True
        with pytest.raises(NotServing, match="its process is gone"):
            engine.check_health()


def test_who_goes_away_is_aborted_and_the_queue_is_bounded(directory: Path):
    async def endless() -> AsyncIterator[Any]:
        yield output({"text": "a", "token_ids": [7]})
        await asyncio.sleep(99)

    async def scene(engine: Any, vllm: Vllm) -> None:
        streams = [engine.submit(GenerationRequest(TEXT, max_tokens=2)) for _ in range(3)]
        with pytest.raises(Overloaded, match=r"3 requests are under way already \(at most 3\)"):
            engine.submit(GenerationRequest(TEXT, max_tokens=2))
        async with streams[0] as stream:
            await anext(stream)
        streams[1].cancel()
        await asyncio.sleep(0.01)
        assert [call.is_aborted for call in vllm.calls] == [True, True, False]
        assert (engine.statistics().cancelled, engine.statistics().running) == (2, 1)
        engine.close()
        with pytest.raises(NotServing):
            await pieces_of(streams[2])
        with pytest.raises(NotServing):
            engine.submit(GenerationRequest(TEXT, max_tokens=2))

    with opened(directory, Limits(max_running=1, max_waiting=2)) as (engine, vllm):
        vllm.outputs = endless
        asyncio.run(scene(engine, vllm))


def test_vllm_that_is_not_installed_is_said_to_be(directory: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="vllm is not installed"):
        open_engine(str(directory), "vllm")
