"""The verdict: promote, rollback, continue or invalid, each for its reason, and no number out of unusable data."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import replace

import pytest

from cluster.serve_spec import GuardrailSpec, ServeSpec
from serving.contrast import Contrast
from serving.design import Design, design_of
from serving.guardrails import Tally, bounds_of
from serving.judgement import Evidence, Ruling, judged
from serving.ledger_rows import Exposure, Outcome
from serving.sample_ratio import Ratio
from serving.split import Split
from serving.verdict import Verdict, verdict_of
from serving.verdict_table import verdict_lines
from tests.experiment_rows import exposure, outcome

DESIGN = Design("router-v4", ("control", "candidate"), "control", missing="zero", horizon_s=10)
GUARDED = replace(DESIGN, guardrails=GuardrailSpec(error_rate=0.02))
FAIR = Ratio((500.0, 500.0), (500.0, 500.0))
BROKEN = Ratio((500.0, 300.0), (400.0, 400.0), log_evidence=1.0, peak=12.0)


def contrast(score: float = 0.0, ones: int = 100, better: float = 0.0, worse: float = 0.0) -> Contrast:
    """Return sums over 1,000 units at even weights, with ``ones`` of outcome 1 in the challenger."""
    return Contrast(
        score=score, variance=60.0, overlap=250.0, log_better=better, log_worse=worse,
        control_units=500, control_total=200, control_zeros=300, control_ones=200,
        challenger_units=500, challenger_total=ones, challenger_zeros=500 - ones, challenger_ones=ones,
    )  # fmt: skip


def decided(
    one: Contrast, design: Design = GUARDED, failed: Mapping[str, int] | None = None, ratio: Ratio = FAIR
) -> Ruling:
    bounds = bounds_of({arm: Tally(1000, (failed or {}).get(arm, 0), 1000, 0) for arm in design.arms}, design)
    return judged(Evidence({"candidate": one}, ratio, None, bounds), design)[1]


def simulated(
    rates: Mapping[str, float], num: int, seed: int = 0, weights: Mapping[str, float] | None = None
) -> tuple[list[Exposure], list[Outcome]]:
    """Return rows of units that come once a second and answer at once."""
    generator = random.Random(seed)
    split = Split(f"salt-{seed}", weights or dict.fromkeys(rates, 1.0))
    exposures, outcomes = [], []
    for number in range(num):
        arm = split.arm_of(f"unit-{number}")
        assert arm is not None
        exposures.append(exposure(str(number), f"unit-{number}", arm, split.probabilities, number, latency_s=0.1))
        outcomes.append(outcome(str(number), "success", float(generator.random() < rates[arm]), number + 0.5))
    return exposures, outcomes


def test_an_effect_above_zero_is_promoted_and_one_below_rolled_back() -> None:
    assert decided(contrast(60)).decision == "promote"
    assert decided(contrast(-60)).decision == "rollback"
    undecided = decided(contrast(10))
    assert undecided.decision == "continue"
    assert undecided.effect.estimate == pytest.approx(10 / 250)
    assert "holds 0" in undecided.reason


def test_a_broken_bound_is_rolled_back_however_good_the_effect() -> None:
    found = decided(contrast(60), failed={"candidate": 60})
    assert found.decision == "rollback"
    assert "candidate failed in 6.000% of 1000 requests; at most 2.000%" in found.reason


def test_a_control_over_its_bound_keeps_nobody_from_being_promoted() -> None:
    found = decided(contrast(60), failed={"control": 60})
    assert found.decision == "promote"
    assert "The control is over its own bound" in found.reason


def test_a_wrong_split_is_invalid_and_shows_no_effect() -> None:
    found = decided(contrast(60), ratio=BROKEN)
    assert found.decision == "invalid"
    assert (found.effect.estimate, found.effect.low, found.effect.high) == (None, None, None)
    assert "candidate has 300, 400 expected" in found.reason


def test_a_broken_bound_is_rolled_back_also_when_the_split_is_wrong() -> None:
    found = decided(contrast(60), ratio=BROKEN, failed={"candidate": 60})
    assert (found.decision, found.effect.estimate) == ("rollback", None)


@pytest.mark.parametrize("ones", [0, 9, 491])
def test_below_ten_of_each_value_it_is_undecided_and_shows_no_effect(ones: int) -> None:
    found = decided(contrast(60, ones=ones))
    assert (found.decision, found.effect.estimate) == ("continue", None)
    assert f"the rarest has {min(ones, 500 - ones)}" in found.reason


def test_at_ten_of_each_value_it_may_be_decided() -> None:
    assert decided(contrast(60, ones=10)).decision == "promote"
    assert decided(contrast(60, ones=490)).decision == "promote"


def test_the_exact_test_decides_without_ten_of_each_value() -> None:
    # Its share of 0.05 is a tenth, half of it on each side: evidence of 400, whose logarithm is 5.99.
    assert decided(contrast(0, ones=2, worse=5.9)).decision == "continue"
    found = decided(contrast(0, ones=2, worse=6.1))
    assert (found.decision, found.effect.estimate) == ("rollback", None)
    assert "2 of 500 units against 200 of 500" in found.reason
    assert decided(contrast(0, ones=2, better=6.1)).decision == "promote"
    assert decided(replace(contrast(0, ones=2, better=6.1), outside=1)).decision == "continue"


def test_several_challengers_share_the_error_budget() -> None:
    three = replace(DESIGN, arms=("control", "b", "c"))
    assert DESIGN.interval_alpha + 2 * DESIGN.exact_alpha == pytest.approx(0.05)
    assert 2 * (three.interval_alpha + 2 * three.exact_alpha) == pytest.approx(0.05)
    fair = Ratio((1.0,) * 3, (1.0,) * 3)

    def of(b: Contrast, c: Contrast) -> tuple[str, Ruling, dict[str, Ruling]]:
        return judged(Evidence({"b": b, "c": c}, fair, None, {}), three)

    leader, ruling, rulings = of(contrast(60), contrast(80))
    assert (leader, ruling.decision) == ("c", "promote")
    assert rulings["b"].decision == "promote"
    leader, ruling, rulings = of(contrast(-60), contrast(5))
    assert (leader, ruling.decision, rulings["b"].decision) == ("c", "continue", "rollback")
    assert "Take b off" in ruling.reason
    leader, ruling, _ = of(contrast(-60), contrast(-90))
    assert (leader, ruling.decision) == ("b", "rollback")
    # Wide enough for one challenger, not for two.
    assert decided(contrast(25)).decision == "promote"
    assert of(contrast(25), contrast(0))[1].decision == "continue"


def test_rows_become_the_verdict_that_was_promised() -> None:
    exposures, outcomes = simulated({"control": 0.4, "candidate": 0.6}, 2000)
    found = verdict_of(exposures, outcomes, DESIGN, as_of_s=10_000)
    printed = json.loads(found.as_json())
    assert set(printed) >= {"experiment", "arms", "effect", "srm", "guardrails", "decision", "reason"}
    assert printed["decision"] == "promote"
    assert set(printed["effect"]) == {"estimate", "low", "high"}
    assert printed["effect"]["low"] < 0.2 < printed["effect"]["high"]
    assert printed["arms"]["control"]["units"] + printed["arms"]["candidate"]["units"] == 2000
    assert printed["arms"]["control"]["interval"]["low"] < 0.4 < printed["arms"]["control"]["interval"]["high"]
    assert printed["srm"]["ok"] is True
    assert printed["waiting"] == 0
    assert Verdict.model_validate(printed) == found


def test_units_whose_horizon_has_not_ended_wait() -> None:
    exposures, outcomes = simulated({"control": 0.4, "candidate": 0.6}, 2000)
    found = verdict_of(exposures, outcomes, replace(DESIGN, horizon_s=3000), as_of_s=2001)
    assert (found.decision, found.waiting) == ("continue", 2000)
    assert found.arms["control"].mean is None
    assert "2000 wait" in found.reason


def test_nothing_seen_is_nothing_said() -> None:
    found = verdict_of([], [], DESIGN, as_of_s=0)
    assert (found.decision, found.effect.estimate, found.srm.ok) == ("continue", None, True)


def test_a_candidate_that_always_fails_is_rolled_back_by_the_exact_test() -> None:
    exposures, outcomes = simulated({"control": 0.9, "candidate": 0.0}, 60)
    found = verdict_of(exposures, outcomes, DESIGN, as_of_s=1000)
    assert found.decision == "rollback"
    assert "exact test" in found.reason


def test_lost_units_are_invalid() -> None:
    exposures, outcomes = simulated({"control": 0.4, "candidate": 0.6}, 3000)
    kept = [row for row in exposures if row.arm == "control" or int(row.request) % 4]
    found = verdict_of(kept, outcomes, DESIGN, as_of_s=10_000)
    assert (found.decision, found.srm.ok, found.effect.estimate) == ("invalid", False, None)
    assert verdict_of(exposures, outcomes, DESIGN, as_of_s=10_000).srm.ok


def test_arms_whose_units_answer_at_other_rates_cannot_be_compared_by_those_who_answer() -> None:
    exposures, outcomes = simulated({"control": 0.5, "candidate": 0.5}, 3000)
    arm_of = {row.request: row.arm for row in exposures}
    # In the candidate half of those who would be unhappy say nothing.
    spoken = [o for o in outcomes if not (arm_of[o.request] == "candidate" and o.value == 0 and int(o.request) % 2)]
    excluding = verdict_of(exposures, spoken, replace(DESIGN, missing="exclude"), as_of_s=10_000)
    assert excluding.decision == "invalid"
    assert "missing: zero" in excluding.reason
    counting = verdict_of(exposures, spoken, DESIGN, as_of_s=10_000)
    assert (counting.decision, counting.srm.ok) == ("continue", True)


def test_a_damaged_ledger_is_invalid() -> None:
    exposures, outcomes = simulated({"control": 0.4, "candidate": 0.6}, 2000)
    exposures[3] = exposures[3].model_copy(update={"probabilities": {"control": 0.5}})
    found = verdict_of(exposures, outcomes, DESIGN, as_of_s=10_000)
    assert (found.decision, found.effect.estimate) == ("invalid", None)


def test_a_third_arm_is_compared_with_the_control_alone() -> None:
    rates = {"control": 0.4, "good": 0.6, "bad": 0.2}
    design = replace(DESIGN, arms=tuple(rates))
    exposures, outcomes = simulated(rates, 4000, weights={"control": 2, "good": 1, "bad": 1})
    found = verdict_of(exposures, outcomes, design, as_of_s=10_000)
    assert (found.decision, found.arm) == ("promote", "good")
    assert found.effects["bad"].decision == "rollback"
    assert found.effects["bad"].effect.estimate == pytest.approx(-0.2, abs=0.1)


def test_the_design_is_what_the_file_declares() -> None:
    spec = ServeSpec.model_validate(
        {
            "endpoint": "support",
            "arms": {"old": {"release": "m@1", "weight": 9}, "new": {"release": "m@2", "weight": 1}},
            "experiment": {
                "name": "v2", "control": "old", "outcome": "solved", "horizon_h": 2, "missing": "zero",
                "guardrails": {"error_rate": 0.01, "slow": {"latency_s": 2.0, "rate": 0.05}},
            },
        }
    )  # fmt: skip
    assert spec.experiment is not None
    design = design_of(spec.experiment, [*spec.arms])
    assert (design.arms, design.control, design.challengers) == (("old", "new"), "old", ("new",))
    assert (design.outcome, design.horizon_s, design.missing) == ("solved", 7200, "zero")
    assert design.guardrails.error_rate == 0.01


def overloaded_candidate(num: int = 3000) -> tuple[list[Exposure], list[Outcome]]:
    """Return rows of equal arms of which one turns away whoever comes in rush hours, who are harder to serve.

    Who was turned away is not seen again.
    """
    generator = random.Random(0)
    split = Split("salt", {"control": 1.0, "candidate": 1.0})
    exposures, outcomes = [], []
    for number in range(num):
        is_rush = number % 10 < 4
        arm = split.arm_of(f"unit-{number}")
        assert arm is not None
        status = "overloaded" if is_rush and arm == "candidate" else "ok"
        exposures.append(exposure(str(number), f"unit-{number}", arm, split.probabilities, number, status=status))
        if status == "ok":
            value = float(generator.random() < (0.3 if is_rush else 0.7))
            outcomes.append(outcome(str(number), "success", value, number + 0.5))
    return exposures, outcomes


def test_an_arm_without_room_has_not_failed_and_does_not_win_by_whom_it_turned_away() -> None:
    exposures, outcomes = overloaded_candidate()
    found = verdict_of(exposures, outcomes, replace(GUARDED, missing="exclude"), 4000.0)
    means = {arm: summary.mean for arm, summary in found.arms.items()}
    assert means["candidate"] is not None
    assert means["control"] is not None
    assert means["candidate"] > means["control"] + 0.1, "the easier ones are left"
    assert found.guardrails["candidate"]["error_rate"].ok
    assert found.overloaded["control"] == 0 < found.overloaded["candidate"]
    assert found.decision == "invalid"
    assert "Units of one arm have outcomes more often" in found.reason
    as_failures = verdict_of(exposures, outcomes, GUARDED, 4000.0)
    assert as_failures.decision == "rollback", "declared to count as 0, they do"


def test_leaving_out_the_rows_of_those_turned_away_would_be_seen() -> None:
    exposures, outcomes = overloaded_candidate()
    answered = [row for row in exposures if row.status == "ok"]
    found = verdict_of(answered, outcomes, replace(GUARDED, missing="exclude"), 4000.0)
    assert (found.decision, found.srm.ok) == ("invalid", False)


def test_an_arm_that_turns_away_more_than_is_allowed_is_rolled_back() -> None:
    design = replace(DESIGN, missing="exclude", guardrails=GuardrailSpec(overload_rate=0.1))
    exposures, outcomes = overloaded_candidate()
    found = verdict_of(exposures, outcomes, design, 4000.0)
    assert found.decision == "rollback"
    assert "candidate had no room in" in found.reason
    assert any("turned away for want of room: candidate" in line for line in verdict_lines(found))
