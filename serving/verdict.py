"""Ledger rows of an experiment → its verdict, as often as anyone looks.

The parts, each in a file of its own: rows become units (units), units become sums (contrast, two_by_two, sample_ratio)
and requests counts (guardrails), which decide (judgement). Nothing here knows how often it has been called before:
every part holds at all times at once, so looking costs nothing and stopping at the first decision is allowed.

Means of arms are for the reader: under moving weights and a drifting rate their difference is not the effect, which
is estimated from units that had the same choice at the same time.

Left out: reading the ledger, and acting on the decision.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import exp

from pydantic import Field

from cluster.records import Interval, Record
from serving.contrast import contrast_of
from serving.design import Design
from serving.guardrails import LARGEST_LOG, Bound, bounds_of, tallies_of
from serving.judgement import Decision, Effect, Evidence, Ruling, judged
from serving.ledger_rows import Exposure, Outcome
from serving.sample_ratio import Ratio, ratio_of
from serving.sequential import mean_interval
from serving.units import Units, folded

TIGHTEST_UNITS = 1000  # where an arm's own interval is narrowest; for display only


class ArmSummary(Record):
    """What is known of one arm by itself."""

    units: int = Field(description="units that count, by their first exposure")
    mean: float | None
    interval: Interval | None = Field(description="of the mean, valid at every look")


class SampleRatio(Record):
    """Whether units are split as recorded."""

    ok: bool
    evidence: float = Field(description="highest so far against the recorded split; not ok from 1 / its error budget")


class Verdict(Record):
    """What `hone verdict` prints: the state of an experiment and what it says to do."""

    experiment: str
    arm: str = Field(description="the challenger that decision and effect are about")
    arms: dict[str, ArmSummary]
    effect: Effect
    effects: dict[str, Ruling] = Field(description="every challenger against the control")
    srm: SampleRatio
    guardrails: dict[str, dict[str, Bound]]
    overloaded: dict[str, int] = Field(
        default_factory=dict[str, int], description="requests by arm that were turned away for want of room"
    )
    waiting: int = Field(description="units whose horizon has not ended")
    decision: Decision
    reason: str


def verdict_of(exposures: Iterable[Exposure], outcomes: Iterable[Outcome], design: Design, as_of_s: float) -> Verdict:
    """Return the verdict on the rows that were known at ``as_of_s``; see serving/units.py for late ones."""
    rows: Sequence[Exposure] = list(exposures)
    units = folded(rows, outcomes, design, as_of_s)
    tallies = tallies_of(rows, design, as_of_s)
    evidence = evidence_of(units, bounds_of(tallies, design), design)
    found = verdict_from(units, evidence, design)
    return found.model_copy(update={"overloaded": {arm: tally.overloaded for arm, tally in tallies.items()}})


def evidence_of(units: Units, bounds: dict[str, dict[str, Bound]], design: Design) -> Evidence:
    """Return the sums that a decision rests on."""
    return Evidence(
        contrasts={arm: contrast_of(units, design.control, arm) for arm in design.challengers},
        exposed=ratio_of(units),
        counted=ratio_of(units, counted_only=True) if design.missing == "exclude" else None,
        bounds=bounds,
        unusable=units.unusable,
        waiting=len(units.arm_N) - units.num_matured,
    )


def verdict_from(units: Units, evidence: Evidence, design: Design) -> Verdict:
    """Return the verdict on the evidence, with the arms' own means."""
    leader, ruling, rulings = judged(evidence, design)
    return Verdict(
        experiment=design.experiment,
        arm=leader,
        arms={arm: _summary(units, arm, design) for arm in design.arms},
        effect=ruling.effect,
        effects=rulings,
        srm=_sample_ratio(evidence, design),
        guardrails={arm: dict(bounds) for arm, bounds in evidence.bounds.items()},
        waiting=evidence.waiting,
        decision=ruling.decision,
        reason=ruling.reason,
    )


def _summary(units: Units, arm: str, design: Design) -> ArmSummary:
    value_N = units.value_N[units.counted & (units.arm_N == units.arms.index(arm))]
    mean = float(value_N.mean()) if len(value_N) else None
    return ArmSummary(units=len(value_N), mean=mean, interval=mean_interval(value_N, design.alpha, TIGHTEST_UNITS))


def _sample_ratio(evidence: Evidence, design: Design) -> SampleRatio:
    checks: list[Ratio] = [check for check in (evidence.exposed, evidence.counted) if check is not None]
    return SampleRatio(
        ok=all(check.is_fine(design.ratio_check_alpha) for check in checks),
        evidence=exp(min(LARGEST_LOG, max(check.peak for check in checks))),
    )
