"""Evidence → promote, rollback, continue or invalid, for each challenger and for the experiment.

For one challenger, the first that holds:

1. rollback, if it breaks a bound: that speaks of the arm's own requests, whatever is wrong with the split.
2. invalid, if the split is not what was recorded, or rows contradict themselves: no effect is shown then.
3. rollback or promote, if the exact test says so (serving/two_by_two.py): it needs no minimum of units.
4. continue, until both arms have ten units of each binary value: the interval is not to be trusted before.
5. rollback, if the effect's interval lies below 0; promote, if it lies above.
6. continue.

With several challengers each is judged against the control and none against another, at its share of the error budget
(Bonferroni). The experiment promotes the one with the highest lower end among those to be promoted; it is rolled back
when every challenger is; otherwise it goes on, naming those that should be taken off.

A control that breaks a bound keeps nobody from being promoted, and saves nobody from a rollback.

The policy is pure; whoever calls it acts. Left out: stopping for futility, so an experiment without an effect goes on
until a person ends it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import Literal

from cluster.records import Record
from serving.contrast import Contrast
from serving.design import Design
from serving.guardrails import Bound
from serving.sample_ratio import Ratio

Decision = Literal["promote", "rollback", "continue", "invalid"]
WORDS = {"error_rate": "failed", "overload_rate": "had no room", "slow": "was too slow"}


@dataclass(frozen=True)
class Evidence:
    """All that a decision rests on; every part of it grows by adding what is new."""

    contrasts: Mapping[str, Contrast]
    """By challenger."""
    exposed: Ratio
    """The sample-ratio check over all units."""
    counted: Ratio | None
    """The same over units with an outcome, where those without are left out."""
    bounds: Mapping[str, Mapping[str, Bound]]
    unusable: int = 0
    waiting: int = 0
    """Units whose horizon has not ended."""


class Effect(Record):
    """The challenger's mean minus the control's; null where the data do not support a number."""

    estimate: float | None = None
    low: float | None = None
    high: float | None = None


class Ruling(Record):
    """The decision on one challenger."""

    decision: Decision
    reason: str
    effect: Effect


def judged(evidence: Evidence, design: Design) -> tuple[str, Ruling, dict[str, Ruling]]:
    """Return the challenger that the experiment's decision is about, that decision, and every challenger's own."""
    flaw = flaw_of(evidence, design)
    rulings = {arm: _ruling(arm, evidence, design, flaw) for arm in design.challengers}
    leader, ruling = _overall(rulings)
    if over := _broken(design.control, evidence):
        ruling = ruling.model_copy(update={"reason": f"{ruling.reason} The control is over its own bound: {over}"})
    return leader, ruling, rulings


def flaw_of(evidence: Evidence, design: Design) -> str:
    """Return why the arms cannot be compared, or "" if they can."""
    if evidence.unusable:
        return (
            f"{evidence.unusable} units have probabilities that do not sum to 1, an arm of probability 0, or an "
            "outcome that is no number: the ledger is damaged."
        )
    if not evidence.exposed.is_fine(design.ratio_check_alpha):
        return f"Units are not split as recorded: {_seen(evidence.exposed, design)}."
    if evidence.counted is not None and not evidence.counted.is_fine(design.ratio_check_alpha):
        return (
            f"Units of one arm have outcomes more often: {_seen(evidence.counted, design)}. Leaving the others out "
            "compares different people; declare `missing: zero` for the next experiment."
        )
    return ""


def _seen(ratio: Ratio, design: Design) -> str:
    parts = zip(design.arms, ratio.observed, ratio.expected, strict=True)
    return ", ".join(f"{arm} has {observed:.0f}, {expected:.0f} expected" for arm, observed, expected in parts)


def _ruling(arm: str, evidence: Evidence, design: Design, flaw: str) -> Ruling:
    contrast = evidence.contrasts[arm]
    effect = Effect() if flaw else _effect(contrast, design)
    if broken := _broken(arm, evidence):
        return Ruling(decision="rollback", reason=broken, effect=effect)
    if flaw:
        return Ruling(decision="invalid", reason=flaw, effect=effect)
    decision, reason = _compared(arm, contrast, effect, evidence.waiting, design)
    return Ruling(decision=decision, reason=reason, effect=effect)


def _effect(contrast: Contrast, design: Design) -> Effect:
    """Return the effect with its interval, empty below the least number of units."""
    if contrast.least < design.least_of_each:
        return Effect()
    interval = contrast.interval(design.interval_alpha, design.tightest_at)
    if interval is None:
        return Effect()
    return Effect(estimate=interval.value, low=interval.low, high=interval.high)


def _compared(arm: str, contrast: Contrast, effect: Effect, waiting: int, design: Design) -> tuple[Decision, str]:
    """Return the decision on an arm whose data can be used and whose bounds hold."""
    control, outcome = design.control, design.outcome
    if exactly := _exact(contrast, design):
        word = "above" if exactly == "promote" else "below"
        return exactly, f"{arm}'s {outcome} is {word} {control}'s by the exact test: {_sums(contrast)}."
    if effect.low is None or effect.high is None or effect.estimate is None:
        return "continue", _too_few(contrast, waiting, design)
    seen = f"{effect.estimate:+.4g} ({effect.low:+.4g} to {effect.high:+.4g}, valid at every look)"
    if effect.high < 0:
        return "rollback", f"{arm}'s {outcome} is below {control}'s: {seen}."
    if effect.low > 0:
        return (
            "promote",
            f"{arm}'s {outcome} is above {control}'s: {seen}; its bounds hold and the split is as recorded.",
        )
    return "continue", f"{arm}'s {outcome} against {control}'s is undecided: {seen} holds 0."


def _exact(contrast: Contrast, design: Design) -> Literal["promote", "rollback", ""]:
    enough = -log(design.exact_alpha)
    if contrast.outside:
        return ""
    if contrast.log_worse >= enough:
        return "rollback"
    return "promote" if contrast.log_better >= enough else ""


def _sums(contrast: Contrast) -> str:
    challenger = f"{contrast.challenger_total:g} of {contrast.challenger_units:g} units"
    return f"{challenger} against {contrast.control_total:g} of {contrast.control_units:g}"


def _too_few(contrast: Contrast, waiting: int, design: Design) -> str:
    units = contrast.control_units + contrast.challenger_units
    counted = f"Too few units: {units:g} count and {waiting} wait for the end of their {design.horizon_s / 3600:g} h; "
    if contrast.is_binary:
        return f"{counted}each arm needs {design.least_of_each} with outcome 0 and 1, the rarest has {contrast.least}."
    return f"{counted}each arm needs {design.least_of_each} above and below the mean, the rarest has {contrast.least}."


def _broken(arm: str, evidence: Evidence) -> str:
    """Return how the arm breaks a bound, or "" if it does not."""
    for name, bound in evidence.bounds.get(arm, {}).items():
        if bound.rate is not None and not bound.ok:
            return (
                f"{arm} {WORDS[name]} in {bound.rate:.3%} of {bound.requests} requests; at most {bound.bound:.3%} is "
                f"allowed (evidence {bound.evidence:.3g} that its rate is above that)."
            )
    return ""


def _overall(rulings: Mapping[str, Ruling]) -> tuple[str, Ruling]:
    remaining = {arm: ruling for arm, ruling in rulings.items() if ruling.decision != "rollback"}
    if not remaining:
        leader = max(rulings, key=lambda arm: _rank(rulings[arm]))
        return leader, rulings[leader]
    leader = max(remaining, key=lambda arm: _rank(remaining[arm]))
    off = [f" Take {arm} off: {ruling.reason}" for arm, ruling in rulings.items() if ruling.decision == "rollback"]
    ruling = remaining[leader]
    return leader, ruling.model_copy(update={"reason": ruling.reason + "".join(off)})


def _rank(ruling: Ruling) -> tuple[bool, float]:
    """Order challengers: those to be promoted first, then by the lower end of their effect."""
    low = ruling.effect.low
    return ruling.decision == "promote", float("-inf") if low is None else low
