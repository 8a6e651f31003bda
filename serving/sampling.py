"""Logits of one step → the token that each row goes on with.

A row draws with noise of its own: an exponential race (the token with the largest p/E wins, E ~ Exp(1) a token, which
draws from p exactly: the Gumbel-max trick) and a generator seeded by request and choice. So what a row draws does not
depend on who shares the batch. Another batch changes logits in their last digits; the race falls differently only where
the two best runners are that close, while drawing by cumulated probabilities would feel the shift at every border
between two of 50,000 tokens.

Log probabilities are the model's own: before penalties, temperature and top_p.

Shape legend: R rows, S rows that draw, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

FIRST_LOOK = 1024
"""Tokens that the nucleus is looked for in before the whole vocabulary is sorted."""


class Noise:
    """Exponential noise of one answer, E ~ Exp(1), the same for the same seed on the same kind of device."""

    def __init__(self, seed: int, choice: int, device: torch.device) -> None:
        sequence = np.random.SeedSequence((seed % 2**64, choice))
        self._on_cpu = np.random.Generator(np.random.SFC64(sequence)) if device.type == "cpu" else None
        self._on_device = torch.Generator(device).manual_seed(int(sequence.generate_state(1, np.uint64)[0]))

    def fill(self, noise_V: Tensor) -> None:
        """Draw a value for every token; on a CPU numpy does it in a fifth of torch's time."""
        if self._on_cpu is None:
            noise_V.exponential_(generator=self._on_device)
        else:
            self._on_cpu.standard_exponential(out=noise_V.numpy(), dtype=np.float32)


@dataclass(frozen=True)
class Draw:
    """How one row's tokens are chosen; without noise the likeliest is."""

    temperature: float = 0.0
    top_p: float = 1.0
    noise: Noise | None = None
    top_logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class Chosen:
    """A row's next token; ``logprob`` and ``top`` (id, logprob) where asked for; not finite where the model broke."""

    token_id: int
    is_finite: bool
    logprob: float = 0.0
    top: tuple[tuple[int, float], ...] = ()


def draw_of(
    temperature: float, top_p: float, seed: int, choice: int, top_logprobs: int | None, device: torch.device
) -> Draw:
    """Return how a request's answer number ``choice`` draws; each has noise of its own."""
    if temperature == 0:
        return Draw(top_logprobs=top_logprobs)
    return Draw(temperature, top_p, Noise(seed, choice, device), top_logprobs)


def choose(logits_RV: Tensor, draws: Sequence[Draw], own_RV: Tensor | None = None) -> list[Chosen]:
    """Return every row's next token. ``logits_RV`` are in fp32, ``own_RV`` the model's own where those were changed."""
    best_R, picked_R = logits_RV.max(-1)
    drawing = [row for row, draw in enumerate(draws) if draw.noise is not None]
    if drawing:
        places_S = torch.tensor(drawing, device=logits_RV.device)
        picked_R[places_S] = _drawn(logits_RV[places_S], [draws[row] for row in drawing])
    is_finite = best_R.isfinite().tolist()
    scores = _scores(logits_RV if own_RV is None else own_RV, picked_R, draws)
    return [
        Chosen(token, finite, *scores.get(row, (0.0, ())))
        for row, (token, finite) in enumerate(zip(picked_R.tolist(), is_finite, strict=True))
    ]


def _drawn(logits_SV: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Return a token drawn for every row, shape (S,)."""
    heat_S = torch.tensor([draw.temperature for draw in draws], device=logits_SV.device)
    p_SV = (logits_SV / heat_S[:, None]).softmax(-1)
    if any(draw.top_p < 1 for draw in draws):
        p_SV = p_SV.where(p_SV >= _nucleus_floor(p_SV, [draw.top_p for draw in draws])[:, None], 0)
    noise_SV = torch.empty_like(p_SV)
    for noise_V, draw in zip(noise_SV, draws, strict=True):
        assert draw.noise is not None, "a row without noise draws nothing"
        draw.noise.fill(noise_V)
    return (p_SV / noise_SV).argmax(-1)


def _nucleus_floor(p_SV: Tensor, top_ps: Sequence[float]) -> Tensor:
    """Return the least probability inside each row's nucleus: the fewest tokens that make up ``top_p``, shape (S,).

    Holtzman et al. 2020, arXiv 1904.09751, section 3.1. Tokens of equal probability are in together.
    """
    asked_S = torch.tensor(top_ps, device=p_SV.device)
    vocabulary = p_SV.shape[1]
    for size in (min(FIRST_LOOK, vocabulary), vocabulary):
        best_SV = p_SV.topk(size, dim=-1).values
        before_SV = best_SV.cumsum(-1) - best_SV
        inside_SV = before_SV < asked_S[:, None]
        if size == vocabulary or not bool((inside_SV[:, -1] & (asked_S < 1)).any()):
            break
    floor_S = best_SV.where(inside_SV, torch.inf).amin(-1)
    return floor_S.where(asked_S < 1, 0.0)


def _scores(
    logits_RV: Tensor, picked_R: Tensor, draws: Sequence[Draw]
) -> dict[int, tuple[float, tuple[tuple[int, float], ...]]]:
    """Return by row the chosen token's log probability and the best tokens', for rows that ask."""
    found: dict[int, tuple[float, tuple[tuple[int, float], ...]]] = {}
    for row, draw in enumerate(draws):
        if draw.top_logprobs is None:
            continue
        logp_V = logits_RV[row].log_softmax(-1)
        top = logp_V.topk(min(draw.top_logprobs, logp_V.shape[0]))
        pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        found[row] = float(logp_V[picked_R[row]]), tuple(pairs)
    return found
