"""What lies in the store, who needs it, and the retention → what may go, and why; pure.

A run goes as a whole, or only what it could be gone on with. Never does a version go, nor what an endpoint serves, a
run goes on with, or a kept run or release was made from: whoever needs a thing is found out before (``cluster.gc``),
and a thing that is needed stays, whatever its age. What nobody can tell apart from something useful is not touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from cluster.profile_spec import RetentionSpec
from cluster.records import Record

Kind = Literal["run", "checkpoints", "data", "input", "base", "leftover", "cache"]
LEFTOVER_DAYS = 1.0
"""An unfinished directory that is older belongs to nobody who still writes."""


@dataclass(frozen=True, slots=True)
class Thing:
    """One thing in the store: ``needed`` says by whom, and is empty where nobody needs it."""

    kind: Kind
    name: str
    bytes: int
    age_days: float
    needed: str = ""


class Leaving(Record):
    """A thing that may go."""

    kind: Kind
    name: str
    bytes: int
    age_days: float
    why: str


class Cleaning(Record):
    """What `hone gc` prints."""

    removed: bool = Field(description="whether these are gone by now, or were only looked for")
    bytes: int
    items: list[Leaving]
    kept: dict[str, int] = Field(description="things that stay, by the reason")

    def lines(self) -> list[str]:
        """Return it for a reader."""
        shown = [f"  {item.kind:<11} {item.name}  {readable(item.bytes)}  {item.why}" for item in self.items]
        stays = [f"  stays: {number} {reason}" for reason, number in sorted(self.kept.items())]
        total = f"{len(self.items)} things, {readable(self.bytes)}"
        if self.removed:
            return [*shown, *stays, f"removed {total}"]
        return [*shown, *stays, f"{total} would go; hone gc --yes removes them" if self.items else "nothing would go"]


def limit_days(kind: Kind, retention: RetentionSpec) -> float:
    """Return how old a thing of this kind may get."""
    limits: dict[Kind, float] = {
        "run": retention.runs_days,
        "checkpoints": retention.checkpoints_days,
        "data": retention.caches_days,
        "input": retention.caches_days,
        "base": retention.caches_days,
        "cache": retention.caches_days,
        "leftover": LEFTOVER_DAYS,
    }
    return limits[kind]


def leaving(things: Sequence[Thing], retention: RetentionSpec) -> tuple[list[Leaving], dict[str, int]]:
    """Return what may go, and how many things stay for which reason."""
    going: list[Leaving] = []
    kept: dict[str, int] = {}
    for thing in things:
        limit = limit_days(thing.kind, retention)
        if thing.needed or thing.age_days <= limit:
            reason = thing.needed or f"{thing.kind}: within {limit:g} days"
            kept[reason] = kept.get(reason, 0) + 1
            continue
        why = f"{thing.age_days:.1f} days old, kept for {limit:g}"
        going.append(
            Leaving(kind=thing.kind, name=thing.name, bytes=thing.bytes, age_days=round(thing.age_days, 2), why=why)
        )
    return going, kept


def readable(size_bytes: int) -> str:
    """Return a size for a reader."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
