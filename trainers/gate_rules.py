"""The text of a gate rule → what it compares, or a refusal before anything expensive starts.

    rule := term OP term                 OP: >= > <= < ==
    term := operand [("+" | "-") NUMBER]
    operand := NUMBER | [TEST.]METRIC | [TEST.]LOOK | base | champion
    LOOK := worst_slice(COLUMN).METRIC | slice_gap(COLUMN).METRIC | robustness_drop(KIND).METRIC | TERM | TERM(METRIC)

`base` and `champion` are the same metric on the same test, of the untuned base and of the current champion. Rules are
parsed when the job file is read, long before there are numbers (trainers/gate.py decides on those), so everything
that can be known then is refused then: names that do not exist or that the job will not compute, and bounds that no
share can reach. What looks there are is the table in cluster/gate_terms.py; whether the job asks for one is checked
with the job file (cluster/evaluate_spec.py).

Left out: boolean operators (the gate holds every rule to be true) and products.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, cast

from cluster.errors import JobFileError
from cluster.gate_terms import TERMS, Term, spelled
from cluster.gate_text import LOOK, PEERS, TOKEN
from trainers.metric_choice import did_you_mean
from trainers.metrics import METRICS

Operator = Literal[">=", ">", "<=", "<", "=="]
Peer = Literal["base", "champion"]

WHERE = "gate"
REMEDY = "write a rule such as 'accuracy >= 0.70', 'accuracy >= base + 0.10' or 'loss <= champion'"


@dataclass(frozen=True)
class Operand:
    """One side of a rule: a number, a metric or term (on one test, or on each) or a peer's same one, plus an offset.

    A term may have what stands in its parentheses as ``argument``, and be about a metric.
    """

    number: float | None = None
    metric: str | None = None
    test: str | None = None
    peer: Peer | None = None
    offset: float = 0.0
    term: Term | None = None
    argument: str = ""

    @property
    def is_measured(self) -> bool:
        """Whether the side names something that has to be measured."""
        return self.metric is not None or self.term is not None

    @property
    def is_on_tests(self) -> bool:
        """Whether it has a number for each test, not one for the release."""
        return self.is_measured and (self.term is None or self.term.on_tests)

    @property
    def needs_rows(self) -> bool:
        """Whether it is measured on the rows of tests."""
        return self.is_on_tests or (self.term is not None and self.term.needs_rows)

    @property
    def key(self) -> str:
        """The name that its number is looked up under."""
        return spelled(self.term.name, self.argument, self.metric or "") if self.term else self.metric or ""


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
        """The side that names what is measured, the left one if both do: what a peer takes over."""
        return self.left if self.left.is_measured else self.right


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
    if not parsed.measured.is_measured:
        raise JobFileError(f"gate rule {rule!r} names no metric", REMEDY, WHERE)
    for side in parsed.sides:
        _refuse_unknown(rule, side, METRICS if metrics is None else metrics, tests)
    _refuse_unreachable(parsed)
    if parsed.peers and parsed.measured.term is not None and not parsed.measured.term.has_peers:
        name = parsed.measured.term.name
        raise JobFileError(f"gate rule {rule!r}: {name} is about the release alone", "compare it with a number", WHERE)
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
        for side in (side for side in rule.sides if side.needs_rows):
            if not (computed if side.test else everywhere):
                remedy = "give data.test or add rows for a split of data.split.test, or remove the rule"
                raise JobFileError(f"gate rule {text!r} needs a test, and this job has none", remedy, WHERE)
            if not side.is_on_tests:
                continue
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
    if head.kind in ("number", "name", "dotted", "look") and tokens[0].kind == "sign":
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
            return _named(rule, head.text, None, offset), tokens
        case "dotted":
            test, name = head.text.rsplit(".", 1)
            return _named(rule, name, test, offset), tokens
        case "look":
            return _look(rule, head, offset), tokens
        case _:
            raise _refusal(rule, head, "expected a number, a metric, base or champion")


def _named(rule: str, name: str, test: str | None, offset: float) -> Operand:
    """Return a metric, or a term that is written as a metric is."""
    term = TERMS.get(name)
    if term is None or term.takes != "nothing" or term.of_metric:
        return Operand(metric=name, test=test, offset=offset)
    _refuse_test(rule, term, test)
    return Operand(term=term, test=test, offset=offset)


def _refuse_test(rule: str, term: Term, test: str | None) -> None:
    if test is not None and not term.on_tests:
        what = f"gate rule {rule!r}: {term.name} is about the release, not about a test"
        raise JobFileError(what, f"write {term.written}", WHERE)


def _look(rule: str, token: Token, offset: float) -> Operand:
    """Return a term with parentheses; refuse one that does not exist or is written otherwise."""
    match = LOOK.fullmatch(token.text)
    assert match is not None, "the token was found by the same pattern"
    test, name, argument, metric = match[1], match[2], match[3].strip(), match[4]
    term = TERMS.get(name)
    with_parentheses = [known for known, term in TERMS.items() if term.takes != "nothing"]
    if term is None or term.takes == "nothing":
        what = f"gate rule {rule!r}: {name!r} takes nothing in parentheses"
        raise JobFileError(what, did_you_mean(name, with_parentheses), WHERE)
    if not argument or term.of_metric != (metric is not None):
        raise JobFileError(f"gate rule {rule!r}: {token.text!r} is incomplete", f"write {term.written}", WHERE)
    _refuse_test(rule, term, test)
    return Operand(metric=metric, test=test, offset=offset, term=term, argument=argument)


def _refusal(rule: str, token: Token, expected: str) -> JobFileError:
    what = f"gate rule {rule!r}, character {token.position + 1}: {expected}, found {token.text!r}"
    remedy = "write a share as a fraction: 70 % is 0.70" if token.text == "%" else REMEDY
    return JobFileError(what, remedy, WHERE)


def _refuse_unknown(rule: str, side: Operand, metrics: Collection[str], tests: Collection[str] | None) -> None:
    if not side.is_measured:
        return
    if side.test in PEERS:
        raise JobFileError(f"gate rule {rule!r}: {side.test}.{side.key} is no test", f"write {side.test} alone", WHERE)
    metric = side.argument if side.term is not None and side.term.takes == "a metric" else side.metric
    if metric is not None and metric not in METRICS:
        what = f"gate rule {rule!r}: {metric!r} is no known metric"
        names = METRICS if side.term else [*METRICS, *(t.name for t in TERMS.values() if t.takes == "nothing")]
        raise JobFileError(what, did_you_mean(metric, names), WHERE)
    if metric is not None and side.is_on_tests and metric not in metrics:
        remedy = f"add it to evaluate.metrics, or use one of: {', '.join(metrics)}"
        raise JobFileError(f"gate rule {rule!r}: this job does not compute {metric!r}", remedy, WHERE)
    if side.test is not None and tests is not None and side.test not in tests:
        what = f"gate rule {rule!r}: {side.test!r} is no test of this job"
        raise JobFileError(what, did_you_mean(side.test, tests), WHERE)


def _refuse_unreachable(rule: Rule) -> None:
    measured = rule.measured
    bound = rule.right if measured is rule.left else rule.left
    bounds = _bounds(measured)
    if bound.number is None or bounds is None:
        return
    needed = bound.number + bound.offset - measured.offset
    low, high = bounds
    if not low <= needed <= high:
        what = (
            f"gate rule {rule.text!r} compares {measured.key} with {needed:g}, and it lies between {low:g} and {high:g}"
        )
        raise JobFileError(what, "write a share as a fraction: 70 % is 0.70", WHERE)


def _bounds(side: Operand) -> tuple[float, float] | None:
    """Return the lowest and highest value that a side can take, where both are known."""
    term = side.term
    if term is not None and term.bounds is not None:
        return term.bounds
    metric = side.argument if term is not None and term.takes == "a metric" else side.metric
    if metric is None or not METRICS[metric].is_share:
        return None
    return (0.0, 1.0) if term is None or term.has_peers else (-1.0, 1.0)
