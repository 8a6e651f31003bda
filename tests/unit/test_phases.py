"""Time by stage: attempts add up, what is unknown is not guessed, and stages run once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster import pipeline
from cluster.phases import PHASES, Phase, StageTime, duration, note_phase, read_phases, stage_times, timed
from cluster.pipeline import Stage, run_stages
from cluster.run_context import RunContext
from cluster.store import Store

RUN = "a-20260301-120000-abcd"


class Clock:
    """Tells the times that it was given, one after another."""

    def __init__(self, *times: float) -> None:
        self.times = list(times)

    def __call__(self) -> float:
        return self.times.pop(0)


def test_a_stage_is_timed_from_its_begin_to_its_end(tmp_path: Path):
    store = Store(str(tmp_path))
    assert read_phases(store, RUN) == []
    note_phase(store, RUN, Phase(stage="data", took_s=3.0, done=True))
    with timed(store, RUN, "train", Clock(10.0, 14.5)):
        assert read_phases(store, RUN)[-1] == Phase(stage="train"), "going on: its time is not known yet"
    assert read_phases(store, RUN) == [
        Phase(stage="data", took_s=3.0, done=True),
        Phase(stage="train", took_s=4.5, done=True),
    ]


def test_an_attempt_that_failed_counts_and_its_error_stays(tmp_path: Path):
    store = Store(str(tmp_path))
    with pytest.raises(KeyboardInterrupt), timed(store, RUN, "train", Clock(0.0, 2.0)):
        raise KeyboardInterrupt
    with timed(store, RUN, "train", Clock(0.0, 5.0)):
        pass
    assert [phase.done for phase in read_phases(store, RUN)] == [False, True]
    assert stage_times(read_phases(store, RUN)) == [StageTime("train", 7.0, attempts=2, is_known=True)]


def test_a_killed_attempt_makes_its_stage_a_lower_bound():
    phases = [Phase(stage="train"), Phase(stage="train", took_s=5.0, done=True), Phase(stage="gate", took_s=0.1)]
    assert stage_times(phases) == [StageTime("train", 5.0, 2, is_known=False), StageTime("gate", 0.1, 1, is_known=True)]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.04, "40 ms"),
        (5.23, "5.2 s"),
        (48.2, "48 s"),
        (725, "12 min 05 s"),
        (3599.9, "1 h 00 min"),
        (11_220, "3 h 07 min"),
    ],
)
def test_times_are_said_as_a_person_says_them(seconds: float, said: str):
    assert duration(seconds) == said


@pytest.fixture
def ctx(tmp_path: Path) -> RunContext:
    nothing: Any = None
    store = Store(str(tmp_path))
    return RunContext(RUN, nothing, nothing, store, nothing, nothing)


STAGES = [Stage(name, name, f"{name}.json") for name in ("one", "two", "three")]


def test_stages_run_in_order_and_each_is_timed(ctx: RunContext, monkeypatch: pytest.MonkeyPatch):
    ran: list[str] = []

    def entry(name: str) -> Any:
        def stage(ctx: RunContext) -> None:
            ran.append(name)
            ctx.store.put_json({}, "runs", RUN, f"{name}.json")

        return stage

    monkeypatch.setattr(pipeline, "entry", entry)
    run_stages(ctx, STAGES)
    assert ran == ["one", "two", "three"]
    assert [(phase.stage, phase.done) for phase in read_phases(ctx.store, RUN)] == [(name, True) for name in ran]
    ctx.store.remove("runs", RUN, "one.json")
    run_stages(ctx, [*STAGES, replace(STAGES[0], name="four", entry="four", leaves="four.json")])
    assert ran == ["one", "two", "three", "four"], "what a later stage cleared away is not made again"


def test_the_time_of_a_stage_that_fails_is_written_down(ctx: RunContext, monkeypatch: pytest.MonkeyPatch):
    def broken(_ctx: RunContext) -> None:
        raise ValueError("no")

    monkeypatch.setattr(pipeline, "entry", lambda _name: broken)
    with pytest.raises(ValueError, match="no"):
        run_stages(ctx, STAGES)
    (phase,) = json.loads(ctx.store.get_text("runs", RUN, PHASES))
    assert (phase["stage"], phase["done"]) == ("one", False)
    assert phase["took_s"] >= 0
