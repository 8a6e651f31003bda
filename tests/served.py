"""Small models of several architectures ready to serve, and callers that gather what an engine answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Qwen3Config,
)

from serving.batching import BatchingEngine
from serving.engine import Engine, Limits
from serving.generation import GenerationRequest, Piece
from serving.load import LoadedRelease
from tests.small_tokenizers import bytewise

VOCABULARY = 261
STOP_ID = 2
TIE = 1e-4
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": STOP_ID,
    "pad_token_id": STOP_ID,
}
GPT2_SIZES: dict[str, Any] = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "gpt2": GPT2Config(**GPT2_SIZES, initializer_range=0.3, bos_token_id=1, eos_token_id=STOP_ID, pad_token_id=STOP_ID),
    "mistral with a short window": MistralConfig(**SIZES, sliding_window=6),
    "qwen3": Qwen3Config(**SIZES, head_dim=8),
    "gpt-neox": GPTNeoXConfig(**SIZES),
    "gemma2, every other window short": Gemma2Config(
        **SIZES, head_dim=8, sliding_window=6, query_pre_attn_scalar=8
    ),
    "opt": OPTConfig(
        vocab_size=VOCABULARY, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4, init_std=0.3,
        word_embed_proj_dim=32, max_position_embeddings=128, bos_token_id=1, eos_token_id=STOP_ID, pad_token_id=STOP_ID,
    ),
    "bloom, which has no positions": BloomConfig(
        vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3, bos_token_id=1,
        eos_token_id=STOP_ID, pad_token_id=STOP_ID,
    ),
}  # fmt: skip


def small_model(name: str = "llama", seed: int = 0) -> Any:
    """A model of some 20,000 random weights, large enough for its logits to lie apart."""
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(CONFIGS[name]).eval()


def release_of(model: Any, tokenizer: Any = None, stop_ids: Sequence[int] = (STOP_ID,)) -> LoadedRelease:
    return LoadedRelease(model, tokenizer or bytewise(), frozenset(stop_ids), 128)


def prompts(lengths: Sequence[int], seed: int = 0) -> list[tuple[int, ...]]:
    draw = torch.Generator().manual_seed(seed)
    return [tuple(torch.randint(5, VOCABULARY, (length,), generator=draw).tolist()) for length in lengths]


def generated(model: Any, prompt: Sequence[int], max_tokens: int, stop_ids: Sequence[int] = (STOP_ID,)) -> list[int]:
    """What ``generate`` continues a prompt with, greedily and alone, its end included."""
    ids = torch.tensor([prompt], device=model.device)
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, do_sample=False, eos_token_id=[*stop_ids]
    )
    return out[0, len(prompt) :].tolist()


def astray(model: Any, request: GenerationRequest, found: Sequence[int]) -> str:
    """Where an answer is not what ``generate`` gives, but for a tie of the best two logits; empty where it is."""
    prompt = cast("tuple[int, ...]", request.prompt)
    expected = generated(model, prompt, request.max_tokens)
    for place, (mine, other) in enumerate(zip(found, expected, strict=False)):
        if mine == other:
            continue
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *expected[:place]]], device=model.device)).logits[0, -1]
        best = logits.topk(2)
        is_tie = {mine, other} == set(best.indices.tolist()) and best.values[0] - best.values[1] < TIE
        return "" if is_tie else f"token {place} is {mine}, not {other}"
    return "" if len(found) == len(expected) else f"{len(found)} tokens, not {len(expected)}"


@dataclass
class Written:
    """An answer put together from its pieces."""

    pieces: list[Piece]

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    @property
    def ids(self) -> list[int]:
        return [token for piece in self.pieces for token in piece.token_ids]

    @property
    def finish(self) -> str | None:
        return self.pieces[-1].finish


@contextmanager
def engine_of(model: Any, limits: Limits | None = None, **more: Any):
    """A running engine, closed at the end."""
    release = {key: more.pop(key) for key in ("tokenizer", "stop_ids") if key in more}
    engine = BatchingEngine(release_of(model, **release), limits or Limits(), **more)
    try:
        yield engine
    finally:
        engine.close()


async def read(engine: Engine, request: GenerationRequest, after_s: float = 0.0) -> list[Written]:
    """The answers to one request, sent ``after_s`` from now."""
    await asyncio.sleep(after_s)
    choices: list[list[Piece]] = [[] for _ in range(request.n)]
    async with engine.submit(request) as stream:
        async for piece in stream:
            choices[piece.choice].append(piece)
    return [Written(pieces) for pieces in choices]


def answers(engine: Engine, requests: Sequence[GenerationRequest], every_s: float = 0.0) -> list[Written]:
    """The first answer to each request, sent together or one ``every_s``."""

    async def all_of() -> list[list[Written]]:
        return await asyncio.gather(*(read(engine, one, place * every_s) for place, one in enumerate(requests)))

    return [choices[0] for choices in asyncio.run(all_of())]
