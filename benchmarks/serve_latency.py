"""What does an endpoint add to an answer, and how fast does it change? Prints markdown tables.

    HONE_REALDATA=… python benchmarks/serve_latency.py [--repeats 8] [--requests 60]

6 layers × 256 with GPT-2's vocabulary (random weights), fp32, two arms of the same release on a local Ray Serve.
Requests over HTTP, one after another, 8 tokens each, go in turn to the endpoint, to one of the same ingress whose rows
go nowhere, and to one with a single arm; of each repeat the ratio of the medians counts, and the interval is the 95 %
bootstrap interval of the mean ratio.
Streams: 16 at once, 64 tokens each, from the arm's Serve handle and from the same engine in this process. A change of
weights is made while two clients ask without pause; its time runs from the command's start to the first answer of the
new epoch.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from io import StringIO
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import httpx
import numpy as np
from heading import heading, mean_with_interval, spread
from train_throughput import small_model

from cluster.ports import LOOPBACK, free_port
from cluster.progress import Progress
from cluster.serve_spec import ArmSpec, ServeSpec
from cluster.session import Settings, ray_session
from cluster.store import Store
from serving import endpoint as endpoints
from serving.arm import RemoteArm
from serving.callers import Keys
from serving.deploy import Options, bring_up, take_down
from serving.engine import Limits, open_engine
from serving.generation import GenerationRequest, Piece
from serving.ingress import Ingress, ingress_application
from serving.ledger_rows import Row
from serving.split import Split
from serving.traffic import split
from trainers.quiet import quiet_libraries

DECISION_BAR_US, SPLIT_BAR, HANDLE_BAR, CHANGE_BAR_S, LEDGER_BAR = 20.0, 1.05, 0.9, 1.0, 1.02
DECISIONS = 100_000
STREAMS, STREAM_TOKENS = 16, 64
WITHOUT_LEDGER, WITHOUT_SPLIT = "/without-ledger", "/without-split"
PROMPT = "name the restaurant by the river and say what it serves"


class Forgetful:
    """Takes rows and keeps none."""

    def begin(self, row: Row) -> None:
        """Do nothing."""

    def add(self, row: Row, *, durable: bool = False) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class IngressWithoutLedger(Ingress):
    """The same ingress, but rows go nowhere."""

    def _open_spool(self, settings: Settings) -> Any:
        return Forgetful()


def decision_us(seed: int) -> float:
    """Return the 99th of a hundred times of one choice between two arms, in microseconds."""
    chooser = Split("salt", {"a": 50, "b": 50})
    units = [f"user {Random(seed).random()} {number}" for number in range(DECISIONS)]
    times: list[int] = []
    for unit in units:
        began = time.perf_counter_ns()
        chooser.arm_of(unit)
        times.append(time.perf_counter_ns() - began)
    return float(np.percentile(times, 99)) / 1000


def requests_s(urls: Sequence[str], requests: int) -> list[float]:
    """Return the median seconds of requests to each address, one after another and to each in turn."""
    times: list[list[float]] = [[] for _ in urls]
    with httpx.Client(timeout=60) as client:
        for number in range(requests):
            body = {"prompt": PROMPT, "max_tokens": 8, "user": f"user {number}"}
            for place in range(len(urls)) if number % 2 else reversed(range(len(urls))):
                began = time.perf_counter()
                client.post(f"{urls[place]}/v1/completions", json=body).raise_for_status()
                times[place].append(time.perf_counter() - began)
    return [median(one) for one in times]


def compared(first: Callable[[], float], second: Callable[[], float], repeats: int) -> tuple[list[float], list[float]]:
    """Return both sides' values, repeat by repeat, in alternating order, after one of each that warms up."""
    first(), second()
    pairs: list[tuple[float, float]] = []
    for number in range(repeats):
        if number % 2:
            b, a = second(), first()
        else:
            a, b = first(), second()
        pairs.append((a, b))
    return [a for a, _ in pairs], [b for _, b in pairs]


async def tokens_per_s(answer: Callable[[GenerationRequest], AsyncGenerator[Piece]]) -> float:
    """Return how fast streams are written, all begun at once."""

    async def one(number: int) -> int:
        request = GenerationRequest(tuple(range(number + 1, number + 21)), max_tokens=STREAM_TOKENS)
        async with aclosing(answer(request)) as pieces:
            return sum([len(piece.token_ids) async for piece in pieces])

    began = time.perf_counter()
    counts = await asyncio.gather(*(one(number) for number in range(STREAMS)))
    return sum(counts) / (time.perf_counter() - began)


def change_s(url: str, weights: dict[str, float], settings: Settings) -> tuple[float, int]:
    """Return how long a change of weights took to be seen under load, and how many requests failed."""
    seen: list[tuple[float, int, int]] = []
    over = threading.Event()

    def ask(name: int) -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            number = 0
            while not over.is_set():
                number += 1
                answer = client.post(
                    "/v1/completions", json={"prompt": PROMPT, "max_tokens": 2, "user": f"{name}-{number}"}
                )
                seen.append((time.perf_counter(), answer.status_code, int(answer.headers.get("x-hone-epoch", 0))))

    threads = [threading.Thread(target=ask, args=(name,)) for name in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    began = time.perf_counter()
    epoch = split("bench", weights, settings).epoch
    time.sleep(2)
    over.set()
    for thread in threads:
        thread.join()
    first = min((at for at, _, its in seen if its == epoch), default=float("inf"))
    return first - began, sum(status != 200 for _, status, _ in seen)


def row(name: str, bar: str, values: Sequence[str]) -> None:
    print(f"| {name} | {' | '.join(values)} | {bar} |", flush=True)


def ratio_row(name: str, bar: str, first: list[float], second: list[float], unit: str, scale: float) -> None:
    ratios = [b / a for a, b in zip(first, second, strict=True)]
    sides = [f"{scale * median(side):.1f} {unit}" for side in (first, second)]
    row(name, bar, [*sides, mean_with_interval(ratios, 3)])


def main() -> None:
    quiet_libraries()
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--requests", type=int, default=60)
    asked = parser.parse_args()
    command = f"benchmarks/serve_latency.py --repeats {asked.repeats} --requests {asked.requests}"
    with tempfile.TemporaryDirectory() as directory, ray_session():
        from ray import serve

        folder = Path(directory, "model")
        small_model(folder)
        settings = Settings.from_env({"HONE_HOME": f"{directory}/home"}, Path(directory))
        arm = ArmSpec(release=f"base:{folder}", weight=50)
        spec = ServeSpec(endpoint="bench", arms={"a": arm, "b": arm})
        port = free_port()
        bring_up(spec, settings, Options(port=port), Progress(StringIO()))
        url = f"http://{LOOPBACK}:{port}"
        both = endpoints.read(Store(settings.home), "bench")
        alone = both.model_copy(update={"name": "alone", "arms": {"a": both.arms["a"]}})
        endpoints.write(Store(settings.home), alone)
        for name, kind, route in (("bench", IngressWithoutLedger, WITHOUT_LEDGER), ("alone", Ingress, WITHOUT_SPLIT)):
            application = ingress_application(name, settings, Keys(), {"num_cpus": 0.05}, kind)
            serve.run(application, name=route.strip("/"), route_prefix=route)
        print(heading("What an endpoint adds", command, ("torch", "ray", "fastapi")), flush=True)
        measure(url, settings, str(folder), asked)
        take_down("bench")
        serve.shutdown()


def measure(url: str, settings: Settings, folder: str, asked: argparse.Namespace) -> None:
    from ray import serve

    print("| what | without | with | with over without: mean (95 %) | asked |\n|---|---:|---:|---:|---:|")
    urls = (url + WITHOUT_SPLIT, url + WITHOUT_LEDGER, url)
    requests_s(urls, asked.requests)
    times = [requests_s(urls, asked.requests) for _ in range(asked.repeats)]
    unsplit, forgetful, whole = (list(column) for column in zip(*times, strict=True))
    ratio_row("split between two arms, median of a request", f"≤ {SPLIT_BAR}", unsplit, whole, "ms", 1000)
    ratio_row("ledger, median of a request", f"≤ {LEDGER_BAR}", forgetful, whole, "ms", 1000)
    arm = endpoints.read(Store(settings.home), "bench").arms["a"]
    handle, direct = streamed(RemoteArm(serve.get_app_handle(arm.application)).answer, folder, asked.repeats)
    ratio_row("the arm's Serve handle, 16 streams", f"≥ {HANDLE_BAR}", direct, handle, "tokens/s", 1)
    decisions = [decision_us(seed) for seed in range(5)]
    print(f"\nChoice of an arm, p99 of {DECISIONS:,}: {spread(decisions)} µs, asked at most {DECISION_BAR_US:g}.")
    changes = [change_s(url, {"a": number % 2, "b": 1}, settings) for number in range(asked.repeats)]
    live, failed = spread([seconds for seconds, _ in changes]), sum(number for _, number in changes)
    print(f"\nWeights live under load after {live} s (asked at most {CHANGE_BAR_S:g}), {failed} failed (asked: 0).")


def streamed(handle: Callable[..., Any], folder: str, repeats: int) -> tuple[list[float], list[float]]:
    """Return tokens a second through the handle, and from the engine itself in this process."""
    engine = open_engine(folder, "transformers", Limits())

    async def direct(request: GenerationRequest) -> AsyncGenerator[Piece]:
        async with engine.submit(request) as stream:
            async for piece in stream:
                yield piece

    return compared(lambda: asyncio.run(tokens_per_s(handle)), lambda: asyncio.run(tokens_per_s(direct)), repeats)


if __name__ == "__main__":
    main()
