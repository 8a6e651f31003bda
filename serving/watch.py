"""`hone watch ENDPOINT --when …`: looks at an endpoint now and then, and retrains it when a condition holds.

It survives restarts, since all that it must remember is in the store: the attempts (``serving.retraining``), each
written before its child begins, and when each clause last did not hold. A clause causes one child of a parent; it may
cause another when it has ceased to hold in between, or when the parent is another. Clock and count of new rows begin
again with every attempt, so that what asks for them has ceased there, whether or not somebody looked: a watch may be
down for a while, or look once a month. A child that was begun is finished before anything else. No more than the
budget's children begin in 24 hours, and none while an experiment is undecided. A dry run writes nothing, not even how
far the test for drift has come, and so may run beside the watch itself.

Retraining runs as `hone retrain` in a process of its own: its memory goes when it ends, and a watch that is killed
leaves it running; the next one waits for it. The policy (``decision``) is pure.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from pydantic import Field

from cluster.errors import HoneError, UsageError
from cluster.records import Record
from cluster.stopping import stop_on_signal
from cluster.store import Store
from serving import endpoint as endpoints
from serving import retraining
from serving.alone import alone
from serving.challenger import refuse_undecided
from serving.conditions import SINCE, Clause, cause_of, parse_when
from serving.parent import main_arm
from serving.watch_facts import KnownOnce, facts_of

if TYPE_CHECKING:
    from cluster.progress import Progress
    from cluster.session import Settings
    from serving.endpoint import Endpoint
    from serving.retraining import Retraining

WATCH = "watch"
EVERY_S = 300.0
DAY_S = 86400.0
AGAIN_S = 3600.0
"""After a retraining that could not begin or end, before the next try."""
POLL_S = 0.5
UNFINISHED = "unfinished"
Act = Callable[[str, str, threading.Event], int]
Clock = Callable[[], float]


class Memory(Record):
    """What a watch remembers between looks: times in seconds since 1970, by clause."""

    ceased: dict[str, float] = Field(default_factory=dict, description="when the clause last did not hold")
    tried: dict[str, float] = Field(default_factory=dict, description="when acting on it last came to nothing")


class Look(Record):
    """What one look found, and what it leads to."""

    endpoint: str
    time_s: float
    facts: dict[str, float | None]
    notes: list[str]
    clauses: dict[str, bool | None] = Field(description="whether each clause holds; null where that is not known")
    cause: str | None = Field(description="the clause that is acted on")
    why: str

    def lines(self) -> list[str]:
        """Return it for a reader."""
        shown = [f"{name} {_number(value)}" for name, value in self.facts.items() if name != SINCE]
        told = [f"{self.endpoint}: {', '.join([*shown, self.why])}"]
        return [*told, *(f"  {note}" for note in self.notes)]


def watch(
    name: str,
    when: str,
    settings: Settings,
    progress: Progress,
    *,
    every_s: float = EVERY_S,
    budget: int = 1,
    is_dry: bool = False,
    once: bool = False,
    tell: Callable[[Look], None] | None = None,
    act: Act | None = None,
    clock: Clock = time.time,
) -> int:
    """Look every ``every_s`` seconds until a signal comes, and act; return the last act's exit code, 0 without any.

    ``tell`` gets every look; a dry run writes nothing. Raises UsageError for a condition that cannot be read, an
    endpoint that was never served, and, unless it is dry, where another watch of it runs.
    """
    clauses = parse_when(when)
    store = Store(settings.home)
    endpoints.read(store, name)
    stopping, known, code, act = threading.Event(), KnownOnce(), 0, act or retrained
    with nullcontext() if is_dry else _alone(store, name), stop_on_signal(stopping.set):
        while not stopping.is_set():
            try:
                found = look(name, clauses, settings, budget, clock(), known, keep=not is_dry)
            except HoneError as error:
                if once:
                    raise
                progress.say(f"{name}: no look now: {error.what}")
            else:
                if tell is not None:
                    tell(found)
                if found.cause is not None and not is_dry:
                    code = _acted(found, store, settings, act, stopping, clock)
                elif not is_dry:
                    _remember(store, name, _noted(found, _memory(store, name)))
            if once or stopping.wait(every_s):
                break
    return code


def look(
    name: str,
    clauses: Sequence[Clause],
    settings: Settings,
    budget: int,
    now_s: float,
    known: KnownOnce,
    *,
    keep: bool,
) -> Look:
    """Return what an endpoint looks like now, and what to do; ``keep`` how far the test for drift has come."""
    store = Store(settings.home)
    endpoint, past = endpoints.read(store, name), retraining.attempts(store, name)
    facts, notes = facts_of(endpoint, past, terms_of(clauses), settings, now_s, known, keep=keep)
    holds = {clause: clause.holds(facts) for clause in clauses}
    shown = {clause.text: is_true for clause, is_true in holds.items()}
    memory = _noted_ceased(shown, _memory(store, name), now_s)
    cause, why = decision(endpoint, holds, past, memory, budget, now_s)
    return Look(endpoint=name, time_s=now_s, facts=facts, notes=notes, clauses=shown, cause=cause, why=why)


def terms_of(clauses: Sequence[Clause]) -> set[str]:
    """Return the terms that have to be known."""
    sides = [side for clause in clauses for test in clause.tests for side in (test.left, test.right)]
    return {side.term for side in sides if side.term is not None}


def decision(
    endpoint: Endpoint,
    holds: Mapping[Clause, bool | None],
    past: Sequence[Retraining],
    memory: Memory,
    budget: int,
    now_s: float,
) -> tuple[str | None, str]:
    """Return the cause to act on, if any, and the reason either way."""
    if past and past[-1].is_unfinished:
        return _unless_tried(UNFINISHED, f"the child {past[-1].run} is not finished", memory, now_s)
    true = [clause for clause, is_true in holds.items() if is_true]
    if not true:
        return None, "nothing to do"
    parent = endpoint.arms[main_arm(endpoint)].version
    fresh = [clause.text for clause in true if not _has_caused(clause, parent, past, memory)]
    if not fresh:
        return None, f"{true[0].text} has had its child"
    try:
        refuse_undecided(endpoint)
    except UsageError as error:
        return None, f"{fresh[0]}, but {error.what}"
    begun = sum(one.started_s > now_s - DAY_S for one in past)
    if begun >= budget:
        return None, f"{fresh[0]}, but the day's budget of {budget} is used up"
    return _unless_tried(fresh[0], fresh[0], memory, now_s)


def _unless_tried(cause: str, why: str, memory: Memory, now_s: float) -> tuple[str | None, str]:
    tried_s = memory.tried.get(cause)
    if tried_s is not None and now_s - tried_s < AGAIN_S:
        return None, f"{why}, tried in vain {(now_s - tried_s) / 60:.0f} minutes ago"
    return cause, why


def _has_caused(clause: Clause, parent: str | None, past: Sequence[Retraining], memory: Memory) -> bool:
    """Return whether a clause had its child of this parent, and has held ever since."""
    own = [one.started_s for one in past if cause_of(one.cause) == clause.text and one.parent_release == parent]
    return bool(own) and not clause.begins_again and max(own) > memory.ceased.get(clause.text, 0.0)


def retrained(name: str, cause: str, stopping: threading.Event) -> int:
    """Run `hone retrain` in a process of its own and return its exit code; asked to stop, it stops that too."""
    how = ["--finish"] if cause == UNFINISHED else ["--cause", cause]
    process = subprocess.Popen([sys.executable, "-m", "cluster.cli", "retrain", name, *how])
    asked = False
    while process.poll() is None:
        if stopping.is_set() and not asked:
            process.terminate()
            asked = True
        time.sleep(POLL_S)
    return process.returncode


def _acted(found: Look, store: Store, settings: Settings, act: Act, stopping: threading.Event, clock: Clock) -> int:
    """Act on a look's cause, and remember where that came to nothing."""
    assert found.cause is not None
    _remember(store, found.endpoint, _noted(found, _memory(store, found.endpoint)))
    code = act(found.endpoint, found.cause, stopping)
    past = retraining.attempts(store, found.endpoint)
    is_done = bool(past) and not past[-1].is_unfinished and past[-1].ended_s is not None
    if not stopping.is_set() and not (is_done and (past[-1].ended_s or 0.0) >= found.time_s):
        memory = _memory(store, found.endpoint)
        tried = memory.tried | {found.cause: clock()}
        _remember(store, found.endpoint, memory.model_copy(update={"tried": tried}))
    return code


def _noted(found: Look, memory: Memory) -> Memory:
    return _noted_ceased(found.clauses, memory, found.time_s)


def _noted_ceased(holds: Mapping[str, bool | None], memory: Memory, now_s: float) -> Memory:
    """Return the memory with the clauses that do not hold now; what is not known is no news."""
    ceased = {text: now_s for text, is_true in holds.items() if is_true is False}
    return memory.model_copy(update={"ceased": memory.ceased | ceased})


def _memory(store: Store, name: str) -> Memory:
    document: Any = store.get_json(WATCH, f"{name}.json") if store.exists(WATCH, f"{name}.json") else {}
    kept = Memory.model_validate(document)
    return Memory(ceased=_by_cause(kept.ceased), tried=_by_cause(kept.tried))


def _by_cause(times_s: Mapping[str, float]) -> dict[str, float]:
    """Return the last time of every cause, under whatever text it was kept."""
    return {cause_of(text): time_s for text, time_s in sorted(times_s.items(), key=lambda kept: kept[1])}


def _remember(store: Store, name: str, memory: Memory) -> None:
    if memory != _memory(store, name):
        store.put_json(memory.model_dump(mode="json"), WATCH, f"{name}.json")


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:g}" if value == int(value) else f"{value:.3f}"


def _alone(store: Store, name: str) -> AbstractContextManager[None]:
    """Be the only watch of an endpoint on this machine. Raises UsageError where another one runs."""
    refusal = UsageError(f"{name} is watched already", "One watch of an endpoint is enough.")
    return alone(store, WATCH, name, refusal)
