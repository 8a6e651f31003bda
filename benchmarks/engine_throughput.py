"""How many tokens a second does our engine write for 16 requests at once? Prints markdown tables.

    HONE_REALDATA=… python benchmarks/engine_throughput.py [--repeats 8]

6 layers × 256 with GPT-2's vocabulary (random weights), fp32, greedy, prompts of 8 to 160 tokens. Against ``generate``
one by one and ``generate`` on one batch padded on the left, repeats interleaved in one process. Answers of the same
length are the padded batch's best case; of mixed lengths it runs until the longest is done, and only tokens that were
asked for count. Asked: at least 5 times one by one, and 0.8 times the padded batch, on the bound of the 95 % bootstrap
interval of the mean ratio. The engine's answers are compared with those of ``generate`` one by one. The last table is
an adapter of rank 16 on all linear layers, merged into its base or beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import torch
from heading import heading, mean_with_interval
from train_throughput import small_model

from serving.batching import BatchingEngine
from serving.engine import Limits
from serving.generation import GenerationRequest
from serving.load import LoadedRelease, load
from trainers.quiet import quiet_libraries

REQUESTS = 16
PROMPT_TOKENS = (8, 160)
ANSWERS = {"64 tokens each": (64, 64), "16 to 112 tokens": (16, 112)}
Contestant = Callable[[Sequence[GenerationRequest]], list[list[int]]]


def requests(answer_tokens: tuple[int, int], vocabulary: int) -> list[GenerationRequest]:
    draw = Random(0)
    return [
        GenerationRequest(
            tuple(draw.randrange(vocabulary) for _ in range(draw.randint(*PROMPT_TOKENS))),
            max_tokens=draw.randint(*answer_tokens),
        )
        for _ in range(REQUESTS)
    ]


def one_by_one(model: Any, asked: Sequence[GenerationRequest]) -> list[list[int]]:
    answers: list[list[int]] = []
    for request in asked:
        ids = torch.tensor([request.prompt])
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=request.max_tokens, do_sample=False
        )
        answers.append(out[0, ids.shape[1] :].tolist())
    return answers


def padded(model: Any, asked: Sequence[GenerationRequest]) -> list[list[int]]:
    longest = max(len(request.prompt) for request in asked)
    ids = torch.zeros((len(asked), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, request in enumerate(asked):
        ids[row, longest - len(request.prompt) :] = torch.tensor(request.prompt)
        mask[row, longest - len(request.prompt) :] = 1
    most = max(request.max_tokens for request in asked)
    out = model.generate(ids, attention_mask=mask, max_new_tokens=most, do_sample=False)[:, longest:].tolist()
    return [row[: request.max_tokens] for row, request in zip(out, asked, strict=True)]


def ours(engine: BatchingEngine, asked: Sequence[GenerationRequest]) -> list[list[int]]:
    async def answer(request: GenerationRequest) -> list[int]:
        async with engine.submit(request) as stream:
            return [token async for piece in stream for token in piece.token_ids]

    async def all_of() -> list[list[int]]:
        return await asyncio.gather(*(answer(request) for request in asked))

    return asyncio.run(all_of())


def rates(contestants: dict[str, Contestant], asked: Sequence[GenerationRequest], repeats: int) -> dict[str, Any]:
    """Return each contestant's tokens a second, repeat by repeat, after one run that warms it up."""
    tokens = sum(request.max_tokens for request in asked)
    found: dict[str, list[float]] = {name: [] for name in contestants}
    answers = {name: contestant(asked) for name, contestant in contestants.items()}
    for _ in range(repeats):
        for name, contestant in contestants.items():
            began = time.perf_counter()
            contestant(asked)
            found[name].append(tokens / (time.perf_counter() - began))
    first, *others = answers.items()
    for name, written in others:
        differing = sum(a != b for a, b in zip(first[1], written, strict=True))
        print(f"{name}: {differing} of {len(asked)} answers differ from {first[0]}\n")
    return found


def show(found: dict[str, list[float]], mine: str) -> None:
    print("| contestant | tokens/s: median (least to most) | ours over it: mean (95 %) |")
    print("|---|---:|---:|")
    for name, values in found.items():
        ratios = [a / b for a, b in zip(found[mine], values, strict=True)]
        over = mean_with_interval(ratios, 2)
        print(f"| {name} | {median(values):.0f} ({min(values):.0f} to {max(values):.0f}) | {over} |", flush=True)


def with_adapter(folder: Path, adapter: Path) -> tuple[LoadedRelease, LoadedRelease]:
    """Return a release of an adapter that does something, merged and beside its base."""
    from dataclasses import replace

    from peft import LoraConfig, PeftModel, get_peft_model

    plain = load(str(folder))
    model: Any = get_peft_model(plain.model, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    model.save_pretrained(adapter)
    plain.tokenizer.save_pretrained(adapter)
    beside: Any = PeftModel.from_pretrained(load(str(folder)).model, adapter)
    merged = load(str(adapter))
    return merged, replace(merged, model=beside.get_base_model().eval())


def endless(release: LoadedRelease) -> LoadedRelease:
    """Return a release whose answers end by their length alone, in ``generate`` too."""
    from dataclasses import replace

    release.model.generation_config.eos_token_id = None
    return replace(release, stop_ids=frozenset())


def main() -> None:
    quiet_libraries()
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    command = f"benchmarks/engine_throughput.py --repeats {asked.repeats} --threads {asked.threads}"
    print(heading("Engine throughput", command, ("torch", "transformers", "peft")))
    with tempfile.TemporaryDirectory() as directory:
        folder, adapter = Path(directory, "model"), Path(directory, "adapter")
        small_model(folder)
        release, plain = endless(load(str(folder))), endless(load(str(folder)))  # an engine packs its model
        engine = BatchingEngine(release, Limits(max_running=REQUESTS))
        contestants: dict[str, Contestant] = {
            "generate, one by one": lambda some: one_by_one(plain.model, some),
            "generate, one padded batch": lambda some: padded(plain.model, some),
            "ours": lambda some: ours(engine, some),
        }
        for name, bounds in ANSWERS.items():
            print(f"\n## {REQUESTS} requests, {name}\n")
            show(rates(contestants, requests(bounds, release.num_ids), asked.repeats), "ours")
        merged, beside = (BatchingEngine(endless(one), Limits()) for one in with_adapter(folder, adapter))
        both: dict[str, Contestant] = {
            "adapter beside its base": lambda some: ours(beside, some),
            "adapter merged": lambda some: ours(merged, some),
        }
        print("\n## An adapter, 64 tokens each\n")
        show(rates(both, requests(ANSWERS["64 tokens each"], release.num_ids), asked.repeats), "adapter merged")


if __name__ == "__main__":
    main()
