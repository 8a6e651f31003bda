"""The text of a gate rule → its tokens, and the operands in it; and the text again with some of them named otherwise.

What a rule may say is ``trainers.gate_rules``'s. Here is only how its pieces are told apart, which serving needs as
well: a child's job carries its parent's rules, about tests and columns that have other names there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from cluster.gate_terms import TERMS, spelled

CHAMPION = "champion"
PEERS = ("base", CHAMPION)
LOOK = re.compile(r"(?:([A-Za-z_]\w*)\.)?([A-Za-z_]\w*)\(([^()]*)\)(?:\.([A-Za-z_]\w*))?")
TOKEN = re.compile(
    r"\s*(?:(?P<look>(?:[A-Za-z_]\w*\.)?[A-Za-z_]\w*\([^()]*\)(?:\.[A-Za-z_]\w*)?)"
    r"|(?P<dotted>[A-Za-z_]\w*\.[A-Za-z_]\w*)|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<operator>>=|<=|==|>|<)|(?P<sign>[+-]))"
)


@dataclass(frozen=True)
class Named:
    """What one side of a rule names: ``[test.]name[(argument)][.metric]``."""

    name: str
    test: str | None = None
    argument: str | None = None
    metric: str | None = None

    @property
    def is_peer(self) -> bool:
        """Whether it is base or champion, which stand for what the other side names."""
        return self.name in PEERS and self.test is None

    @property
    def is_on_tests(self) -> bool:
        """Whether it has a number for each test, as every metric has, not one for the release."""
        return not self.is_peer and (self.name not in TERMS or TERMS[self.name].on_tests)

    @property
    def column(self) -> str | None:
        """The column that it slices by, if it does."""
        term = TERMS.get(self.name)
        return self.argument if term is not None and term.takes == "a column" else None

    def __str__(self) -> str:
        """Return it as it is written in a rule."""
        return f"{self.test}." * bool(self.test) + spelled(self.name, self.argument or "", self.metric or "")


def named_in(rule: str) -> list[Named]:
    """Return what a rule that can be parsed names, from left to right."""
    found: list[Named] = []
    reworded(rule, lambda named: found.append(named) or named)
    return found


def reworded(rule: str, change: Callable[[Named], Named]) -> str:
    """Return the rule with everything that it names as ``change`` has it."""

    def said_anew(match: re.Match[str]) -> str:
        named = _named(match)
        if named is None:
            return match[0]
        before = match.start(match.lastgroup or 0) - match.start()
        return match[0][:before] + str(change(named))

    return TOKEN.sub(said_anew, rule)


def _named(match: re.Match[str]) -> Named | None:
    """Return what a token names; None for numbers, signs and comparisons."""
    if match["look"] is not None:
        look = LOOK.fullmatch(match["look"])
        assert look is not None, "the token was found by the same pattern"
        return Named(look[2], look[1], look[3].strip(), look[4])
    if match["dotted"] is not None:
        test, name = match["dotted"].split(".")
        return Named(name, test)
    return None if match["name"] is None else Named(match["name"])
