"""The rest of `hone loop-demo`: a release serves, its world changes, and a child earns the champion's place.

By the doors that a stranger uses: a serve file, HTTP, `/v1/feedback`, the watch, the verdict, the promotion. Rows that
the table and the drift speak of are never shown as feedback (``trainers.loop_demo`` deals them), so nothing in it was
trained on, by base, parent or child.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from pydantic import Field

from cluster.errors import RunFailed
from cluster.ports import LOOPBACK, free_port
from cluster.records import Record
from cluster.store import Store
from serving import retraining
from serving.drift import look
from serving.keeper import detach, find_kept, stop
from serving.lineage import lineage
from serving.replay import Feedback, User, replay
from serving.results import verdict_on
from serving.traffic import promote
from serving.verdict_table import verdict_lines
from serving.watch import watch

if TYPE_CHECKING:
    from cluster.progress import Progress
    from cluster.session import Settings

WHEN = "drift > 0.55 and new_rows >= 100"
HORIZON_S = 5.0
MOST_ROUNDS = 6
SERVE = {
    "log": "text",
    "retrain": {
        "weight": 50,
        "horizon_h": HORIZON_S / 3600,
        "min_rows": 100,
        "metric": "accuracy",
        "margin": 0.05,
        "holdout": 0.15,
        "confirmed": True,
    },
}
"""The margin is for some 220 rows of the old test: four more classes may cost a little, and chance adds 0.03."""
PACE_S = 6.0
"""Rows reach the ledger within it, and drift's looks and the verdict's look back by less."""


class Shares(Record):
    """Which share of answers was right, by kind of package; None where none was asked."""

    old: float | None = None
    new: float | None = None


class LoopShown(Record):
    """What `hone loop-demo` prints."""

    before: Shares
    during: Shares
    after: Shares
    drift: float | None
    decision_on_drift: str
    drift_reason: str
    terms: list[str] = Field(description="what the live prompts say more often than the training prompts")
    child: str | None
    champion: str | None
    experiment: str | None
    decision: str
    seconds: float
    told: list[str] = Field(exclude=True)

    @property
    def is_closed(self) -> bool:
        """Whether the loop closed: drift was found and explained, the child is champion, and its answers are better.

        Better: no worse than 0.03 below the start on the old packages, and right on more than half of the new, which
        the parent did worse on than on the old.
        """
        before, during, after = self.before.old, self.during.new, self.after
        if before is None or during is None or after.old is None or after.new is None:
            return False
        is_explained = self.decision_on_drift == "drift" and bool(self.terms)
        is_champion = self.champion is not None and self.champion == self.child
        has_fallen = during < before
        return is_explained and is_champion and has_fallen and after.old >= before - 0.03 and after.new > 0.5

    def lines(self) -> list[str]:
        """Return it for a reader."""
        table = [
            f"  {name:<8} {_percent(shares.old):>13} {_percent(shares.new):>13}"
            for name, shares in (("before", self.before), ("during", self.during), ("after", self.after))
        ]
        head = "  answers right on rows never shown as feedback\n  phase    12 packages     4 new ones"
        return [*self.told, "", *head.split("\n"), *table, "", f"loop-demo: {self.seconds:.0f} s"]


@dataclass(frozen=True)
class _World:
    """Where the demo's users ask, and who they are."""

    endpoint: str
    url: str
    folder: Path

    def ask(self, pool: str, feedback: Feedback, *, is_new: bool | None = None, most: int | None = None) -> float:
        """Let a pool's users ask once, and return the share of right answers."""
        users = [user for user, own in _users(self.folder / f"{pool}.jsonl") if is_new in (None, own)][:most]
        found = replay(self.url, users, max_tokens=16, prefix=f"{pool}-{time.time_ns()}", feedback=feedback)
        if found.failed:
            raise RunFailed(f"{found.failed} of {found.users} users of {pool} were not answered", "See its log.")
        return sum(found.right.values()) / sum(found.answered.values())


def close_the_loop(version: str, folder: Path, settings: Settings, progress: Progress) -> LoopShown:
    """Serve a version, change its traffic, and let a child take its place; the endpoint is stopped at the end."""
    began_s = time.monotonic()
    name = version.partition("@")[0]
    file = folder / "serve.yaml"
    arms = {"first": {"release": version, "weight": 1.0}}
    file.write_text(yaml.safe_dump({"endpoint": name, "arms": arms, **SERVE}), encoding="utf-8")
    port = free_port()
    progress.say(f"serve: {version}, log: text")
    detach(name, [str(file), "--port", str(port)], settings)
    try:
        return _shown(_World(name, f"http://{LOOPBACK}:{port}", folder), settings, progress, began_s)
    finally:
        if find_kept(Store(settings.home), name) is not None:
            stop(name, settings)


def _shown(world: _World, settings: Settings, progress: Progress, began_s: float) -> LoopShown:
    before = Shares(old=world.ask("score", "none", is_new=False))
    progress.say(f"before: {_percent(before.old)} right on the 12 packages it knows")
    during = Shares(new=world.ask("score", "none", is_new=True), old=world.ask("score", "none", is_new=False, most=240))
    progress.say(f"traffic gains 4 packages: {_percent(during.new)} right on those")
    time.sleep(PACE_S)
    drifted = look(world.endpoint, settings, time.time())
    told = ["", *drifted.lines()]
    world.ask("live", "correction")
    time.sleep(PACE_S)
    progress.say(f"watch: {WHEN}")
    watch(
        world.endpoint, WHEN, settings, progress, once=True, tell=lambda found: progress.say("\n".join(found.lines()))
    )
    children = retraining.attempts(Store(settings.home), world.endpoint)
    child = children[-1] if children else None
    told += ["", *(child.lines() if child else ["no child was begun"])]
    experiment = child.experiment if child else None
    decision = _decided(world, experiment, settings, progress, told) if experiment else "none"
    champion = None
    if experiment and decision == "promote":
        moved = promote(experiment, None, settings)
        champion = next(iter(moved.aliases.values()), None)
        told += moved.lines()
        time.sleep(PACE_S)
    after = Shares(old=world.ask("score", "none", is_new=False), new=world.ask("score", "none", is_new=True))
    if champion:
        told += ["", *lineage(children[-1].parent_run, settings).lines()]
    return LoopShown(
        before=before,
        during=during,
        after=after,
        drift=drifted.drift,
        decision_on_drift=drifted.decision,
        drift_reason=drifted.reason,
        terms=[term.term for term in drifted.terms if term.direction == "live"],
        child=child.version if child else None,
        champion=champion,
        experiment=experiment,
        decision=decision,
        seconds=time.monotonic() - began_s,
        told=told,
    )


def _decided(world: _World, experiment: str, settings: Settings, progress: Progress, told: list[str]) -> str:
    """Let users of the experiment come, round by round, until its verdict says something; return that.

    Every round's users ask the same questions again, so the verdict is one for these questions.
    """
    decision = "continue"
    for _ in range(MOST_ROUNDS):
        world.ask("trial", "value")
        time.sleep(HORIZON_S + PACE_S)
        verdict, _ = verdict_on(experiment, settings, time.time())
        decision = verdict.decision
        progress.say(f"verdict: {decision}: {verdict.reason}")
        if decision != "continue":
            told += ["", f"experiment {experiment}", *verdict_lines(verdict)]
            break
    return decision


def _users(file: Path) -> Sequence[tuple[User, bool]]:
    """Return the users of a pool, each with whether its package is a new one."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [(User([{"role": "user", "content": row["text"]}], [row["label"]]), row["is_new"]) for row in rows]


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.3f}"
