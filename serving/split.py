"""(experiment salt, unit, weights) → the arm that answers the unit, and the probability of each arm.

Every arm runs a race for the unit: its time is exponential with the arm's probability as rate, −ln(u)/q, where u is a
hash of (salt, arm, unit); the first at the line gets the unit. That is weighted rendezvous hashing (Thaler and
Ravishankar 1998, doi 10.1109/90.663936; with weights Schindelhauer and Schomaker 2005, doi 10.1145/1073970.1074008).
An arm's own time depends on nothing but its own hash and weight, hence:

- A unit keeps its arm while no other arm's weight grows relative to that arm's.
- With two arms, a and b, this *is* an exposure range: b wins exactly when u' = E_b/(E_a + E_b) < q_b, E = −ln u, and
  u' is uniform. One threshold moves; growing b takes units from a and moves nobody else.
- A third arm takes its share from both, and nobody moves between the two that were there. So there is one rule for any
  number of arms, where separate rules for two and for three would deal all units anew at that step.

An arm of weight 0, or one that is not ready, does not run. `probabilities` are those of the arms that do, so what is
recorded with an exposure is what was in force, and nobody is quietly answered by another arm at a probability that
says otherwise: a unit that had no choice carries probabilities 0 and 1, and the analysis gives it no weight.

Left out: which header names the unit, forced arms, and where weights come from. Renaming an arm deals its units anew.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from hashlib import blake2b
from math import inf, isfinite, log

from cluster.errors import UsageError

PLACES = 2.0**-52  # 52 bits and a half: exact in a double, never 0 and never 1


class Split:
    """One immutable state of an endpoint's split: build it when weights or readiness change, read it per request."""

    __slots__ = ("_racers", "_recipe", "probabilities")

    def __init__(self, salt: str, weights: Mapping[str, float], ready: Collection[str] | None = None) -> None:
        """``ready`` names the arms that can answer (None: all). Raises UsageError for a weight that is no share."""
        self._recipe = (salt, dict(weights), None if ready is None else frozenset(ready))
        self.probabilities = exposure_probabilities(weights, ready)
        self._racers = [
            (arm, blake2b(_framed(salt) + _framed(arm), digest_size=8), probability)
            for arm, probability in sorted(self.probabilities.items())
            if probability > 0
        ]

    def __reduce__(self) -> tuple[type[Split], tuple[str, dict[str, float], frozenset[str] | None]]:
        """Travel as salt, weights and readiness: a hash that has begun cannot be pickled."""
        return Split, self._recipe

    def arm_of(self, unit: str) -> str | None:
        """Return the unit's arm, the same at every call; None when no arm with a weight is ready."""
        encoded = unit.encode("utf-8", "surrogatepass")
        winner, soonest = None, inf
        for arm, started, probability in self._racers:
            hasher = started.copy()
            hasher.update(encoded)
            place = ((int.from_bytes(hasher.digest(), "big") >> 12) + 0.5) * PLACES
            arrival = -log(place) / probability
            if arrival < soonest:
                winner, soonest = arm, arrival
        return winner


def exposure_probabilities(weights: Mapping[str, float], ready: Collection[str] | None = None) -> dict[str, float]:
    """Return each arm's share of new units, summing to 1, or 0 for all when no arm with a weight is ready.

    Raises UsageError for a weight that is negative or not finite.
    """
    for arm, weight in weights.items():
        if not (isfinite(weight) and weight >= 0):
            raise UsageError(f"arm {arm} has weight {weight}", "Give every arm a finite weight of at least 0.")
    running = {arm: weight if ready is None or arm in ready else 0.0 for arm, weight in weights.items()}
    largest = max(running.values(), default=0.0)
    if largest == 0:
        return dict.fromkeys(weights, 0.0)
    scaled = {arm: weight / largest for arm, weight in running.items()}  # the sum of huge weights is not finite
    total = sum(scaled.values())
    return {arm: weight / total for arm, weight in scaled.items()}


def _framed(text: str) -> bytes:
    """Return the text with its length before it, so that no two (salt, arm, unit) run into the same bytes."""
    encoded = text.encode("utf-8", "surrogatepass")
    return len(encoded).to_bytes(4, "big") + encoded
