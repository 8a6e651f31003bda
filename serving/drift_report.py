"""What a look at an endpoint's drift found, as records: printed, kept in the store, shown by console and gauges."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cluster.records import Interval, Record

Decision = Literal["drift", "none", "undecided"]
Direction = Literal["live", "reference"]


class Term(Record):
    """A word or pair of words that one side has more of, and in which share of each side's prompts it is."""

    term: str
    direction: Direction
    live: float | None = Field(description="None where only numbers of live prompts were kept")
    reference: float
    weight: float = Field(description="how strongly it tells the two apart; comparable within a report")


class Rate(Record):
    """One number of both sides' prompts."""

    name: str
    reference: float | None
    live: float | None


class NewClasses(Record):
    """Signs of prompts that belong to no class of the training set."""

    decision: Literal["seen", "none", "undecided"]
    far: Interval | None = Field(default=None, description="share of live prompts that resemble no training prompt")
    far_expected: float | None = Field(default=None, description="the same share among training prompts")
    labels: dict[str, int] = Field(default_factory=dict, description="answers users gave that are no class → how often")
    corrections: int = Field(default=0, description="answers users gave")
    reason: str = ""


class Change(Record):
    """One mean of the release's users, now and in its first weeks."""

    name: str
    value: float | None = None
    interval: Interval | None = None
    reference: Interval | None = None
    units: int = 0
    changed: bool = False
    decided: bool = False
    reason: str = ""


class DriftReport(Record):
    """One look at an endpoint: its live prompts against what its release was trained on.

    ``drift`` is the AUC of a classifier between the two, 0.5 where they are alike, None where nothing can be said.
    ``flagged`` is the decision that stays valid however often one looks.
    """

    endpoint: str
    release: str
    at_s: float
    decision: Decision
    reason: str
    rows: int = Field(default=0, description="live prompts compared: one a user, none twice")
    reference_rows: int = 0
    drift: float | None = None
    interval: Interval | None = None
    blocks: dict[str, Interval] = Field(default_factory=dict, description="the same by kind of features")
    flagged: bool = False
    flagged_s: float | None = Field(default=None, description="the row at which drift was found, in s since 1970")
    evidence: float | None = Field(default=None, description="of this pass, against ``threshold``")
    threshold: float | None = None
    tested: int = Field(default=0, description="live prompts that this pass has tested")
    waiting: int = Field(default=0, description="live prompts that wait for a batch")
    terms: list[Term] = Field(default_factory=list[Term])
    rates: list[Rate] = Field(default_factory=list[Rate])
    new_class: NewClasses | None = None
    outcome: Change | None = None
    errors: Change | None = None

    def lines(self) -> list[str]:
        """Return it for a reader."""
        said = [f"{self.endpoint} ({self.release}): {self.decision}: {self.reason}"]
        if self.interval is not None:
            said.append(
                f"  drift      {self.interval.value:.3f} ({self.interval.low:.3f} to {self.interval.high:.3f} in this "
                f"look), {self.rows} live prompts against {self.reference_rows}; 0.5 = alike"
            )
        said += [
            f"  {name:<10} {found.value:.3f} ({found.low:.3f} to {found.high:.3f})"
            for name, found in self.blocks.items()
        ]
        if self.evidence is not None and self.threshold is not None:
            said.append(f"  evidence   {self.evidence:.3g} of {self.threshold:g}, {self.tested} prompts tested")
        said += [f"  {_term_line(term)}" for term in self.terms]
        said += [f"  {_rate_line(rate)}" for rate in self.rates]
        if self.new_class is not None:
            said.append(f"  new class  {self.new_class.decision}: {self.new_class.reason}")
        said += [f"  {change_line(change)}" for change in (self.outcome, self.errors) if change is not None]
        return said


def _term_line(term: Term) -> str:
    where = "more live" if term.direction == "live" else "more in training"
    live = "?" if term.live is None else f"{term.live:.1%}"
    return f"{where}: {term.term!r} ({live} live, {term.reference:.1%} in training)"


def _rate_line(rate: Rate) -> str:
    reference, live = ("?" if found is None else f"{found:.4g}" for found in (rate.reference, rate.live))
    return f"{rate.name}: {live} live, {reference} in training"


def change_line(change: Change) -> str:
    """Return one line on a change."""
    if not change.decided or change.reference is None or change.value is None:
        return f"{change.name}: undecided: {change.reason}"
    word = "CHANGED" if change.changed else "no change found"
    return f"{change.name}: {word}: {change.value:.4g} now, {change.reference.value:.4g} in the first weeks"
