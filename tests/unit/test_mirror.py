from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import StoreError
from cluster.records import RunStatus
from cluster.store import Store
from trainers.curve_tracking import curve_trackers
from trainers.loop_state import LoopState, StepRecord
from trainers.mirror import Mirror
from trainers.recorder import HISTORY, Recorder, read_growing
from trainers.validation import EvaluationRecord


@pytest.fixture(params=["directory", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HOME", str(tmp_path / "node"))
    return str(tmp_path / "run") if request.param == "directory" else f"memory://{uuid.uuid4().hex}/run"


def step(number: int) -> StepRecord:
    return StepRecord(
        step=number, steps=9, loss=1.0 / number, learning_rate=0.1, grad_norm=1.0, examples=4, target_tokens=8,
        seconds=0.1, stop=False, save=False,
    )  # fmt: skip


def run(root: str, began: int, steps: list[int], publish: Any = lambda status: None) -> None:
    """Train and die after the last evaluation, with nothing closed but by the system."""
    recorder = Recorder("r", root, publish)
    recorder.on_start(LoopState(step=began), [])
    with recorder._open():
        for number in steps:
            recorder.on_step(step(number))
            if number == 2:
                recorder.on_checkpoint(number)
        recorder.on_evaluation(EvaluationRecord(steps[-1], {"loss": 0.5}, improved=True))


def test_a_curve_goes_on_where_another_node_left_it(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_growing(root) == []
    run(root, 0, [1, 2, 3])
    assert [point["step"] for point in read_growing(root)] == [1, 2, 3, 3]
    monkeypatch.setenv("HOME", str(tmp_path / "another node"))
    run(root, 2, [3, 4])
    assert [point["step"] for point in read_growing(root)] == [1, 2, 3, 4, 4]


def test_half_a_line_is_no_point(root: str) -> None:
    Store(root).put_text('{"step": 1}\n{"ste', HISTORY)
    assert read_growing(root) == [{"step": 1}]


def test_only_what_has_changed_is_pushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "node"))
    pushed: list[str] = []
    mirror = Mirror(f"memory://{uuid.uuid4().hex}/run")
    monkeypatch.setattr(Store, "put_file", lambda self, source, name: pushed.append(name))
    mirror.path.mkdir(parents=True)
    for name in ("a", "b"):
        (mirror.path / name).write_text("1")
    (mirror.path / "latest").symlink_to(mirror.path / "a")
    mirror.push()
    (mirror.path / "b").write_text("22")
    mirror.push()
    assert sorted(pushed) == ["a", "b", "b"]


def test_trackers_of_a_run_at_a_url_end_up_there(root: str) -> None:
    trackers = curve_trackers(["tensorboard"], root, "r", "job")
    for tracker in trackers:
        tracker.begin(0)
        tracker.note(1, {"loss": 1.0})
    for tracker in trackers:
        tracker.close()
    (events,) = Store(root).list("tensorboard")
    assert events.startswith("events.out.tfevents")


def test_a_status_that_storage_far_away_does_not_take_ends_no_training(root: str) -> None:
    def publish(status: RunStatus) -> None:
        raise StoreError("away")

    if root.startswith("memory:"):
        run(root, 0, [1], publish)
        assert [point["step"] for point in read_growing(root)] == [1, 1]
    else:
        with pytest.raises(StoreError, match="away"):
            run(root, 0, [1], publish)
