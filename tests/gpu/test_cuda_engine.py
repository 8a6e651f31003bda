"""The default engine on a GPU: the answers of ``generate``, and draws that repeat."""

from __future__ import annotations

import pytest
import torch

from serving.engine import Limits
from serving.generation import GenerationRequest
from tests.served import CONFIGS, answers, astray, engine_of, prompts, small_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: CUDA serving cannot run here"),
]


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_answers_are_those_of_generate_one_by_one(name: str):
    model = small_model(name).cuda()
    asked = [GenerationRequest(prompt, max_tokens=20) for prompt in prompts([3, 40, 1, 17, 9])]
    with engine_of(model, Limits(max_running=3)) as engine:
        found = answers(engine, asked)
    for request, mine in zip(asked, found, strict=True):
        assert not astray(model, request, mine.ids)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_seed_draws_the_same_again(dtype: torch.dtype):
    (prompt,) = prompts([9])
    asked = GenerationRequest(prompt, max_tokens=20, temperature=1.0, top_p=0.9, seed=5, logprobs=2)
    with engine_of(small_model().to("cuda", dtype)) as engine:
        first, again = (answers(engine, [asked])[0] for _ in range(2))
    assert first.ids == again.ids
    assert all(len(one.top) == 2 for piece in first.pieces for one in piece.logprobs)
