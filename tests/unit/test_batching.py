"""The default engine: answers as ``generate`` gives them, whoever shares the batch, and places that are bounded."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch

from cluster.errors import BaseModelError, GenerationFailed
from serving.engine import Limits
from serving.generation import GenerationRequest
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
