"""Rank 0's hooks: the run's curve on disk, its status published, and whether it should end early.

The curve is one JSON object a line, for every step and evaluation, with the time; a run that goes on from a checkpoint
first drops the lines after it. The same points go to the trackers that the job asks for. At a remote home the curve is
a mirror's (``trainers.mirror``), and a status that cannot be published is left to the next one.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path
from typing import TextIO

from cluster.errors import StoreError
from cluster.places import is_remote
from cluster.records import Metrics, RunState, RunStatus
from cluster.store import Store
from trainers.curve_tracking import CurveTracker
from trainers.loop import Silent
from trainers.loop_state import LoopState, StepRecord
from trainers.mirror import Mirror
from trainers.validation import EvaluationRecord

HISTORY = "history.jsonl"
PUBLISH_EVERY_S = 1.0
PUBLISH_REMOTE_EVERY_S = 5.0
"""A request or three to an object store take some 50 ms, for which all ranks wait."""


class Recorder(Silent):
    """Writes the curve to ``directory``, a path or URL, and publishes the run's status at most once a second.

    ``stop_asked`` is looked at as often; ``max_seconds`` bounds this attempt.
    """

    def __init__(
        self,
        run: str,
        directory: str | Path,
        publish: Callable[[RunStatus], None],
        *,
        stop_asked: Callable[[], bool] = lambda: False,
        max_seconds: float = inf,
        notes: tuple[str, ...] = (),
        trackers: Sequence[CurveTracker] = (),
    ) -> None:
        self._run = run
        self._mirror = Mirror(directory)
        self._path = self._mirror.path / HISTORY
        self._every_s = PUBLISH_REMOTE_EVERY_S if is_remote(directory) else PUBLISH_EVERY_S
        self._publish = publish
        self._stop_asked = stop_asked
        self._ends_s = time.monotonic() + max_seconds
        self._notes = list(notes)
        self._trackers = trackers
        self._latest: Metrics = {}
        self._began = LoopState()
        self._now = LoopState()
        self._first_step_s = self._last_publish_s = 0.0
        self._stopping = False
        self._curve: TextIO | None = None

    def on_start(self, state: LoopState, warnings: list[str]) -> None:
        """Keep the curve up to where the run goes on."""
        self._began = self._now = state
        self._notes += warnings
        if state.step:
            self._notes.append(f"goes on after step {state.step}")
        self._mirror.pull(HISTORY)
        kept = [line for line in self._lines() if _is_known(json.loads(line), state)]
        self._path.write_text("".join(kept), encoding="utf-8")
        self._curve = self._path.open("a", encoding="utf-8")
        for tracker in self._trackers:
            tracker.begin(state.step)

    def _lines(self) -> list[str]:
        """Return the whole lines written so far: a killed run may have left half of one."""
        if not self._path.exists():
            return []
        return [line for line in self._path.read_text(encoding="utf-8").splitlines(keepends=True) if line[-1] == "\n"]

    def on_step(self, record: StepRecord) -> None:
        """Note a step and, now and then, publish where the run stands."""
        self._first_step_s = self._first_step_s or time.monotonic()
        self._now = self._now.after(record)
        point = {"step": record.step, "loss": record.loss, "learning_rate": record.learning_rate}
        point |= {} if record.grad_norm is None else {"grad_norm": record.grad_norm}
        self._note(point | {"examples_per_s": record.examples / record.seconds})
        self._latest |= {
            "loss": record.loss,
            "examples_per_s": self._now.examples / self._now.seconds,
            "target_tokens_per_s": self._now.target_tokens / self._now.seconds,
        }
        if record.step == record.steps or time.monotonic() - self._last_publish_s >= self._every_s:
            self._show(record.step, record.steps)

    def on_evaluation(self, record: EvaluationRecord) -> None:
        """Note an evaluation."""
        self._note({"step": record.step, **{f"validation_{name}": value for name, value in record.metrics.items()}})
        self._latest |= {"validation_loss": record.metrics["loss"]}
        self._open().flush()
        self._mirror.push()

    def on_checkpoint(self, step: int) -> None:
        """Bring the curve up to this step to the disk."""
        curve = self._open()
        curve.flush()
        os.fsync(curve.fileno())
        self._mirror.push()
        for tracker in self._trackers:
            tracker.flush()

    def wants_stop(self) -> bool:
        """Whether someone asked for a stop, or the time is used up."""
        return self._stopping or time.monotonic() > self._ends_s

    def close(self) -> None:
        """Finish the curve, if one was begun."""
        if self._curve is not None:
            self._curve.close()
            self._mirror.push()
            for tracker in self._trackers:
                tracker.close()

    def _open(self) -> TextIO:
        assert self._curve is not None, "the loop has begun"
        return self._curve

    def _note(self, point: dict[str, float]) -> None:
        self._open().write(json.dumps(point | {"time_s": time.time()}) + "\n")
        values = {name: value for name, value in point.items() if name != "step"}
        for tracker in self._trackers:
            tracker.note(int(point["step"]), values)

    def _show(self, step: int, steps: int) -> None:
        self._last_publish_s = now = time.monotonic()
        self._open().flush()
        done = step - self._began.step
        left_s = (now - self._first_step_s) / (done - 1) * (steps - step) if done > 1 else None
        try:
            self._stopping = self._stopping or self._stop_asked()
            state: RunState = "stopping" if self._stopping else "running"
            status = RunStatus(
                run=self._run,
                stage="train",
                state=state,
                why="; ".join(self._notes),
                step=step,
                steps=steps,
                metrics=self._latest,
                eta_s=left_s,
            )
            self._publish(status)
        except StoreError:
            if self._every_s == PUBLISH_EVERY_S:
                raise


def _is_known(point: dict[str, float], state: LoopState) -> bool:
    """Whether a line of the curve will not be written again by a run that goes on from ``state``."""
    if state.pending is not None and "validation_loss" in point:
        return point["step"] < state.pending.step
    return point["step"] <= state.step


def read_growing(root: str) -> list[dict[str, float]]:
    """Return the whole lines so far of a curve that is being written at a path or URL; none where there is none."""
    store = Store(root)
    if not store.exists(HISTORY):
        return []
    return [json.loads(line) for line in store.get_text(HISTORY).splitlines(keepends=True) if line.endswith("\n")]


def read_history(directory: Path) -> list[dict[str, float]]:
    """Return the points of a finished curve, in order."""
    return [json.loads(line) for line in (directory / HISTORY).read_text(encoding="utf-8").splitlines()]
