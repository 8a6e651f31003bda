"""Gate rules: what they mean, what is refused while it is cheap, and which decision follows."""

from __future__ import annotations

import json
import math
import pickle

import pytest

from cluster.errors import JobFileError
from cluster.records import GateReport
from trainers.gate import Scores, decide
from trainers.gate_rules import parse_rule

TUNED = {"accuracy": 0.80, "macro_f1": 0.70, "loss": 0.5, "rouge_l": 0.44}
BASE = {"accuracy": 0.60, "macro_f1": 0.30, "loss": 1.5, "rouge_l": 0.14}
CHAMPION = {"accuracy": 0.79, "macro_f1": 0.72, "loss": 0.5, "rouge_l": 0.45}
SCORES = Scores({"test": TUNED}, {"test": BASE}, {"test": CHAMPION})


def decision(*rules: str, scores: Scores = SCORES) -> str:
    return decide(rules, scores).decision


@pytest.mark.parametrize(
    ("rule", "holds"),
    [
        ("accuracy >= 0.70", True),
        ("accuracy >= 0.81", False),
        ("accuracy > 0.80", False),
        ("accuracy >= 0.80", True),
        ("accuracy == 0.8", True),
        ("loss <= base", True),
        ("loss < champion", False),
        ("loss <= champion", True),
        ("base < accuracy", True),
        ("accuracy >= base + 0.10", True),
        ("accuracy >= base + 0.21", False),
        ("base + 0.10 <= accuracy", True),
        ("accuracy - 0.10 >= base", True),
        ("rouge_l >= champion - 0.01", True),
        ("rouge_l>=champion-0.005", False),
        ("test.accuracy >= base", True),
        ("accuracy >= macro_f1", True),
        ("loss >= -1", True),
        ("loss<=5e-1", True),
        ("0.5 + 0.2 <= accuracy", True),
        ("  accuracy>=.7  ", True),
    ],
)
def test_a_rule_means_what_it_says(rule: str, holds: bool) -> None:
    report = decide([rule], SCORES)
    assert report.rules[0].passed is holds
    assert report.rules[0].rule == rule
    assert report.decision == ("accept" if holds else "reject")


def test_the_numbers_compared_are_reported() -> None:
    outcome = decide(["accuracy >= base + 0.10"], SCORES).rules[0]
    assert (outcome.left, outcome.right) == (0.80, pytest.approx(0.70))


def test_the_last_binary_digit_decides_nothing() -> None:
    # 0.2 + 0.1 is 0.30000000000000004 in binary.
    scores = Scores({"test": {"accuracy": 0.3}}, {"test": {"accuracy": 0.2}})
    assert decision("accuracy >= base + 0.1", scores=scores) == "accept"
    # 0.7 + 0.1 is 0.7999999999999999 in binary.
    scores = Scores({"test": {"accuracy": 0.8}}, {"test": {"accuracy": 0.7}})
    assert decision("accuracy > base + 0.1", scores=scores) == "reject"
    assert decision("base + 0.1 < accuracy", scores=scores) == "reject"
    assert decision("accuracy <= base + 0.1", scores=scores) == "accept"


def test_no_rules_accept() -> None:
    assert decide([], Scores({})) == GateReport(decision="accept", rules=[])


def test_a_missing_number_holds_and_is_named() -> None:
    report = decide(["bleu >= 0.2"], SCORES)
    assert report.decision == "hold"
    assert report.rules[0].passed is None
    assert report.rules[0].note == "bleu on test is missing"
    without_base = decide(["accuracy >= base"], Scores({"test": TUNED}))
    assert without_base.decision == "hold"
    assert "base was not scored" in without_base.rules[0].note
    champion = Scores({"test": TUNED}, champion={"test": {}})
    assert decide(["accuracy >= champion"], champion).rules[0].note == "champion's accuracy on test is missing"
    assert decision("accuracy >= 0.1", scores=Scores({})) == "hold"


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("rule", ["loss <= 3", "loss >= 0", "loss == loss", "loss > -1"])
def test_a_number_that_is_not_finite_never_passes(number: float, rule: str) -> None:
    report = decide([rule], Scores({"test": {"loss": number}}))
    assert report.decision == "hold"
    assert "Infinity" not in report.as_json()
    assert "NaN" not in report.as_json()
    json.loads(report.as_json())


def test_a_false_rule_outweighs_a_missing_number() -> None:
    assert decision("bleu >= 0.2", "accuracy >= 0.9") == "reject"
    assert decision("bleu >= 0.2", "accuracy >= 0.7") == "hold"


def test_a_rule_about_the_champion_passes_while_there_is_none() -> None:
    report = decide(["accuracy >= champion + 0.5", "accuracy >= 0.7"], Scores({"test": TUNED}))
    assert report.decision == "accept"
    assert report.rules[0].note == "no champion yet"


NAMED = Scores(
    {"old": {"accuracy": 0.9}, "new": {"accuracy": 0.6}}, {"old": {"accuracy": 0.7}, "new": {"accuracy": 0.5}}
)


def test_a_metric_without_a_test_must_hold_on_every_test() -> None:
    assert decision("accuracy >= 0.6", scores=NAMED) == "accept"
    outcome = decide(["accuracy >= 0.7"], NAMED).rules[0]
    assert (outcome.passed, outcome.left) == (False, 0.6)
    assert outcome.note == "old: passed, new: failed"


def test_base_is_that_of_the_same_test() -> None:
    assert decision("accuracy >= base + 0.1", scores=NAMED) == "accept"
    assert decision("accuracy >= base + 0.15", scores=NAMED) == "reject"
    assert decision("old.accuracy >= base + 0.15", scores=NAMED) == "accept"
    assert decision("old.accuracy >= new.accuracy + 0.2", scores=NAMED) == "accept"
    assert decision("gone.accuracy >= 0.1", scores=NAMED) == "hold"


def test_the_test_that_decides_most_is_shown() -> None:
    assert decide(["accuracy >= 0.5"], NAMED).rules[0].left == 0.6
    assert decide(["accuracy >= 0.95"], NAMED).rules[0].left == 0.6
    assert decide(["accuracy <= 0.5"], NAMED).rules[0].left == 0.9


def test_one_test_without_the_number_holds_the_rule() -> None:
    scores = Scores({"old": {"accuracy": 0.9}, "new": {}})
    outcome = decide(["accuracy >= 0.5"], scores).rules[0]
    assert outcome.passed is None
    assert outcome.note == "old: passed, new: undecided; accuracy on new is missing"


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("", "character 1: expected a number, a metric, base or champion, found 'the end'"),
        ("accuracy", "character 9: expected one of"),
        ("accuracy >=", "character 12: expected a number"),
        ("accuracy => 0.7", "found '='"),
        ("accuracy != 0.7", "found '!'"),
        ("accuracy >= 70%", "70 % is 0.70"),
        ("accuracy >= 70", "lies between 0 and 1"),
        ("accuracy - 0.5 >= 0.6", "lies between 0 and 1"),
        ("accuracy >= 0.7 and loss <= 1", "expected the end of the rule, found 'and'"),
        ("accuracy >= base + macro_f1", "expected a number after + or -, found 'macro_f1'"),
        ("accuracy >= base * 2", "found '*'"),
        ("accuracy >= - base", "expected a number after the sign, found 'base'"),
        ("0.5 <= accuracy <= 0.9", "expected the end of the rule, found '<='"),
        ("accurcy >= 0.7", "did you mean 'accuracy'"),
        ("test.accurcy >= 0.7", "did you mean 'accuracy'"),
        ("base.accuracy <= 0.7", "write base alone"),
        ("base >= 0.5", "names no metric"),
        ("base >= champion", "names no metric"),
        ("0.5 <= 0.7", "names no metric"),
    ],
)
def test_what_cannot_be_decided_is_refused_with_its_place(rule: str, message: str) -> None:
    with pytest.raises(JobFileError) as refusal:
        parse_rule(rule)
    assert message in str(refusal.value)
    assert repr(rule) in str(refusal.value)
    assert refusal.value.remedy
    assert str(pickle.loads(pickle.dumps(refusal.value))) == str(refusal.value)


def test_rules_are_held_against_what_the_job_will_compute() -> None:
    with pytest.raises(JobFileError, match="does not compute 'bleu'"):
        parse_rule("bleu >= 0.2", metrics=["accuracy", "loss"])
    with pytest.raises(JobFileError, match="did you mean 'old'"):
        parse_rule("olt.accuracy >= 0.2", tests=["old", "new"])
    with pytest.raises(JobFileError, match=r"evaluate\.base: true"):
        parse_rule("accuracy >= base", base_scored=False)
    parsed = parse_rule("old.accuracy >= base + 0.1", metrics=["accuracy"], tests=["old"])
    assert (parsed.left.test, parsed.left.metric, parsed.operator) == ("old", "accuracy", ">=")
    assert (parsed.right.peer, parsed.right.offset) == ("base", 0.1)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("worst_slice(region) >= 0.6", "write worst_slice(COLUMN).METRIC"),
        ("worst_slice().accuracy >= 0.6", "write worst_slice(COLUMN).METRIC"),
        ("worst_slce(region).accuracy >= 0.6", "did you mean 'worst_slice'"),
        ("worst_slice(region).accurcy >= 0.6", "did you mean 'accuracy'"),
        ("worst_slice(region).accuracy >= 60", "lies between 0 and 1"),
        ("robustness_drop(typos).accuracy <= 10", "lies between -1 and 1"),
        ("robustness_drop(typos).accuracy <= base", "is about the release alone"),
        ("consistency >= 80", "lies between 0 and 1"),
        ("consistensy >= 0.8", "did you mean 'consistency'"),
        ("old.memorised <= 0.05", "about the release, not about a test"),
        ("old.general_drop(accuracy) <= 0.05", "about the release, not about a test"),
        ("general_drop(accurcy) <= 0.05", "did you mean 'accuracy'"),
        ("memorised(x) <= 0.05", "takes nothing in parentheses"),
        ("base.worst_slice(region).accuracy >= 0.1", "write base alone"),
    ],
)
def test_a_look_that_cannot_be_decided_is_refused(rule: str, message: str) -> None:
    with pytest.raises(JobFileError) as refusal:
        parse_rule(rule)
    assert message in str(refusal.value)


LOOKS = Scores(
    {
        "old": {"accuracy": 0.9, "worst_slice(region).accuracy": 0.7},
        "new": {"accuracy": 0.6, "worst_slice(region).accuracy": 0.5},
    },
    base={"old": {"worst_slice(region).accuracy": 0.3}, "new": {"worst_slice(region).accuracy": 0.45}},
    facts={"memorised": 0.01, "general_drop(rouge_l)": 0.04},
    notes={("new", "worst_slice(region).accuracy"): "worst: south", ("", "general_perplexity_ratio"): "no rows"},
)


def test_a_look_at_tests_must_hold_on_every_test_and_says_what_is_behind_it() -> None:
    outcome = decide(["worst_slice(region).accuracy >= 0.6"], LOOKS).rules[0]
    assert (outcome.passed, outcome.left) == (False, 0.5)
    assert outcome.note == "old: passed, new: failed; worst: south"
    assert decision("old.worst_slice(region).accuracy >= 0.6", scores=LOOKS) == "accept"
    assert decision("worst_slice(region).accuracy >= base + 0.05", scores=LOOKS) == "accept"
    assert decision("worst_slice(region).accuracy >= base + 0.06", scores=LOOKS) == "reject"


def test_a_fact_of_the_release_is_looked_up_once_and_holds_where_it_is_missing() -> None:
    assert decision("memorised <= 0.05", "general_drop(rouge_l) <= 0.05", scores=LOOKS) == "accept"
    assert decision("general_drop(rouge_l) <= 0.03", scores=LOOKS) == "reject"
    assert decision("memorised <= 0.05", scores=Scores({}, facts={"memorised": 0.0})) == "accept"
    outcome = decide(["general_perplexity_ratio <= 1.1"], LOOKS).rules[0]
    assert (outcome.passed, outcome.note) == (None, "general_perplexity_ratio is missing: no rows")
