"""The text of ``hone watch --when`` → clauses, each of which can cause a retraining.

    when   := clause ("or" clause)*
    clause := test ("and" test)*
    test   := TERM OP term | "every" DURATION        OP: >= > <= <
    term   := (NUMBER | TERM) [("+" | "-") NUMBER]
    TERM   := drift | outcome | champion | new_rows
    DURATION := NUMBER followed by s, m, h or d, as 30d

A test with a number that is not known is neither true nor false; a clause holds where all its tests do. However it is
written, one cause is one: a clause's text is what was read of it, not what was typed (``drift > 0.6`` for
``0.60<drift``). Pure: what the terms are worth is ``serving.watch``'s to find out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, cast

from cluster.blocks import did_you_mean
from cluster.errors import UsageError

Operator = Literal[">=", ">", "<=", "<"]
TERMS = ("drift", "outcome", "champion", "new_rows")
SINCE = "since_s"
"""The fact behind ``every``: seconds since the last retraining."""
ORDER = (SINCE, *TERMS, None)
"""Which of two sides stands left; a number stands right."""
FLIPPED: Mapping[Operator, Operator] = {">=": "<=", ">": "<", "<=": ">=", "<": ">"}
UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
TOKEN = re.compile(
    r"\s*(?:(?P<duration>(?:\d+\.?\d*|\.\d+)[smhd]\b)|(?P<number>\d+\.?\d*|\.\d+)|(?P<word>[A-Za-z_]\w*)"
    r"|(?P<operator>>=|<=|>|<)|(?P<sign>[+-]))"
)
EXAMPLE = 'Write it as "drift > 0.6 or outcome < champion - 0.03 or new_rows >= 500 or every 30d".'
Facts = Mapping[str, float | None]
AT_START: Facts = {SINCE: 0.0, "new_rows": 0.0}
"""What is known of any retraining's start: clock and count begin again there."""


@dataclass(frozen=True)
class Side:
    """A term or a number, plus an offset."""

    term: str | None
    number: float

    def value(self, facts: Facts) -> float | None:
        """Return what it is worth, None where that is not known."""
        if self.term is None:
            return self.number
        known = facts.get(self.term)
        return None if known is None else known + self.number

    @property
    def text(self) -> str:
        """How it is written; a negative number as a difference, since there is no other way."""
        if self.term is None and self.number >= 0:
            return _plain(self.number)
        offset = f" {'-' if self.number < 0 else '+'} {_plain(abs(self.number))}" if self.number else ""
        return f"{self.term or 0}{offset}"


@dataclass(frozen=True)
class Comparison:
    """One comparison."""

    left: Side
    operator: Operator
    right: Side

    def holds(self, facts: Facts) -> bool | None:
        """Return whether it is true, None where a number is missing."""
        left, right = self.left.value(facts), self.right.value(facts)
        if left is None or right is None:
            return None
        match self.operator:
            case ">=":
                return left >= right
            case "<=":
                return left <= right
            case ">":
                return left > right
            case "<":
                return left < right

    @property
    def text(self) -> str:
        """How it is written."""
        if self.left.term == SINCE:
            return f"every {_duration(self.right.number)}"
        return f"{self.left.text} {self.operator} {self.right.text}"

    def in_order(self) -> Comparison:
        """Return the same comparison with the side on the left that belongs there."""
        if ORDER.index(self.left.term) <= ORDER.index(self.right.term):
            return self
        return Comparison(self.right, FLIPPED[self.operator], self.left)


@dataclass(frozen=True)
class Clause:
    """Tests that together are a cause, each once and in order."""

    tests: tuple[Comparison, ...]

    @classmethod
    def of(cls, tests: Iterable[Comparison]) -> Clause:
        """Return the clause that these tests are, in whichever order they came."""
        return cls(tuple(sorted({test.in_order() for test in tests}, key=lambda test: test.text)))

    @property
    def text(self) -> str:
        """How it is written: what tells a cause from others."""
        return " and ".join(test.text for test in self.tests)

    def holds(self, facts: Facts) -> bool | None:
        """Return whether all tests are true; None where one is not known and none is false."""
        found = [test.holds(facts) for test in self.tests]
        if False in found:
            return False
        return None if None in found else True

    @property
    def begins_again(self) -> bool:
        """Whether no retraining starts with it true, whatever became of drift and outcome."""
        return self.holds(AT_START) is False


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    start: int
    end: int


def parse_when(when: str) -> tuple[Clause, ...]:
    """Return the clauses of a condition, each once. Raises UsageError with the character where it cannot be read."""
    tokens = _tokens(when)
    clauses: list[Clause] = []
    while True:
        tests: list[Comparison] = []
        while True:
            test, tokens = _test(when, tokens)
            tests.append(test)
            if tokens[0].text != "and":
                break
            tokens = tokens[1:]
        clauses.append(Clause.of(tests))
        if tokens[0].kind == "end":
            return tuple(dict.fromkeys(clauses))
        if tokens[0].text != "or":
            raise _refusal(when, tokens[0], "expected or, and, or the end")
        tokens = tokens[1:]


def cause_of(text: str) -> str:
    """Return the text that a clause has however it was written; what is no clause stays as it is."""
    try:
        clauses = parse_when(text)
    except UsageError:
        return text
    return clauses[0].text if len(clauses) == 1 else text


def _test(when: str, tokens: list[_Token]) -> tuple[Comparison, list[_Token]]:
    if tokens[0].text == "every":
        if tokens[1].kind != "duration":
            raise _refusal(when, tokens[1], "expected a duration such as 30d or 12h after every")
        long_s = round(float(tokens[1].text[:-1]) * UNITS_S[tokens[1].text[-1]], 3)
        return Comparison(Side(SINCE, 0.0), ">=", Side(None, long_s)), tokens[2:]
    left, tokens = _side(when, tokens)
    if tokens[0].kind != "operator":
        raise _refusal(when, tokens[0], "expected one of >= > <= <")
    operator = cast(Operator, tokens[0].text)
    right, tokens = _side(when, tokens[1:])
    if left.term is None and right.term is None:
        raise _refusal(when, tokens[0], "the comparison before it names no term")
    return Comparison(left, operator, right), tokens


def _side(when: str, tokens: list[_Token]) -> tuple[Side, list[_Token]]:
    head, tokens = tokens[0], tokens[1:]
    if head.kind == "number":
        term, number = None, float(head.text)
    elif head.kind == "word" and head.text in TERMS:
        term, number = head.text, 0.0
    elif head.kind == "word":
        raise _refusal(when, head, f"expected one of {', '.join(TERMS)}{did_you_mean(head.text, TERMS)}")
    else:
        raise _refusal(when, head, "expected a term or a number")
    if tokens[0].kind == "sign":
        if tokens[1].kind != "number":
            raise _refusal(when, tokens[1], "expected a number after + or -")
        return Side(term, number + float(tokens[0].text + tokens[1].text)), tokens[2:]
    return Side(term, number), tokens


def _tokens(when: str) -> list[_Token]:
    found: list[_Token] = []
    position, end = 0, len(when.rstrip())
    while position < end:
        match = TOKEN.match(when, position)
        if match is None or match.lastgroup is None:
            at = position + len(when[position:]) - len(when[position:].lstrip())
            raise _refusal(when, _Token("unknown", when[at], at, at + 1), "expected a term, a number or a comparison")
        kind = match.lastgroup
        found.append(_Token(kind, match[kind], match.start(kind), match.end(kind)))
        position = match.end()
    return [*found, _Token("end", "the end", end, end), _Token("end", "the end", end, end)]


def _plain(number: float) -> str:
    """Return a number with all its digits and no exponent, which a condition could not be read with."""
    digits = f"{Decimal(repr(number)):f}"
    return digits.rstrip("0").rstrip(".") if "." in digits else digits


def _duration(long_s: float) -> str:
    """Return a duration in the largest unit that it is a whole number of."""
    unit = next((unit for unit in "dhm" if long_s % UNITS_S[unit] == 0), "s")
    return _plain(long_s / UNITS_S[unit]) + unit


def _refusal(when: str, token: _Token, expected: str) -> UsageError:
    return UsageError(f"--when {when!r}, character {token.start + 1}: {expected}, found {token.text!r}", EXAMPLE)
