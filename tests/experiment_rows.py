"""Ledger rows of an experiment, with only what a verdict reads said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serving.ledger_rows import Exposure, Outcome


def exposure(
    request: str, unit: str, arm: str, probabilities: Mapping[str, float], time_s: float, **more: Any
) -> Exposure:
    fixed = {"endpoint": "e", "experiment": "e", "has_unit": True, "epoch": 1}
    row = {"request": request, "unit": unit, "arm": arm, "probabilities": dict(probabilities), "time_s": time_s}
    return Exposure.model_validate(fixed | row | more)


def outcome(request: str, name: str, value: float, time_s: float) -> Outcome:
    return Outcome(request=request, name=name, value=value, time_s=time_s)
