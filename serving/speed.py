"""A release and prompts of its test rows → how fast it answers: latency, time to first token, throughput.

Run between evaluation and gate where a gate rule names one of these metrics. The engine is the one that would serve the
release, in a Ray task of an arm's size, and it is asked as an arm is: so many requests at once, each followed by the
next, after some that only warm it up. Answers are as long as the evaluation's. What HTTP adds to them is not in it
(benchmarks/results/serve_latency.md has that), nor what an endpoint's other arms take.

Percentiles are values that were measured: of 20 requests the 95th is the second slowest.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import HoneError, RequestRefused
from cluster.session import cluster_capacity
from serving.arm import actor_options
from serving.engine import Engine, Limits, open_engine
from serving.generation import GenerationRequest, Message

if TYPE_CHECKING:
    from cluster.run_context import RunContext

SPEED = "speed.json"
TUNED = "tuned-*.parquet"


@dataclass(frozen=True, slots=True)
class Timed:
    """One answer: when its request was sent, when its first text and its end came (on one clock), and its tokens."""

    began_s: float
    first_s: float
    ended_s: float
    tokens: int


def run(ctx: RunContext) -> None:
    """Measure the run's model and leave ``runs/RUN/speed.json``; without prompts it holds no metric."""
    spec = ctx.job.speed
    prompts = prompts_of(ctx.store.reading("runs", ctx.run, "evaluation"))
    ctx.progress.say(f"speed: {spec.requests} requests, {spec.concurrency} at once")
    metrics: dict[str, float] = {}
    if prompts:
        requests = requests_of(prompts, spec.warm_up + spec.requests, ctx.job.evaluate.max_new_tokens)
        model = str(ctx.store.reading("runs", ctx.run, "model"))
        metrics = _measured_on_ray(model, requests, spec.concurrency, spec.warm_up)
    asked = spec.model_dump(mode="json")
    ctx.store.put_json({"metrics": metrics, "asked": asked, "size": _size()}, "runs", ctx.run, SPEED)


def prompts_of(evaluation: Path) -> list[list[Message]]:
    """Return the turns before the answers that the evaluation asked for, of every test; none for plain text."""
    import pyarrow.parquet as pq

    found: list[list[Message]] = []
    for path in sorted(evaluation.glob(TUNED)):
        found += [json.loads(text) for text in pq.read_table(path, columns=["prompt"])["prompt"].to_pylist()]
    return [prompt for prompt in found if prompt]


def requests_of(prompts: Sequence[Sequence[Message]], count: int, max_tokens: int) -> list[GenerationRequest]:
    """Return so many requests, with prompts from all over the tests, again from the first where there are fewer."""
    step = max(1, len(prompts) // count)
    chosen = islice(cycle(prompts[::step]), count)
    return [GenerationRequest(tuple(prompt), max_tokens, may_shorten=True) for prompt in chosen]


def measured(directory: str, requests: Sequence[GenerationRequest], concurrency: int, warm_up: int) -> dict[str, float]:
    """Load a release and return its metrics. Raises HoneError where it cannot be loaded or does not answer."""
    limits = Limits()
    if concurrency > limits.max_running:
        limits = Limits(max_running=concurrency)
    engine = open_engine(directory, "transformers", limits)
    try:
        asyncio.run(timed(engine, requests[:warm_up], concurrency))
        return metrics_of(asyncio.run(timed(engine, requests[warm_up:], concurrency)))
    finally:
        engine.close()


async def timed(
    engine: Engine,
    requests: Sequence[GenerationRequest],
    concurrency: int,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Timed]:
    """Answer every request, ``concurrency`` at once and each place's next as soon as one has ended."""
    waiting = iter(requests)
    async with asyncio.TaskGroup() as group:
        places = [group.create_task(_one_after_another(engine, waiting, clock)) for _ in range(concurrency)]
    return [answer for place in places for answer in place.result()]


async def _one_after_another(
    engine: Engine, waiting: Iterator[GenerationRequest], clock: Callable[[], float]
) -> list[Timed]:
    answers: list[Timed] = []
    for request in waiting:
        began_s, first_s, tokens = clock(), None, 0
        try:
            stream = engine.submit(request)
        except RequestRefused:
            continue  # longer than the model reads, which no endpoint would answer either
        async with stream:
            async for piece in stream:
                first_s = clock() if first_s is None else first_s
                tokens = piece.completion_tokens
        ended_s = clock()
        answers.append(Timed(began_s, ended_s if first_s is None else first_s, ended_s, tokens))
    return answers


def metrics_of(answers: Sequence[Timed]) -> dict[str, float]:
    """Return the metrics over all answers; none where there is none."""
    if not answers:
        return {}
    latencies = sorted(answer.ended_s - answer.began_s for answer in answers)
    firsts = sorted(answer.first_s - answer.began_s for answer in answers)
    whole_s = max(answer.ended_s for answer in answers) - min(answer.began_s for answer in answers)
    return {
        "p50_latency_s": percentile(latencies, 50),
        "p95_latency_s": percentile(latencies, 95),
        "p50_time_to_first_token_s": percentile(firsts, 50),
        "p95_time_to_first_token_s": percentile(firsts, 95),
        "tokens_per_s": sum(answer.tokens for answer in answers) / whole_s,
        "requests_per_s": len(answers) / whole_s,
    }


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least so many in a hundred do not exceed."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def _measured_on_ray(
    model: str, requests: Sequence[GenerationRequest], concurrency: int, warm_up: int
) -> dict[str, float]:
    """Measure in a task of the size of an endpoint's only arm."""
    import ray
    from ray.exceptions import RayTaskError

    size: Any = _size()
    task: Any = ray.remote(**size, max_retries=1)(measured)
    try:
        return ray.get(task.remote(model, requests, concurrency, warm_up))
    except RayTaskError as error:
        cause = error.cause
        raise cause if isinstance(cause, HoneError) else error from error


def _size() -> dict[str, float]:
    return actor_options(cluster_capacity(), 1)
