"""What one look of `hone doctor` came to: lines that are ok, a warning or a failure, each with its remedy.

A warning costs speed, room or safety; a failure keeps hone from working here, so that the command ends with 2: the
machine is wrong, as a file can be.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cluster.records import Record

State = Literal["ok", "warning", "failure"]
SIGNS = {"ok": "ok", "warning": "WARN", "failure": "FAIL"}


class Line(Record):
    """One thing that was looked at, what was found, and what to do about it."""

    check: str
    state: State
    found: str
    remedy: str = ""


class Diagnosis(Record):
    """All lines, in the order of the checks; ``ok`` where none is a failure."""

    ok: bool
    lines: list[Line] = Field(default_factory=list[Line])

    @classmethod
    def of(cls, lines: list[Line]) -> Diagnosis:
        """Return the diagnosis that these lines make."""
        return cls(ok=all(line.state != "failure" for line in lines), lines=lines)

    def text(self) -> list[str]:
        """Return it for a reader: a line each, the remedy below what is not ok."""
        width = max((len(line.check) for line in self.lines), default=0)
        shown: list[str] = []
        for line in self.lines:
            shown.append(f"{SIGNS[line.state]:<5} {line.check:<{width}}  {line.found}")
            if line.state != "ok":
                shown.append(f"{'':<5} {'':<{width}}  → {line.remedy}")
        counts = {state: sum(line.state == state for line in self.lines) for state in SIGNS}
        return [*shown, f"{counts['ok']} ok, {counts['warning']} warnings, {counts['failure']} failures"]


def fine(check: str, found: str) -> Line:
    """Return a line about something that is as it should be."""
    return Line(check=check, state="ok", found=found)


def warning(check: str, found: str, remedy: str) -> Line:
    """Return a line about something that costs speed, room or safety."""
    return Line(check=check, state="warning", found=found, remedy=remedy)


def failure(check: str, found: str, remedy: str) -> Line:
    """Return a line about something that keeps hone from working."""
    return Line(check=check, state="failure", found=found, remedy=remedy)
