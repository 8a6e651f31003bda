"""Rows that were trained on and rows that were held out → how often a model recites an answer from its beginning.

A row's prompt and the first tokens of its answer are given; what the model writes on, greedily, counts as recited where
the next tokens are all equal to the answer's (Carlini et al. 2021, arXiv 2012.07805; the exact match of k tokens as in
Carlini et al. 2023, arXiv 2202.07646). A competent model continues many answers word for word without having seen them:
the same on held-out rows is the control, and what is reported is the difference of the two rates, its interval by
resampling both. Only answers long enough for beginning and match are tried; labels, as a rule, are not.

Left out: extraction with sampled or repeated prompts, which finds more than greedy continuation does.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cluster.acceptance_records import Memorisation
from cluster.records import Interval
from trainers.bootstrap import RESAMPLES, bootstrap, from_mean, percentile_interval
from trainers.tokens import TokenSet

if TYPE_CHECKING:
    from pathlib import Path

    from cluster.evaluate_spec import MemorisationSpec

SEED = 0
FEWEST = 10
"""Rows of either kind below which no rate is given."""


@dataclass(frozen=True)
class Beginning:
    """Token ids that are given, and those that an exact recital goes on with."""

    given: list[int]
    follows: list[int]


@dataclass(frozen=True)
class Recital:
    """What is asked of a model: beginnings of rows trained on, and of rows held out."""

    model: str
    trained: list[Beginning]
    held_out: list[Beginning]
    batch_rows: int = 16


def beginnings(paths: Sequence[Path], spec: MemorisationSpec, seed: int) -> list[Beginning]:
    """Return a sample of the rows in these token files that are long enough."""
    found = [one for path in paths for one in _beginnings(TokenSet.load(path), spec)]
    if len(found) <= spec.max_examples:
        return found
    return [found[place] for place in sorted(random.Random(seed).sample(range(len(found)), spec.max_examples))]


def _beginnings(tokens: TokenSet, spec: MemorisationSpec) -> Iterator[Beginning]:
    for index in range(len(tokens)):
        ids, is_target = tokens.example(index)
        begin, end = _last_answer(is_target)
        cut = begin + spec.prefix_tokens
        if cut > 0 and cut + spec.match_tokens <= end:
            yield Beginning(ids[:cut].tolist(), ids[cut : cut + spec.match_tokens].tolist())


def _last_answer(is_target: NDArray[np.bool_]) -> tuple[int, int]:
    """Return where the last run of target tokens begins and ends; templates may add tokens after it."""
    targets = np.flatnonzero(is_target)
    if not len(targets):
        return 0, 0
    end = int(targets[-1]) + 1
    before = np.flatnonzero(~is_target[:end])
    return (int(before[-1]) + 1 if len(before) else 0), end


def recite(asked: Recital) -> tuple[list[bool], list[bool]]:
    """Return which beginnings of each kind the model goes on with word for word."""
    import torch

    from trainers.generate import generate
    from trainers.inference import load

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loaded = load(asked.model, None, device)
    every = [*asked.trained, *asked.held_out]
    if not every:
        return [], []
    longest = max(len(one.follows) for one in every)
    said = generate(
        loaded.model,
        [one.given for one in every],
        stop_ids=loaded.template.stop_ids,
        max_new_tokens=longest,
        batch_rows=asked.batch_rows,
        keep_stops=True,
    )
    same = [ids[: len(one.follows)] == one.follows for ids, one in zip(said, every, strict=True)]
    return same[: len(asked.trained)], same[len(asked.trained) :]


def memorisation(trained: Sequence[bool], held_out: Sequence[bool], spec: MemorisationSpec) -> Memorisation:
    """Return both rates and their difference; no number where too few rows of either kind are long enough."""
    needed = spec.prefix_tokens + spec.match_tokens
    why = ""
    if min(len(trained), len(held_out)) < FEWEST:
        why = (
            f"{len(trained)} training and {len(held_out)} held-out answers have {needed} tokens or more; "
            f"{FEWEST} of each are needed"
        )
    return Memorisation(
        prefix_tokens=spec.prefix_tokens,
        match_tokens=spec.match_tokens,
        trained=len(trained),
        held_out=len(held_out),
        trained_rate=float(np.mean(trained)) if trained else None,
        held_out_rate=float(np.mean(held_out)) if held_out else None,
        memorised=None if why else _difference(trained, held_out),
        why=why,
    )


def _difference(trained: Sequence[bool], held_out: Sequence[bool]) -> Interval | None:
    sides = [np.array(side, dtype=np.float64) for side in (trained, held_out)]
    drawn = [
        bootstrap({"rate": from_mean(side)}, len(side), SEED + at, RESAMPLES)["rate"] for at, side in enumerate(sides)
    ]
    return percentile_interval(float(sides[0].mean() - sides[1].mean()), drawn[0] - drawn[1])
