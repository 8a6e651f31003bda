"""What the trackers write, read back: TensorBoard's event files, and the log of an offline run of Weights & Biases."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

from cluster.errors import JobFileError
from cluster.spec import JobSpec
from trainers import curve_tracking
from trainers.curve_tracking import curve_trackers, refuse_untracked
from trainers.loop import EvaluationRecord
from trainers.loop_state import LoopState, StepRecord
from trainers.recorder import Recorder, read_history

RUN = "tickets-20260101-000000-abcd"
BLOCK_BYTES = 32768


def attempt(directory: Path, trackers: list[str], *, after: int, to: int, loss: float) -> None:
    """Take steps with an evaluation behind the last, as the loop tells rank 0's hooks."""
    live = curve_trackers(trackers, directory, RUN, "tickets")
    recorder = Recorder(RUN, directory, lambda _status: None, trackers=live)
    recorder.on_start(LoopState(step=after, seconds=1.0), [])
    for step in range(after + 1, to + 1):
        recorder.on_step(StepRecord(step, 10, loss / step, 1e-3, 0.5, 8, 20, 0.1))
    recorder.on_evaluation(EvaluationRecord(to, {"loss": 2.0, "perplexity": 7.4}, improved=True))
    recorder.on_checkpoint(to)
    recorder.close()


def scalars(directory: Path) -> dict[str, dict[int, float]]:
    events = EventAccumulator(str(directory / "tensorboard")).Reload()
    return {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def test_tensorboard_has_every_point_of_the_history(tmp_path: Path) -> None:
    attempt(tmp_path, ["mlflow", "tensorboard"], after=0, to=4, loss=6.0)
    found = scalars(tmp_path)
    told = {int(p["step"]): p["loss"] for p in read_history(tmp_path) if "loss" in p}
    assert found["train/loss"] == pytest.approx(told)
    assert set(found) == {
        *(f"train/{name}" for name in ("loss", "learning_rate", "grad_norm", "examples_per_s")),
        *(f"validation/{name}" for name in ("loss", "perplexity")),
    }
    assert found["validation/loss"] == {4: 2.0}


def test_a_run_that_goes_on_replaces_what_was_lost(tmp_path: Path) -> None:
    attempt(tmp_path, ["tensorboard"], after=0, to=4, loss=6.0)
    attempt(tmp_path, ["tensorboard"], after=2, to=5, loss=60.0)
    assert scalars(tmp_path)["train/loss"] == pytest.approx({1: 6.0, 2: 3.0, 3: 20.0, 4: 15.0, 5: 12.0})


def records(file: Path) -> Iterator[bytes]:
    """Yield what a LevelDB log holds (W&B's format: 7 bytes of its own first): records, cut at the ends of blocks."""
    content, place, parts = file.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if BLOCK_BYTES - place % BLOCK_BYTES < 7:
            place += BLOCK_BYTES - place % BLOCK_BYTES
            continue
        size, kind = struct.unpack("<4xHB", content[place : place + 7])
        parts += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def test_wandb_has_every_point_under_the_runs_id_and_was_never_online(tmp_path: Path) -> None:
    attempt(tmp_path, ["wandb"], after=0, to=3, loss=6.0)
    (file,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    logged: dict[int, dict[str, float]] = {}
    ids = set()
    for content in records(file):
        record = wandb_internal_pb2.Record.FromString(content)
        if record.WhichOneof("record_type") == "run":
            ids.add((record.run.run_id, record.run.project))
        if record.WhichOneof("record_type") == "history":
            items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            logged.setdefault(int(items.pop("_step")), {}).update(items)
    assert ids == {(RUN, "tickets")}
    assert {step: values["loss"] for step, values in logged.items()} == {1: 6.0, 2: 3.0, 3: 2.0}
    assert (logged[3]["validation_loss"], logged[3]["validation_perplexity"]) == (2.0, 7.4)


def test_nothing_is_imported_or_written_unasked(tmp_path: Path) -> None:
    import subprocess

    code = (
        "import sys; from pathlib import Path; from trainers.curve_tracking import curve_trackers, refuse_untracked;"
        f"refuse_untracked(['mlflow']); assert curve_trackers(['mlflow'], Path({str(tmp_path)!r}), 'r', 'j') == [];"
        "print([m for m in ('tensorboard', 'wandb', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_what_is_asked_for_and_missing_is_refused_with_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    refuse_untracked(["mlflow", name])
    monkeypatch.setitem(curve_tracking.PACKAGES, name, "no_such_package")
    with pytest.raises(JobFileError, match="no_such_package") as refused:
        refuse_untracked(["mlflow", name])
    assert f"hone[{name}]" in refused.value.remedy
    assert refused.value.where == "tracking.1"


def test_an_unknown_tracker_is_no_job() -> None:
    with pytest.raises(ValueError, match="tensorboard"):
        JobSpec.model_validate({"name": "a", "base": "b", "data": "c.jsonl", "tracking": ["comet"]})
