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
from serving.material import RowCounts
from serving.retraining import Retraining
from serving.watch import Look, Memory, decision, watch
from serving.watch_facts import facts_of
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


def decided(made: World, past: Sequence[Retraining], now_s: float, memory: Memory | None = None, **holds: bool | None):
    return decision(made.endpoint, holds, past, memory or Memory(), 1, now_s)


def test_a_clause_that_holds_causes_one_child_of_a_parent(tmp_path: Path) -> None:
    made = world(tmp_path)
    assert decided(made, [], 10.0, drift=True)[0] == "drift"
    assert decided(made, [], 10.0, drift=None, rows=False)[0] is None
    past = [attempt(1, "drift", 10.0, "refused")]
    assert decided(made, past, 10.0 + 9 * DAY, drift=True) == (None, "drift has had its child")
    ceased = Memory(ceased={"drift": 5 * DAY})
    assert decided(made, past, 10.0 + 9 * DAY, ceased, drift=True)[0] == "drift", "it ceased to hold in between"
    other = [attempt(1, "drift", 10.0, parent="router@0")]
    assert decided(made, other, 10.0 + 9 * DAY, drift=True)[0] == "drift", "a child of another parent"
    assert decided(made, past, 10.0 + 9 * DAY, drift=True, rows=True)[0] == "rows", "another cause"


def test_no_more_children_begin_in_a_day_than_the_budget_allows(tmp_path: Path) -> None:
    made = world(tmp_path)
    past = [attempt(1, "rows", 10.0, "failed")]
    cause, why = decided(made, past, DAY, drift=True)
    assert (cause, why) == (None, "drift, but the day's budget of 1 is used up")
    assert decided(made, past, DAY + 11.0, drift=True)[0] == "drift"


def test_what_was_begun_is_finished_first_and_within_no_budget(tmp_path: Path) -> None:
    made = world(tmp_path)
    past = [attempt(1, "drift", 10.0, "begun")]
    assert decided(made, past, 20.0, drift=True)[0] == "unfinished"
    assert decided(made, past, 20.0, Memory(tried={"unfinished": 15.0}))[0] is None, "tried just now, in vain"
    assert decided(made, past, 15.0 + 3601, Memory(tried={"unfinished": 15.0}))[0] == "unfinished"


def test_no_child_begins_while_an_experiment_is_undecided(tmp_path: Path) -> None:
    made = world(tmp_path)
    arms = {**made.endpoint.arms, "second": arm(1.0)}
    made.change(arms=arms)
    cause, why = decided(made, [], 10.0, drift=True)
    assert cause is None
    assert "shares its traffic" in why


class Acting:
    """Stands for `hone retrain`: notes what it was asked, and leaves an attempt."""

    def __init__(self, made: World, state: str | None = "refused") -> None:
        self.made, self.state, self.causes = made, state, list[str]()

    def __call__(self, name: str, cause: str, stopping: threading.Event) -> int:
        self.causes.append(cause)
        if self.state is not None:
            retraining.write(self.made.store, attempt(len(self.causes), cause, 1e6, self.state))
        return 3


def watched(made: World, act: Acting, when: str = "new_rows >= 30", now_s: float = 1e6, **more: Any) -> list[Look]:
    looks: list[Look] = []
    watch("support", when, made.settings, Progress(StringIO()), once=True, act=act, tell=looks.append,
          clock=lambda: now_s, **more)  # fmt: skip
    return looks


def test_a_restarted_watch_does_not_act_again_on_the_same_cause(tmp_path: Path) -> None:
    made = world(tmp_path)
    made.write(corrections(40, 2e6))
    act = Acting(made)
    assert watched(made, act)[0].cause == "new_rows >= 30"
    assert watched(made, act, now_s=1e6 + 3 * DAY)[0].cause is None
    assert act.causes == ["new_rows >= 30"]


def test_new_rows_are_those_since_the_last_child(tmp_path: Path) -> None:
    made = world(tmp_path)
    made.write(corrections(40, 20.0))
    act = Acting(made)
    watched(made, act)
    later = watched(made, act, now_s=1e6 + 3 * DAY)[0]
    assert (later.facts["new_rows"], later.cause) == (0.0, None)
    made.write([row.model_copy(update={"request": f"chatcmpl-again-{row.request}", "time_s": 1e6 + 5 * DAY})
                for row in corrections(40)])  # fmt: skip
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
    with locked(Path(made.store.path("watch", ".support.lock"))), pytest.raises(UsageError, match="watched already"):
        watched(made, Acting(made))


def test_the_outcome_is_the_last_requests_and_the_champions_the_first(tmp_path: Path) -> None:
    made = world(tmp_path)
    judged = [(exposure(f"o{n}", f"q{n}", f"u{n}", time_s=10.0 + n, consent=False),
               said(f"o{n}", value=float(n < 100), time_s=500.0)) for n in range(200)]  # fmt: skip
    made.write([row for pair in judged[:99] for row in pair])
    terms = {"outcome", "champion"}
    facts, _ = facts_of(made.endpoint, [], terms, made.settings, 1e6)
    assert (facts["outcome"], facts["champion"]) == (None, None), "too few to say"
    made.write([row for pair in judged for row in pair])
    facts, _ = facts_of(made.endpoint, [], terms, made.settings, 1e6)
    assert (facts["outcome"], facts["champion"]) == (0.0, 1.0)
    assert parse_when("outcome < champion - 0.03")[0].holds(facts) is True
