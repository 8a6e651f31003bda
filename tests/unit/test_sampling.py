"""Tokens are drawn as asked, from the distribution asked, by each row's own noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from serving import sampling
from serving.sampling import Draw, Noise, choose, draw_of

CPU = torch.device("cpu")
P = torch.tensor([0.4, 0.3, 0.2, 0.1])
DRAWS = 4000


def drawn(temperature: float, top_p: float, logits: torch.Tensor, times: int = DRAWS, seed: int = 0) -> np.ndarray:
    draw = draw_of(temperature, top_p, seed, 0, None, CPU)
    return np.array([choose(logits[None], [draw])[0].token_id for _ in range(times)])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_in_proportion_to_their_probabilities(temperature: float):
    expected = (P.double().log() / temperature).softmax(-1).numpy() * DRAWS
    counts = np.bincount(drawn(temperature, 1.0, P.log()), minlength=4)
    assert chisquare(counts, expected).pvalue > 1e-3  # a fixed seed: it holds or not, ever


@pytest.mark.parametrize(("top_p", "inside"), [(0.39, 1), (0.41, 2), (0.69, 2), (0.71, 3), (0.89, 3), (0.95, 4)])
def test_the_nucleus_is_the_fewest_tokens_that_make_up_top_p(top_p: float, inside: int):
    assert set(drawn(1.0, top_p, P.log(), 300).tolist()) == set(range(inside))


def test_a_nucleus_larger_than_the_first_look_is_found_too(monkeypatch: pytest.MonkeyPatch):
    logits = torch.zeros(64)
    logits[0] = 1.0
    expected = drawn(1.0, 0.9, logits, 400)
    monkeypatch.setattr(sampling, "FIRST_LOOK", 4)
    assert (drawn(1.0, 0.9, logits, 400) == expected).all()
    assert len(set(expected.tolist())) > 32


def test_a_row_draws_the_same_whoever_shares_the_batch():
    logits = torch.randn((6, 50), generator=torch.Generator().manual_seed(0))
    solo = [choose(logits[2:3], [draw])[0].token_id for draw in [draw_of(1.0, 0.9, 7, 0, None, CPU)] for _ in range(20)]
    others = [draw_of(1.3, 1.0, seed, 0, None, CPU) for seed in (1, 2)]
    mine = draw_of(1.0, 0.9, 7, 0, None, CPU)
    batch = [others[0], Draw(), mine, others[1], Draw(), Draw()]
    shared = [choose(logits, batch)[2].token_id for _ in range(20)]
    assert shared == solo
    assert len(set(solo)) > 3


def test_seeds_and_choices_have_noise_of_their_own():
    def first(seed: int, choice: int) -> tuple[float, ...]:
        noise = torch.empty(8)
        Noise(seed, choice, CPU).fill(noise)
        return tuple(noise.tolist())

    seen = [first(seed, choice) for seed in (0, 1, -1, 2**63) for choice in (0, 1)]
    assert first(0, 0) == seen[0]
    assert len({*seen}) == len(seen)


def test_the_likeliest_token_is_taken_at_temperature_0():
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 3.0, 1.0]])
    assert [one.token_id for one in choose(logits, [Draw(), Draw()])] == [1, 0]


def test_log_probabilities_are_the_models_own_whatever_the_temperature():
    logits = torch.randn((1, 10), generator=torch.Generator().manual_seed(3))
    expected = logits[0].double().log_softmax(-1)
    for draw in (Draw(top_logprobs=3), draw_of(2.0, 0.5, 0, 0, 3, CPU)):
        (one,) = choose(logits, [draw])
        assert one.logprob == pytest.approx(expected[one.token_id].item(), abs=1e-6)
        assert [token for token, _ in one.top] == expected.topk(3).indices.tolist()
        assert [value for _, value in one.top] == pytest.approx(expected.topk(3).values.tolist(), abs=1e-6)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_seen(broken: float, temperature: float):
    logits = torch.zeros((2, 4))
    logits[0, 1] = broken
    draws = [draw_of(temperature, 1.0, 0, 0, None, CPU) for _ in range(2)]
    assert [one.is_finite for one in choose(logits, draws)] == [False, True]
