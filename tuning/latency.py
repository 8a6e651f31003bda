"""A finished trial's best weights → its model's seconds a generated token, with nobody else asking it.

The model is the one that a release would hold: an adapter stays beside its base, a 4-bit base is whole again. It goes
on from the starts of a few validation rows, one at a time and greedily, always by the same number of tokens, so that
a model which says little is not measured by its prompts. Other trials may work on the same machine, and what they take
only ever makes a measurement longer: each single token counts with the fastest of its repeats, which lie apart in time.
Left out: batches and queues, which are a server's.
"""

from __future__ import annotations

import gc
import time
from functools import partial
from itertools import pairwise
from math import inf
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from cluster.places import local_directory
from trainers.checkpoint import best_place, load_weights, read_weights
from trainers.generate import generate
from trainers.inference import context_tokens
from trainers.model import causal_lm, prepare_model
from trainers.packed_attention import plain_attention
from trainers.prepared import VALIDATION, Prepared
from trainers.quiet import quiet_libraries
from trainers.tokens import TokenSet

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster.records import Plan, TrainedWeights
    from cluster.spec import JobSpec

NUM_PROMPTS = 4
NEW_TOKENS = 32
REPEATS = 5


def latency_s(job: JobSpec, plan: Plan, prepared: str, directory: str, trained: TrainedWeights) -> float:
    """Return the seconds a token of a trial's best weights, measured on a worker of the plan's size.

    ``prepared`` and ``directory``, the trial's, are places that any node opens.
    """
    weights = best_place(directory, trained.best_step)
    if plan.workers == 1:
        return weights_latency_s(job, plan, prepared, weights)
    import ray

    # The trial itself has no processor; its worker group's are free again.
    size: dict[str, Any] = {"num_cpus": plan.cpus_per_worker, "num_gpus": plan.gpus_per_worker}
    task: Any = ray.remote(**size, scheduling_strategy="DEFAULT")(weights_latency_s)
    return ray.get(task.remote(job, plan, prepared, weights))


def weights_latency_s(job: JobSpec, plan: Plan, prepared: str, weights: str) -> float:
    """Return the seconds a token of weights at a place, in this process, which forgets the model again."""
    quiet_libraries()
    on_gpu = plan.device == "cuda"
    if not on_gpu:
        torch.set_num_threads(max(1, int(plan.cpus_per_worker)))
    try:
        return _measured(job, prepared, weights, on_gpu=on_gpu)
    finally:
        gc.collect()
        if on_gpu:
            torch.cuda.empty_cache()


def _measured(job: JobSpec, prepared: str, weights: str, *, on_gpu: bool) -> float:
    train = job.train.model_copy(update={"method": "lora"}) if job.train.method == "qlora" else job.train
    model: Any = prepare_model(job.base, train, torch.bfloat16 if on_gpu else torch.float32)
    load_weights(model, read_weights(Path(local_directory(weights))))
    model = model.to(torch.device("cuda" if on_gpu else "cpu")).eval()
    prompts = _prompts(Prepared(Path(local_directory(prepared))), context_tokens(causal_lm(model).config) - NEW_TOKENS)

    def go_on(prompt: list[int], on_token: Callable[[], None]) -> None:
        generate(model, [prompt], stop_ids=[0], max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, on_token=on_token)

    with plain_attention(causal_lm(model)):
        return seconds_a_token(go_on, prompts)


def seconds_a_token(
    go_on: Callable[[list[int], Callable[[], None]], None],
    prompts: list[list[int]],
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Return the median over prompts of the mean over a prompt's tokens of each one's fastest repeat.

    ``go_on`` generates NEW_TOKENS and says so after each; the first one's time holds the reading of the prompt.
    """
    go_on(prompts[0], lambda: None)  # the first call finds kernels and memory
    fastest = [[inf] * NEW_TOKENS for _ in prompts]
    for _ in range(REPEATS):
        for steps, prompt in zip(fastest, prompts, strict=True):
            times = [clock()]
            go_on(prompt, partial(_note, times, clock))
            for place, (before, after) in enumerate(pairwise(times)):
                steps[place] = min(steps[place], after - before)
    return median(sum(steps) for steps in fastest) / NEW_TOKENS


def _note(times: list[float], clock: Callable[[], float]) -> None:
    times.append(clock())


def _prompts(prepared: Prepared, most_tokens: int) -> list[list[int]]:
    """Return what stands before the first target of the first validation rows, at least a token and at most so many."""
    path = prepared.tokens_path(VALIDATION)
    assert path is not None, "a sweep has validation rows"
    rows = TokenSet.load(path)
    prompts: list[list[int]] = []
    for place in range(min(NUM_PROMPTS, len(rows))):
        ids_T, is_target_T = rows.example(place)
        before = max(1, int(is_target_T.argmax()))
        prompts.append([int(token) for token in ids_T[:before]][-max(1, most_tokens) :])
    return prompts
