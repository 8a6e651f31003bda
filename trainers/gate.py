"""Gate rules and scores → accept, hold or reject, with the numbers behind every rule.

A rule is true, false or undecided. Any false one rejects; otherwise an undecided one (a number is missing or not
finite) holds; otherwise the gate accepts, also when there are no rules. A metric without a test's name means every
test there is: the rule must hold on each, and the outcome shows the numbers of the test that decided. A look at the
release itself (cluster/gate_terms.py) has one number, or none and why. A rule that names the champion does not apply
while there is none. Numbers closer than 1e-9 are equal, so that `accuracy >= base + 0.1` does not fail on the last
binary digit of a sum.

The policy is pure: facts in, decision out; whoever calls it acts. The grammar of rules is trainers/gate_rules.py.
Left out: significance (compare the paired intervals of the report for that).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite

from cluster.records import GateDecision, GateReport, Metrics, RuleOutcome
from trainers.gate_rules import Operand, Operator, Rule, parse_rule

TOLERANCE = 1e-9


@dataclass(frozen=True)
class Scores:
    """The numbers that rules speak of, each as test name → metric → value.

    An unnamed test file has the name "test". ``base`` is None when the base was not scored, ``champion`` when there is
    no champion yet. A rule without a test speaks of every test but those in ``slices``. ``facts`` are numbers of the
    release itself; ``notes`` say of a name (on a test, or "" for facts) what stands behind its number, or why it has
    none.
    """

    test: dict[str, Metrics]
    base: dict[str, Metrics] | None = None
    champion: dict[str, Metrics] | None = None
    slices: frozenset[str] = frozenset()
    facts: Metrics = field(default_factory=dict[str, float])
    notes: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])

    @property
    def everywhere(self) -> list[str]:
        """The tests that a rule without a test speaks of."""
        return [test for test in self.test if test not in self.slices]


def decide(rules: Sequence[str], scores: Scores) -> GateReport:
    """Return the gate's decision; without rules it accepts. Raises JobFileError for a rule that cannot be read."""
    outcomes = [_outcome(parse_rule(rule), scores) for rule in rules]
    decision: GateDecision = "accept"
    if any(outcome.passed is None for outcome in outcomes):
        decision = "hold"
    if any(outcome.passed is False for outcome in outcomes):
        decision = "reject"
    return GateReport(decision=decision, rules=outcomes)


def _outcome(rule: Rule, scores: Scores) -> RuleOutcome:
    if "champion" in rule.peers and scores.champion is None:
        return RuleOutcome(rule=rule.text, left=None, right=None, passed=True, note="no champion yet")
    everywhere = any(side.is_on_tests and side.test is None for side in rule.sides)
    if not everywhere:
        return _outcome_on(rule, None, scores)
    if not scores.everywhere:
        return RuleOutcome(rule=rule.text, left=None, right=None, passed=None, note="no test was scored")
    outcomes = [_outcome_on(rule, test, scores) for test in scores.everywhere]
    decisive = min(outcomes, key=_severity)
    if len(outcomes) == 1:
        return decisive
    seen = ", ".join(f"{test}: {_word(outcome)}" for test, outcome in zip(scores.everywhere, outcomes, strict=True))
    return decisive.model_copy(update={"note": "; ".join(part for part in (seen, decisive.note) if part)})


def _severity(outcome: RuleOutcome) -> tuple[int, float]:
    """Order a rule's tests by how much they decide: failed, undecided, passed; the smallest margin first."""
    rank = {False: 0, None: 1, True: 2}[outcome.passed]
    margin = 0.0 if outcome.left is None or outcome.right is None else abs(outcome.left - outcome.right)
    return rank, margin if rank == 2 else -margin


def _word(outcome: RuleOutcome) -> str:
    return {False: "failed", None: "undecided", True: "passed"}[outcome.passed]


def _outcome_on(rule: Rule, test: str | None, scores: Scores) -> RuleOutcome:
    left, left_note = _value(rule, rule.left, test, scores)
    right, right_note = _value(rule, rule.right, test, scores)
    note = "; ".join(part for part in (left_note, right_note) if part)
    passed = None if left is None or right is None else _holds(left, rule.operator, right)
    return RuleOutcome(rule=rule.text, left=left, right=right, passed=passed, note=note)


def _value(rule: Rule, side: Operand, test: str | None, scores: Scores) -> tuple[float | None, str]:
    """Return a side's number, or None, and what there is to say of it: which number is missing and why."""
    if side.number is not None:
        return side.number + side.offset, ""
    named = rule.measured if side.peer else side
    key, on = named.key, (named.test or test) if named.is_on_tests else ""
    assert on is not None, "without a test of its own, a metric is looked up on each"
    table = {"base": scores.base, "champion": scores.champion, None: scores.test if on else {"": scores.facts}}[
        side.peer
    ]
    whose = f"{side.peer}'s " if side.peer else ""
    if table is None:
        return None, f"{whose}{key} is missing: the {side.peer} was not scored"
    number, place = table.get(on, {}).get(key), f" on {on}" if on else ""
    note = "" if side.peer else scores.notes.get((on, key), "")
    if number is None:
        return None, f"{whose}{key}{place} is missing" + (f": {note}" if note else "")
    if not isfinite(number):
        return None, f"{whose}{key}{place} is {number}"
    return number + side.offset, note


def _holds(left: float, operator: Operator, right: float) -> bool:
    equal = abs(left - right) <= TOLERANCE
    match operator:
        case ">=":
            return left > right or equal
        case "<=":
            return left < right or equal
        case ">":
            return left > right and not equal
        case "<":
            return left < right and not equal
        case "==":
            return equal
