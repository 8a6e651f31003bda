"""The text of a gate rule → what it compares, or a refusal before anything expensive starts.

    rule := term OP term                 OP: >= > <= < ==
    term := operand [("+" | "-") NUMBER]
    operand := NUMBER | METRIC | TEST.METRIC | SPEED | base | champion

`base` and `champion` are the same metric on the same test, of the untuned base and of the current champion. A metric of
speed (``cluster.speed_spec``) is the release's own, on no test and without a peer. Rules are
parsed when the job file is read, long before there are numbers (trainers/gate.py decides on those), so everything
that can be known then is refused then: names that do not exist or that the job will not compute, and bounds that no
share can reach. Another kind of operand is one more token and one more case of `_operand`.

Left out: boolean operators (the gate holds every rule to be true) and products.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, cast

from cluster.errors import JobFileError
from cluster.speed_spec import SPEED_METRICS
from trainers.metrics import METRICS, did_you_mean

Operator = Literal[">=", ">", "<=", "<", "=="]
Peer = Literal["base", "champion"]

WHERE = "gate"
REMEDY = "write a rule such as 'accuracy >= 0.70', 'accuracy >= base + 0.10' or 'loss <= champion'"
TOKEN = re.compile(
    r"\s*(?:(?P<dotted>[A-Za-z_]\w*\.[A-Za-z_]\w*)|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<operator>>=|<=|==|>|<)|(?P<sign>[+-]))"
)


@dataclass(frozen=True)
class Operand:
    """One side of a rule: a number, a metric (on one test, or on each) or a peer's same metric, plus an offset."""

    number: float | None = None
    metric: str | None = None
    test: str | None = None
    peer: Peer | None = None
    offset: float = 0.0


@dataclass(frozen=True)
class Rule:
    """A parsed gate rule: ``text`` as the user wrote it, and the comparison it stands for."""

    text: str
    left: Operand
    operator: Operator
    right: Operand

    @property
    def sides(self) -> tuple[Operand, Operand]:
        """Both sides, left first."""
        return self.left, self.right

    @property
    def peers(self) -> set[str]:
        """Which of base and champion the rule names."""
        return {side.peer for side in self.sides if side.peer is not None}

    @property
    def measured(self) -> Operand:
        """The side that names a metric, the left one if both do: the metric and test that a peer takes over."""
        return self.left if self.left.metric is not None else self.right


@dataclass(frozen=True)
class Token:
    """A piece of a rule and where it begins (0-based)."""

    kind: str
    text: str
    position: int


def parse_rule(
    rule: str,
    *,
    metrics: Collection[str] | None = None,
    tests: Collection[str] | None = None,
    base_scored: bool = True,
) -> Rule:
    """Return the parsed rule.

    ``metrics`` are the names the run will compute (default: every known one), ``tests`` the names of its tests
    (default: any), ``base_scored`` whether it scores the base. Raises JobFileError with the rule, the position and the
    remedy for anything that could never be decided.
    """
    tokens = list(_tokens(rule))
    left, rest = _operand(rule, tokens)
    if rest[0].kind != "operator":
        raise _refusal(rule, rest[0], "expected one of >= > <= < ==")
    operator = cast(Operator, rest[0].text)
    right, rest = _operand(rule, rest[1:])
    if rest[0].kind != "end":
        raise _refusal(rule, rest[0], "expected the end of the rule")
    parsed = Rule(rule, left, operator, right)
    if parsed.measured.metric is None:
        raise JobFileError(f"gate rule {rule!r} names no metric", REMEDY, WHERE)
    _refuse_speed(parsed)
    for side in parsed.sides:
        _refuse_unknown(rule, side, METRICS if metrics is None else metrics, tests)
    _refuse_unreachable(parsed)
    if "base" in parsed.peers and not base_scored:
        raise JobFileError(f"gate rule {rule!r} needs the base's scores", "set evaluate.base: true", WHERE)
    return parsed


def refuse_undecidable(
    rules: Iterable[str], computed: Mapping[str, Collection[str]], slices: Collection[str], *, base_scored: bool
) -> None:
    """Raise JobFileError for a rule that this job's scores can never decide.

    ``computed`` are the metrics of each test and slice; a rule without a test's name speaks of all but ``slices``.
    """
    everywhere = [test for test in computed if test not in slices]
    for text in rules:
        rule = parse_rule(text, base_scored=base_scored)
        for side in rule.sides:
            if side.metric is not None and not (computed if side.test else everywhere):
                remedy = "give data.test or add rows for a split of data.split.test, or remove the rule"
                raise JobFileError(f"gate rule {text!r} needs a test, and this job has none", remedy, WHERE)
            if side.test is not None and side.test not in computed:
                _refuse_unknown(text, side, METRICS, computed)
            for test in [side.test] if side.test else everywhere:
                _refuse_unknown(text, side, computed[test], computed)


def _tokens(rule: str) -> Iterator[Token]:
    position = 0
    end = len(rule.rstrip())
    while position < end:
        match = TOKEN.match(rule, position)
        if match is None or match.lastgroup is None:
            at = position + len(rule[position:]) - len(rule[position:].lstrip())
            raise _refusal(rule, Token("unknown", rule[at], at), "expected a number, a metric or a comparison")
        yield Token(match.lastgroup, match[match.lastgroup], match.start(match.lastgroup))
        position = match.end()
    yield Token("end", "the end", end)


def _operand(rule: str, tokens: list[Token]) -> tuple[Operand, list[Token]]:
    sign = -1.0 if tokens[0].text == "-" else 1.0
    if tokens[0].kind == "sign":
        tokens = tokens[1:]
        if tokens[0].kind != "number":
            raise _refusal(rule, tokens[0], "expected a number after the sign")
    head, tokens = tokens[0], tokens[1:]
    offset = 0.0
    if head.kind in ("number", "name", "dotted") and tokens[0].kind == "sign":
        if tokens[1].kind != "number":
            raise _refusal(rule, tokens[1], "expected a number after + or -")
        offset = float(tokens[0].text + tokens[1].text)
        tokens = tokens[2:]
    match head.kind:
        case "number":
            return Operand(number=sign * float(head.text), offset=offset), tokens
        case "name" if head.text == "base" or head.text == "champion":
            return Operand(peer=head.text, offset=offset), tokens
        case "name":
            return Operand(metric=head.text, offset=offset), tokens
        case "dotted":
            test, metric = head.text.rsplit(".", 1)
            return Operand(metric=metric, test=test, offset=offset), tokens
        case _:
            raise _refusal(rule, head, "expected a number, a metric, base or champion")


def _refusal(rule: str, token: Token, expected: str) -> JobFileError:
    what = f"gate rule {rule!r}, character {token.position + 1}: {expected}, found {token.text!r}"
    remedy = "write a share as a fraction: 70 % is 0.70" if token.text == "%" else REMEDY
    return JobFileError(what, remedy, WHERE)


def _refuse_unknown(rule: str, side: Operand, metrics: Collection[str], tests: Collection[str] | None) -> None:
    if side.metric is None or side.metric in SPEED_METRICS:
        return
    if side.test in ("base", "champion"):
        raise JobFileError(
            f"gate rule {rule!r}: {side.test}.{side.metric} is no test", f"write {side.test} alone", WHERE
        )
    if side.metric not in METRICS:
        what = f"gate rule {rule!r}: {side.metric!r} is no known metric"
        raise JobFileError(what, did_you_mean(side.metric, [*METRICS, *SPEED_METRICS]), WHERE)
    if side.metric not in metrics:
        remedy = f"add it to evaluate.metrics, or use one of: {', '.join(metrics)}"
        raise JobFileError(f"gate rule {rule!r}: this job does not compute {side.metric!r}", remedy, WHERE)
    if side.test is not None and tests is not None and side.test not in tests:
        what = f"gate rule {rule!r}: {side.test!r} is no test of this job"
        raise JobFileError(what, did_you_mean(side.test, tests), WHERE)


def _refuse_speed(rule: Rule) -> None:
    """Raise JobFileError where speed is asked of what has none: a test, the base, the champion."""
    for side in rule.sides:
        if side.metric in SPEED_METRICS and (side.test is not None or rule.peers):
            other = side.test or " and ".join(sorted(rule.peers))
            what = f"gate rule {rule.text!r}: {side.metric} is measured of the release as a whole, and not of {other}"
            raise JobFileError(what, f"write a bound, as '{side.metric} <= 2'", WHERE)


def _refuse_unreachable(rule: Rule) -> None:
    metric = rule.measured.metric
    bound = rule.right if rule.measured is rule.left else rule.left
    if metric not in METRICS or bound.number is None or not METRICS[metric].is_share:
        return
    needed = bound.number + bound.offset - rule.measured.offset
    if not 0 <= needed <= 1:
        what = f"gate rule {rule.text!r} compares {metric} with {needed:g}, and it lies between 0 and 1"
        raise JobFileError(what, "write a share as a fraction: 70 % is 0.70", WHERE)
