"""How answers are drawn where they are not greedy; apart from `trainers.generate`, so that no torch is imported."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sampled:
    """Answers drawn from the whole distribution: its temperature, above 0, and the seed of the draws."""

    temperature: float
    seed: int
