"""The same engine over vLLM, where it is installed (``hone[vllm]``): for GPUs, long contexts and large models.

vLLM batches, keeps its cache in pages and adds adapters by itself; here requests and outputs change their form, and the
queue gets a bound. Prompts are rendered and tokenised as for the other engine, and the same ids end an answer. Written
against vLLM's ``AsyncLLM`` (docs.vllm.ai, ``vllm.v1.engine.async_llm``): ``generate`` yields outputs with what is new
in each, and aborts the request when its task is cancelled.

It differs in two points: tokens of a stop text are given out with the others, and a seed draws other tokens.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.errors import GenerationFailed, HoneError, NotServing, Overloaded, UsageError
from serving.engine import Limits, Statistics, fitted
from serving.generation import Alternative, GenerationRequest, Piece, TokenLogprob
from serving.jobs import Job, Tally
from serving.load import adapter_base, load_tokenizer, stop_ids
from serving.prompts import PromptEncoder
from serving.stream import Stream

VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


class VllmEngine:
    """Answers requests through vLLM; use it from the event loop that ``submit`` is first called in."""

    def __init__(self, directory: str, limits: Limits, base: str | None = None) -> None:
        from vllm import AsyncEngineArgs  # pyright: ignore[reportMissingImports] (optional)
        from vllm.lora.request import LoRARequest  # pyright: ignore[reportMissingImports]
        from vllm.v1.engine.async_llm import AsyncLLM  # pyright: ignore[reportMissingImports]

        is_adapter = (Path(directory) / "adapter_config.json").is_file()
        model = (base or adapter_base(directory)) if is_adapter else directory
        self._adapter: Any = LoRARequest("release", 1, directory) if is_adapter else None
        self._vllm: Any = AsyncLLM.from_engine_args(
            AsyncEngineArgs(
                model=model,
                tokenizer=directory,
                enable_lora=is_adapter,
                max_lora_rank=adapter_rank(directory) if is_adapter else 16,
                max_num_seqs=limits.max_running,
                generation_config="vllm",
                load_format="safetensors",
                trust_remote_code=False,
                disable_log_stats=True,
            )
        )
        tokenizer = load_tokenizer(directory)
        self._encoder = PromptEncoder(tokenizer)
        self._stop_ids = stop_ids(directory, model, tokenizer)
        self._num_ids = int(self._vllm.model_config.get_vocab_size())
        self.context_tokens = int(self._vllm.model_config.max_model_len)
        self._limits = limits
        self._tally = Tally()
        self._numbers = itertools.count()
        self._tasks: dict[Job, asyncio.Task[None]] = {}
        self._num_running = 0
        self._is_draining = False

    def submit(self, request: GenerationRequest) -> Stream:
        """Take a request; call it in an event loop. Raises RequestRefused, Overloaded or NotServing."""
        prompt = self._encoder.ids(request.prompt)
        request = fitted(prompt, request, self.context_tokens, self._num_ids)
        if self._is_draining:
            raise NotServing("this engine takes no more requests", "Send the request again.")
        most = self._limits.max_running + self._limits.max_waiting
        if self._tally.open >= most:
            raise Overloaded(
                f"{self._tally.open} requests are under way already (at most {most})", "Send it again a little later."
            )
        job = Job(request, prompt, request.seed or 0)
        job.stream = Stream(lambda: self._cancel(job))
        self._tally.begin()
        task = asyncio.get_running_loop().create_task(self._answer(job))
        task.add_done_callback(lambda _: self._tasks.pop(job))
        self._tasks[job] = task
        return job.stream

    def statistics(self) -> Statistics:
        """Return what is going on."""
        return Statistics(
            running=self._num_running,
            waiting=max(self._tally.open - self._num_running, 0),
            prompt_tokens=self._tally.prompt_tokens,
            completion_tokens=self._tally.completion_tokens,
            **self._tally.ended,
        )

    def check_health(self) -> None:
        """Raise NotServing where vLLM's own process has failed."""
        if self._vllm.errored:
            raise NotServing(f"vLLM has failed: {self._vllm.dead_error}", "Start the replica again.")

    async def drain(self) -> None:
        """Take no more requests, and return when those taken are finished."""
        self._is_draining = True
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def close(self) -> None:
        """End at once; answers under way fail with NotServing."""
        self._is_draining = True
        for job, task in [*self._tasks.items()]:
            self._end_with(job, NotServing("the engine was closed", "Send the request again."))
            task.cancel()
        self._vllm.shutdown()

    def _cancel(self, job: Job) -> None:
        if self._tally.end(job, "cancelled"):
            self._tasks[job].cancel()

    async def _answer(self, job: Job) -> None:
        """Hand a request to vLLM and its outputs to the request's stream."""
        is_running = False
        written: Counter[int] = Counter()
        try:
            async for output in self._vllm.generate(
                {"prompt_token_ids": job.prompt},
                self._parameters(job.request),
                f"request-{next(self._numbers)}",
                lora_request=self._adapter,
            ):
                if not is_running:
                    is_running = True
                    self._num_running += 1
                    self._tally.prompt_tokens += len(job.prompt)
                for completion in output.outputs:
                    ids = tuple(completion.token_ids)
                    written[completion.index] += len(ids)
                    self._tally.completion_tokens += len(ids)
                    job.stream.put(piece_of(completion, job, written[completion.index]))
                job.stream.wake()
            if self._tally.end(job, "completed"):
                job.stream.put(None)
        except HoneError as error:
            self._end_with(job, error)
        except Exception as error:  # noqa: BLE001 (handed to the request's reader)
            self._end_with(job, GenerationFailed(f"vLLM failed: {error}", "Send the request again."))
        finally:
            self._num_running -= is_running
            job.stream.wake()

    def _parameters(self, asked: GenerationRequest) -> Any:
        from vllm.sampling_params import (  # pyright: ignore[reportMissingImports]
            RequestOutputKind,
            SamplingParams,
        )

        return SamplingParams(
            n=asked.n,
            temperature=asked.temperature,
            top_p=asked.top_p,
            seed=asked.seed,
            stop=list(asked.stop),
            stop_token_ids=sorted(self._stop_ids),
            max_tokens=asked.max_tokens,
            logprobs=asked.logprobs,
            output_kind=RequestOutputKind.DELTA,
        )

    def _end_with(self, job: Job, error: HoneError) -> None:
        if self._tally.end(job, "failed"):
            job.stream.put(error)
            job.stream.wake()


def piece_of(completion: Any, job: Job, written: int) -> Piece:
    """Return what vLLM has added to an answer as a piece of it. Raises GenerationFailed where vLLM gave it up."""
    finish = completion.finish_reason
    if finish not in (None, "stop", "length"):
        raise GenerationFailed(f"vLLM ended an answer with {finish!r}", "Send the request again.")
    ids, asked = tuple(completion.token_ids), job.request.logprobs
    tables: list[Mapping[int, Any]] = list(completion.logprobs or ()) if asked is not None else []
    return Piece(
        choice=completion.index,
        text=completion.text,
        token_ids=ids,
        logprobs=tuple(token_logprob(one, table, asked or 0) for one, table in zip(ids, tables, strict=bool(tables))),
        finish=finish,
        prompt_tokens=len(job.prompt),
        completion_tokens=written,
    )


def token_logprob(token_id: int, table: Mapping[int, Any], num_top: int) -> TokenLogprob:
    """Return a token's log probability and the ``num_top`` likeliest in its place, from vLLM's table of them by id."""

    def shown(other: int) -> Alternative:
        return Alternative(other, table[other].decoded_token or "", float(table[other].logprob))

    top = sorted((other for other in table if table[other].rank <= num_top), key=lambda other: table[other].rank)
    own = shown(token_id)
    return TokenLogprob(token_id, own.text, own.logprob, tuple(shown(other) for other in top))


def adapter_rank(directory: str) -> int:
    """Return the least rank that vLLM makes room for and an adapter fits in. Raises UsageError for a larger one."""
    from peft import PeftConfig

    rank = int(getattr(PeftConfig.from_pretrained(directory), "r", VLLM_RANKS[0]))
    if rank > VLLM_RANKS[-1]:
        raise UsageError(
            f"the adapter {directory} has rank {rank}, but vLLM serves at most {VLLM_RANKS[-1]}",
            "Merge it with hone merge, and serve what that makes.",
        )
    return next(size for size in VLLM_RANKS if rank <= size)
