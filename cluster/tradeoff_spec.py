"""The ``sweep.tradeoff:`` block: what else but the metric a sweep holds down, and which searches can do so.

A search with two values a trial has no order of trials, only a front; so nobody can be ended early for being worse
than another, and nothing tells when a front has converged. Which trial of the front wins is ``tuning.tradeoff``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from cluster.blocks import Block, refusal

Prune = Literal["asha", "median", "none"]
MODEL_KEYS = (
    "base",
    "train.method",
    "train.lora.rank",
    "train.lora.targets",
    "train.lora.dora",
)
"""The swept keys that make another model of a trial, and not only other weights of the same one."""


class TradeoffSpec(Block):
    """A second objective, always held down: the sweep looks for the front of both, and the winner is cheap on it."""

    against: Literal["latency", "cost"] = Field(
        description="What the metric is weighed against: the trained model's seconds a token, or a training's cost."
    )
    give_up: float = Field(
        default=0.01,
        ge=0,
        description="How much worse than the best the winner may be, in the metric's own units, at least 0.",
    )


def usual_prune(settings: dict[str, object]) -> Prune:
    """Return who ends trials early unless the user says so: nobody where two values are compared."""
    return "asha" if settings.get("tradeoff") is None else "none"


def refuse_impossible_tradeoff(
    tradeoff: TradeoffSpec, prune: Prune, keys: Iterable[str], *, until_converged: bool
) -> None:
    """Raise a refusal, its path from the sweep block, where another key of the block cannot go with a trade-off."""
    if prune != "none":
        raise refusal(
            ["prune"],
            f"prune {prune} compares one value, and under a tradeoff a trial has two",
            "Set prune to none, or remove tradeoff.",
        )
    if until_converged:
        raise refusal(
            ["until_converged"],
            "whether two values have converged is not known",
            "Remove until_converged or tradeoff; max_hours bounds a search too.",
        )
    if tradeoff.against == "latency" and not set(keys) & set(MODEL_KEYS):
        raise refusal(
            ["tradeoff", "against"],
            "no key of the space changes how fast the trained model is",
            f"Vary one of {', '.join(MODEL_KEYS)}, or set against to cost.",
        )
