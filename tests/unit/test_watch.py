"""A watch acts once per cause, within its budget, and finishes what was begun; a restart changes none of that."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from cluster.durable import locked
from cluster.errors import UsageError
from cluster.progress import Progress
from serving import retraining
from serving.conditions import parse_when
from serving.ledger_rows import Row
from serving.material import RowCounts
from serving.retraining import Retraining
from serving.watch import Look, Memory, decision, watch
from serving.watch_facts import KnownOnce, facts_of
from tests.endpoints import arm
from tests.parents import World, corrections, exposure, said, world

DAY = 86400.0
ROWS = RowCounts(train=1, validation=1, test=1, units=3, replaced=0, left_out={}, unmatched=0)


def attempt(number: int, cause: str, at_s: float, state: str = "deployed", parent: str = "router@1") -> Retraining:
    return Retraining.model_validate({
        "endpoint": "support", "run": f"router-20260301-12000{number}-abcd", "cause": cause, "started_s": at_s,
        "parent_run": "p", "parent_release": parent, "material": "m", "rows": ROWS, "state": state,
        "ended_s": None if state in ("begun", "accepted") else at_s + 10,
    })  # fmt: skip


DRIFT, OUTCOME = "drift > 0.6", "outcome < 0.5"


def decided(made: World, past: Sequence[Retraining], now_s: float, memory: Memory | None = None, *true: str):
    holds = {clause: clause.text in true or None for clause in parse_when(f"{DRIFT} or {OUTCOME} or every 30d")}
    return decision(made.endpoint, holds, past, memory or Memory(), 1, now_s)


def test_a_clause_that_holds_causes_one_child_of_a_parent(tmp_path: Path) -> None:
    made = world(tmp_path)
    assert decided(made, [], 10.0, None, DRIFT)[0] == DRIFT
    assert decided(made, [], 10.0)[0] is None
    past = [attempt(1, DRIFT, 10.0, "refused")]
    assert decided(made, past, 10.0 + 9 * DAY, None, DRIFT) == (None, f"{DRIFT} has had its child")
    ceased = Memory(ceased={DRIFT: 5 * DAY})
    assert decided(made, past, 10.0 + 9 * DAY, ceased, DRIFT)[0] == DRIFT, "it ceased to hold in between"
    other = [attempt(1, DRIFT, 10.0, parent="router@0")]
    assert decided(made, other, 10.0 + 9 * DAY, None, DRIFT)[0] == DRIFT, "a child of another parent"
    assert decided(made, past, 10.0 + 9 * DAY, None, DRIFT, OUTCOME)[0] == OUTCOME, "another cause"


@pytest.mark.parametrize("written", ["drift>0.60", "0.6 < drift"])
def test_a_cause_that_was_written_otherwise_has_had_its_child(tmp_path: Path, written: str) -> None:
    made = world(tmp_path)
    past = [attempt(1, written, 10.0, "refused")]
    assert decided(made, past, 10.0 + 9 * DAY, None, DRIFT) == (None, f"{DRIFT} has had its child")


def test_what_was_remembered_of_a_clause_written_otherwise_is_known(tmp_path: Path) -> None:
    made = world(tmp_path)
    made.write(worsening(200))
    when, act = "outcome < champion - 0.03", Acting(made)
    retraining.write(made.store, attempt(9, "outcome<champion - .030", 2e5, "refused"))
    made.store.put_json({"ceased": {"outcome<champion - .030": 3e5, when: 1e5}, "tried": {}}, "watch", "support.json")
    assert watched(made, act, when)[0].cause == when, "it has ceased since"
    made.store.put_json({"ceased": {}, "tried": {"champion - 0.030 > outcome": 1e6 - 60}}, "watch", "support.json")
    made.change(arms={"first": made.endpoint.arms["first"].model_copy(update={"version": "router@3"})})
    assert "tried in vain 1 minutes ago" in watched(made, act, when, budget=9)[0].why


def test_a_clause_that_no_retraining_begins_with_needs_no_look_in_between(tmp_path: Path) -> None:
    made = world(tmp_path)
    past = [attempt(1, "every 30d", 10.0, "refused")]
    assert decided(made, past, 10.0 + 31 * DAY, None, "every 30d")[0] == "every 30d"


def test_no_more_children_begin_in_a_day_than_the_budget_allows(tmp_path: Path) -> None:
    made = world(tmp_path)
    past = [attempt(1, OUTCOME, 10.0, "failed")]
    cause, why = decided(made, past, DAY, None, DRIFT)
    assert (cause, why) == (None, f"{DRIFT}, but the day's budget of 1 is used up")
    assert decided(made, past, DAY + 11.0, None, DRIFT)[0] == DRIFT


def test_what_was_begun_is_finished_first_and_within_no_budget(tmp_path: Path) -> None:
    made = world(tmp_path)
    past = [attempt(1, DRIFT, 10.0, "begun")]
    assert decided(made, past, 20.0, None, DRIFT)[0] == "unfinished"
    assert decided(made, past, 20.0, Memory(tried={"unfinished": 15.0}))[0] is None, "tried just now, in vain"
    assert decided(made, past, 15.0 + 3601, Memory(tried={"unfinished": 15.0}))[0] == "unfinished"


def test_no_child_begins_while_an_experiment_is_undecided(tmp_path: Path) -> None:
    made = world(tmp_path)
    arms = {**made.endpoint.arms, "second": arm(1.0)}
    made.change(arms=arms)
    cause, why = decided(made, [], 10.0, None, DRIFT)
    assert cause is None
    assert "shares its traffic" in why


class Acting:
    """Stands for `hone retrain`: notes what it was asked, and leaves an attempt."""

    def __init__(self, made: World, state: str | None = "refused") -> None:
        self.made, self.state, self.causes, self.now_s = made, state, list[str](), 1e6

    def __call__(self, name: str, cause: str, stopping: threading.Event) -> int:
        self.causes.append(cause)
        if self.state is not None:
            retraining.write(self.made.store, attempt(len(self.causes), cause, self.now_s, self.state))
        return 3


def watched(made: World, act: Acting, when: str = "new_rows >= 30", now_s: float = 1e6, **more: Any) -> list[Look]:
    looks: list[Look] = []
    act.now_s = now_s
    watch("support", when, made.settings, Progress(StringIO()), once=True, act=act, tell=looks.append,
          clock=lambda: now_s, **more)  # fmt: skip
    return looks


def later(rows: Sequence[Row], time_s: float) -> list[Row]:
    """The same words, said in other requests."""
    return [row.model_copy(update={"request": f"chatcmpl-later-{row.request}", "time_s": time_s}) for row in rows]


def worsening(count: int) -> list[Row]:
    """As many requests with an outcome each, of which the first half are right."""
    judged = [(exposure(f"o{n}", f"q{n}", f"u{n}", time_s=10.0 + n, consent=False),
               said(f"o{n}", value=float(2 * n < count), time_s=500.0)) for n in range(count)]  # fmt: skip
    return [row for pair in judged for row in pair]


def test_a_restarted_watch_does_not_act_again_on_the_same_cause(tmp_path: Path) -> None:
    made, when = world(tmp_path), "outcome < champion - 0.03"
    made.write(worsening(200))
    act = Acting(made)
    assert watched(made, act, when)[0].cause == when
    assert watched(made, act, when, now_s=1e6 + 3 * DAY)[0].cause is None
    assert act.causes == [when]


@pytest.mark.parametrize("state", ["refused", "failed"])
def test_the_clock_begins_again_with_every_attempt_however_seldom_one_looks(tmp_path: Path, state: str) -> None:
    made, when = world(tmp_path), "every 10d"
    act = Acting(made, state)
    for days in (0, 10, 21, 31):
        assert watched(made, act, when, now_s=1e6 + days * DAY)[0].cause == when
    for minutes in (1, 300, 9 * 24 * 60):
        assert watched(made, act, when, now_s=1e6 + 31 * DAY + minutes * 60)[0].cause is None
    assert act.causes == [when] * 4


def test_new_rows_begin_again_with_every_attempt_however_seldom_one_looks(tmp_path: Path) -> None:
    made = world(tmp_path)
    made.write(corrections(40))
    act = Acting(made)
    watched(made, act)
    made.write(later(corrections(40), 1e6 + 1.5 * DAY))
    assert watched(made, act, now_s=1e6 + 2 * DAY)[0].cause == "new_rows >= 30", "no look saw it cease"
    assert watched(made, act, now_s=1e6 + 4 * DAY)[0].cause is None
    assert len(act.causes) == 2


def test_a_short_period_stays_within_the_budget(tmp_path: Path) -> None:
    made, when = world(tmp_path), "every 1h"
    act = Acting(made, "failed")
    whys = [watched(made, act, when, now_s=1e6 + hours * 3600)[0].why for hours in range(25)]
    assert whys[1:24] == ["every 1h, but the day's budget of 1 is used up"] * 23
    assert len(act.causes) == 2, "one at the beginning and one a day later"


def test_new_rows_are_those_since_the_last_child(tmp_path: Path) -> None:
    made = world(tmp_path)
    made.write(corrections(40, 20.0))
    act = Acting(made)
    watched(made, act)
    after = watched(made, act, now_s=1e6 + 3 * DAY)[0]
    assert (after.facts["new_rows"], after.cause) == (0.0, None)
    made.write(later(corrections(40), 1e6 + 5 * DAY))
    assert watched(made, act, now_s=1e6 + 6 * DAY)[0].cause == "new_rows >= 30", "it ceased, and holds again"
    assert len(act.causes) == 2


def test_a_dry_run_says_what_it_would_do_and_does_nothing(tmp_path: Path) -> None:
    made = world(tmp_path)
    made.write(corrections(40))
    act = Acting(made)
    assert watched(made, act, is_dry=True)[0].cause == "new_rows >= 30"
    assert act.causes == []
    assert not made.store.exists("watch", "support.json")


def test_what_came_to_nothing_is_not_tried_at_every_look(tmp_path: Path) -> None:
    made = world(tmp_path)
    made.write(corrections(40))
    act = Acting(made, state=None)
    watched(made, act)
    assert "tried in vain" in watched(made, act, now_s=1e6 + 60)[0].why
    watched(made, act, now_s=1e6 + 3700)
    assert len(act.causes) == 2


def test_an_endpoint_has_one_watch(tmp_path: Path) -> None:
    made = world(tmp_path)
    with locked(Path(made.store.path("watch", ".support.lock"))):
        with pytest.raises(UsageError, match="watched already"):
            watched(made, Acting(made))
        assert watched(made, Acting(made), is_dry=True)[0].why == "nothing to do", "a dry run is none"


def test_the_outcome_is_the_last_requests_and_the_champions_the_first(tmp_path: Path) -> None:
    made = world(tmp_path)
    judged = worsening(200)
    made.write(judged[:198])
    terms = {"outcome", "champion"}
    facts, _ = facts_of(made.endpoint, [], terms, made.settings, 1e6, KnownOnce(), keep=True)
    assert (facts["outcome"], facts["champion"]) == (None, None), "too few to say"
    made.write(judged)
    facts, _ = facts_of(made.endpoint, [], terms, made.settings, 1e6, KnownOnce(), keep=True)
    assert (facts["outcome"], facts["champion"]) == (0.0, 1.0)
    assert parse_when("outcome < champion - 0.03")[0].holds(facts) is True
