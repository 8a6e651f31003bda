"""What a watch counts is what a retraining would have, and the parent's rows are read no more often than they must."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving import watch_facts
from serving.ledger_rows import Row
from serving.material import RowCounts
from serving.retrain import dry_run
from serving.retraining import Retraining
from serving.watch_facts import KnownOnce, facts_of
from tests.parents import World, correction, corrections, old_rows, world

NOW_S = 1e6
ROWS = RowCounts(train=1, validation=1, test=1, units=3, replaced=0, left_out={}, unmatched=0)


def tried(at_s: float) -> list[Retraining]:
    return [Retraining(endpoint="support", run="r", cause="every 1d", started_s=at_s, parent_run="p", state="refused",
                       parent_release="router@1", material="m", rows=ROWS, ended_s=at_s + 10)]  # fmt: skip


def counted(
    made: World, past: list[Retraining] | None = None, known: KnownOnce | None = None
) -> tuple[float | None, list[str]]:
    told = known or KnownOnce()
    facts, notes = facts_of(made.endpoint, past or [], {"new_rows"}, made.settings, NOW_S, told, keep=True)
    return facts["new_rows"], notes


def known_rows(time_s: float = 20.0) -> list[Row]:
    """What a parent was trained on, was tested with, and what one user alone holds against its training."""
    trained, tested = old_rows(2), old_rows(1, 200)[0]
    return [
        *correction("k", trained[0]["text"], trained[0]["label"], "k", time_s),
        *correction("t", tested["text"].upper(), "shipping", "t", time_s),
        *correction("x", trained[1]["text"], "shipping", "x", time_s),
    ]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parents whose rows were read."""
    found, parent_of = list[str](), watch_facts.parent_of

    def noted(*arguments: object) -> object:
        parent = parent_of(*arguments)  # pyright: ignore[reportArgumentType]
        found.append(parent.version)
        return parent

    monkeypatch.setattr(watch_facts, "parent_of", noted)
    return found


def test_new_rows_are_those_that_a_retraining_would_have(tmp_path: Path) -> None:
    made = world(tmp_path)
    made.write([*corrections(30), *known_rows()])
    assert counted(made) == (30.0, [])
    assert dry_run("support", made.settings).rows.usable == 30


def test_rows_since_the_last_child_stand_beside_the_earlier_ones(tmp_path: Path) -> None:
    made = world(tmp_path)
    made.write([row for n in range(9) for row in correction(f"e{n}", f"early {n}", "bugs", f"e{n}")])
    made.write([row for n in range(5) for row in correction(f"d{n}", f"early {n}", "access", f"d{n}", 200.0)])
    made.write(corrections(30, 200.0))
    assert counted(made, tried(100.0))[0] == 30.0, "five contradict what was said before, and neither is believed"
    assert dry_run("support", made.settings).rows.usable == 34


def test_a_parents_rows_are_read_again_only_where_something_new_came(tmp_path: Path, read: list[str]) -> None:
    made, known = world(tmp_path), KnownOnce()
    made.write(corrections(30))
    assert [counted(made, known=known)[0] for _ in range(3)] == [30.0] * 3
    assert read == ["router@1"]
    made.write(known_rows(50.0))
    assert [counted(made, known=known)[0] for _ in range(3)] == [30.0] * 3
    assert len(read) == 2
    first = made.endpoint.arms["first"]
    made.change(arms={"first": first.model_copy(update={"version": "router@2"})})
    assert counted(made, known=known)[0] == 30.0
    assert read == ["router@1", "router@1", "router@2"]


def test_without_a_row_since_the_last_child_no_parent_is_read(tmp_path: Path, read: list[str]) -> None:
    made = world(tmp_path)
    assert counted(made) == (0.0, [])
    made.write(corrections(30))
    assert counted(made, tried(100.0)) == (0.0, [])
    assert read == []


def test_a_release_that_can_have_no_child_has_no_new_rows_to_speak_of(tmp_path: Path) -> None:
    made = world(tmp_path)
    made.write(corrections(30))
    first = made.endpoint.arms["first"]
    made.change(arms={"first": first.model_copy(update={"version": None, "release": "base:/m"})})
    count, notes = counted(made)
    assert count is None
    assert "new_rows: the arm first of support serves base:/m, which is no version" in notes[0]
