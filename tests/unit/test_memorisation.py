"""What counts as recited, from which beginnings, and when there is no number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.evaluate_spec import MemorisationSpec
from tests.tiny import write_base
from trainers.generate import generate
from trainers.inference import load
from trainers.memorisation import Beginning, Recital, beginnings, memorisation, recite
from trainers.sampled import Sampled
from trainers.tokens import TokenSet

SPEC = MemorisationSpec(max_examples=50, prefix_tokens=2, match_tokens=3)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


def tokens(path: Path, *rows: tuple[list[int], list[int]]) -> Path:
    """Write rows of token ids, each with which of them are targets."""
    TokenSet.write(path, ((np.array(ids, np.int32), np.array(mask, bool)) for ids, mask in rows))
    return path


def test_a_beginning_is_the_prompt_and_the_first_tokens_of_the_last_answer(tmp_path: Path):
    path = tokens(
        tmp_path / "rows.arrow",
        ([1, 2, 3, 4, 5, 6, 7], [0, 0, 1, 1, 1, 1, 1]),
        ([1, 9, 2, 3, 4, 5, 6, 7, 8], [0, 1, 0, 1, 1, 1, 1, 1, 0]),
        ([3, 4, 5, 6, 7], [1, 1, 1, 1, 1]),
        ([1, 2, 3, 4, 5, 6], [0, 0, 1, 1, 1, 1]),
        ([1, 2], [0, 0]),
    )
    assert beginnings([path], SPEC, 0) == [
        Beginning([1, 2, 3, 4], [5, 6, 7]),
        Beginning([1, 9, 2, 3, 4], [5, 6, 7]),
        Beginning([3, 4], [5, 6, 7]),
    ]


def test_the_sample_follows_from_the_seed(tmp_path: Path):
    path = tokens(tmp_path / "rows.arrow", *(([n, 2, 3, 4, 5, 6], [0, 1, 1, 1, 1, 1]) for n in range(100)))
    assert len(beginnings([path], SPEC, 0)) == 50
    assert beginnings([path], SPEC, 0) == beginnings([path], SPEC, 0) != beginnings([path], SPEC, 1)


def test_recited_is_what_the_model_writes_on_token_by_token(base: Path):
    loaded = load(str(base), None, torch.device("cpu"))
    given = [[40 + n, 50, 60 + n] for n in range(6)]
    own = generate(loaded.model, given, stop_ids=loaded.template.stop_ids, max_new_tokens=3, keep_stops=True)
    right = [Beginning(ids, follows) for ids, follows in zip(given, own, strict=True)]
    wrong = [Beginning(one.given, [*one.follows[:-1], one.follows[-1] + 1]) for one in right]
    assert recite(Recital(str(base), right, wrong)) == ([True] * 6, [False] * 6)


def test_memorised_is_what_held_out_rows_do_not_explain():
    found = memorisation([True] * 30 + [False] * 70, [True] * 20 + [False] * 80, SPEC)
    assert (found.trained_rate, found.held_out_rate) == (0.3, 0.2)
    assert found.memorised is not None
    assert found.memorised.value == pytest.approx(0.1)
    assert found.memorised.low < 0 < found.memorised.high, "100 rows of each do not tell 0.3 from 0.2"
    clear = memorisation([True] * 900 + [False] * 100, [False] * 1000, SPEC).memorised
    assert clear is not None
    assert 0.85 < clear.low < 0.9 < clear.high < 0.95


def test_too_few_long_answers_give_a_reason_and_no_number():
    found = memorisation([True] * 9, [False] * 200, SPEC)
    assert found.memorised is None
    assert found.why == "9 training and 200 held-out answers have 5 tokens or more; 10 of each are needed"


def test_sampled_answers_follow_from_the_seed_and_leave_other_randomness_alone(base: Path):
    loaded = load(str(base), None, torch.device("cpu"))
    prompts = [[40 + n, 50] for n in range(4)]

    def answers(sampled: Sampled | None) -> list[list[int]]:
        stop_ids = loaded.template.stop_ids
        return generate(loaded.model, prompts, stop_ids=stop_ids, max_new_tokens=12, sampled=sampled)

    before = torch.random.get_rng_state()
    first = answers(Sampled(1.0, 3))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(5)
    assert answers(Sampled(1.0, 3)) == first
    assert answers(Sampled(1.0, 4)) != first
    assert answers(Sampled(1e-4, 3)) == answers(None)
