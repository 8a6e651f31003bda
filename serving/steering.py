"""An endpoint and its verdict → the next change of traffic, if it is time for one.

The policy is pure; the endpoint's keeper asks it every few seconds and acts. A ramp goes one step up when its hours
have passed since the last change, the split is as recorded and no bound is broken; it never goes down, and it ends at
its last step. An arm that breaks a bound loses its traffic. With ``promote: auto`` every decision to promote or to roll
back is carried out, with the verdict's reason; without it a person decides. What a person did stands: after a person's
rollback or promotion, or where one took the challenger off, nothing gives it traffic again until the endpoint is served
anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from serving.design import HOUR_S
from serving.endpoint import Endpoint
from serving.split import exposure_probabilities
from serving.verdict import Verdict

WHOLE = 100.0
SLACK = 1e-6


@dataclass(frozen=True, slots=True)
class Move:
    """What to do with the traffic, and why; ``weights`` only for a step of the ramp."""

    kind: Literal["promote", "take off", "ramp"]
    why: str
    arm: str = ""
    weights: tuple[tuple[str, float], ...] = ()


def is_steered(endpoint: Endpoint) -> bool:
    """Return whether anything happens to this endpoint's traffic by itself."""
    experiment = endpoint.experiment
    if experiment is None:
        return False
    is_bounded = any(bound is not None for bound in experiment.guardrails.model_dump().values())
    return is_bounded or bool(experiment.ramp) or experiment.promote == "auto"


def move_of(endpoint: Endpoint, verdict: Verdict, now_s: float) -> Move | None:
    """Return the next change of traffic; None where there is nothing to do now."""
    experiment = endpoint.experiment
    assert experiment is not None, "only an experiment is steered"
    shares = exposure_probabilities(endpoint.weights)
    is_auto, is_settled = experiment.promote == "auto", _is_settled(endpoint, shares)
    for arm, ruling in verdict.effects.items():
        is_over = ruling.decision == "rollback" and shares.get(arm, 0.0) > 0
        if is_over and (is_auto or (_is_broken(arm, verdict) and not is_settled)):
            return Move("take off", ruling.reason, arm)
    if is_auto and verdict.decision == "promote" and shares.get(verdict.arm, 0.0) < 1 and not is_settled:
        return Move("promote", verdict.reason, verdict.arm)
    return None if is_settled else _step(endpoint, verdict, shares, now_s)


def _is_broken(arm: str, verdict: Verdict) -> bool:
    """Return whether an arm breaks a bound of its own."""
    return not all(bound.ok for bound in verdict.guardrails.get(arm, {}).values())


def _is_settled(endpoint: Endpoint, shares: Mapping[str, float]) -> bool:
    """Return whether a person's last word was that challengers shall have no more than they have."""
    assert endpoint.experiment is not None
    last = endpoint.history[-1]
    has_traffic = any(share > 0 for arm, share in shares.items() if arm != endpoint.experiment.control)
    return last.by == "person" and (last.what in ("rollback", "promote") or (last.what == "split" and not has_traffic))


def _step(endpoint: Endpoint, verdict: Verdict, shares: dict[str, float], now_s: float) -> Move | None:
    """Return the ramp's next step, if it is time for one and nothing speaks against it."""
    experiment = endpoint.experiment
    assert experiment is not None
    share = WHOLE * (1 - shares[experiment.control])
    ahead = [percent for percent in experiment.ramp if percent > share + SLACK]
    is_time = now_s - endpoint.history[-1].time_s >= experiment.ramp_every_h * HOUR_S
    is_fine = verdict.srm.ok and all(bound.ok for bounds in verdict.guardrails.values() for bound in bounds.values())
    if not (ahead and is_time and is_fine and verdict.decision in ("continue", "promote")):
        return None
    challengers = {arm: weight for arm, weight in endpoint.weights.items() if arm != experiment.control}
    parts = exposure_probabilities(challengers if any(challengers.values()) else dict.fromkeys(challengers, 1.0))
    weights = {arm: ahead[0] * part for arm, part in parts.items()} | {experiment.control: WHOLE - ahead[0]}
    return Move("ramp", f"the ramp's step from {share:g} % to {ahead[0]:g} %", weights=tuple(weights.items()))
