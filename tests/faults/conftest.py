"""A job whose training lasts some seconds, its unbroken run, and commands as processes that can be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor

from tests.tiny import ticket_rows, write_base, write_jsonl
from trainers.checkpoint import read_weights

HONE = [sys.executable, "-m", "cluster.cli"]
LAYOUT_TOLERANCE = 1e-4
"""Sums in another order are rounded otherwise: 1e-7 a step, over some 500 steps at a learning rate of 1e-4."""
GOES_ON = "goes on after step"
EVERY = 20
"""Steps between checkpoints: the most that may be lost."""


@dataclass
class Command:
    """A `hone` command in a process group of its own, its output in files."""

    home: Path
    arguments: list[str]
    out: Path
    variables: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        with self.out.open("wb") as stdout, self.err.open("wb") as stderr:
            self.process = subprocess.Popen(
                [*HONE, *self.arguments],
                stdout=stdout,
                stderr=stderr,
                env=os.environ | {"HONE_HOME": str(self.home)} | self.variables,
                start_new_session=True,
            )

    @property
    def err(self) -> Path:
        return self.out.with_suffix(".err")

    @property
    def said(self) -> str:
        return self.err.read_text()

    def until(self, what: Callable[[], Any], timeout_s: float = 120) -> Any:
        """Wait until ``what`` returns something, while the command runs."""
        deadline = time.monotonic() + timeout_s
        while not (found := what()):
            assert self.process.poll() is None, f"it ended early:\n{self.said}"
            assert time.monotonic() < deadline, f"nothing within {timeout_s} s:\n{self.said}"
            time.sleep(0.02)
        return found

    def ends(self, timeout_s: float = 180) -> int:
        return self.process.wait(timeout_s)

    @property
    def run(self) -> str:
        (run,) = (path.name for path in (self.home / "runs").iterdir())
        return run

    def status(self) -> dict[str, Any]:
        path = self.home / "runs" / self.run / "status.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def step(self) -> int:
        runs = self.home / "runs"
        return self.status().get("step", 0) if runs.exists() and any(runs.iterdir()) else 0

    def settled(self) -> int:
        """The step, past two checkpoints and while none is being written beside the training; 0 at any other time."""
        step = self.step()
        if step <= 2 * EVERY:
            return 0
        kept = (self.home / "runs" / self.run / "checkpoints").glob("step-*")
        return step if max((int(path.name[5:]) for path in kept), default=0) >= step - EVERY else 0

    def processes(self, name: str) -> list[psutil.Process]:
        """The Ray processes of this command whose title begins so, oldest first."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if " ".join(process.cmdline()).startswith(name):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return sorted(found, key=lambda process: process.create_time())

    def workers(self) -> list[psutil.Process]:
        return self.processes("ray::RayTrainWorker")


@dataclass
class Recovery:
    """How long a run stood still: from a fault, or the command that resumes it, to the step after the restored one."""

    record: Callable[[str, object], None]
    began_s: float = 0.0

    def begins(self) -> None:
        self.began_s = time.monotonic()

    def ends(self, command: Command) -> None:
        """Wait until the command's run has gone on."""
        command.until(lambda: GOES_ON in command.said)
        self.record("recovery_s", round(time.monotonic() - self.began_s, 1))


@dataclass(frozen=True)
class Job:
    """The job file and how to run it."""

    path: Path
    folder: Path

    def start(self, home: str, *arguments: str, command: str = "train", **variables: str) -> Command:
        """Start `hone train` on the job, or another command with its own arguments."""
        whole = self.folder / home
        name = f"{home}-{len(list(self.folder.glob('*.out')))}.out"
        first = [command, str(self.path)] if command in ("train", "sweep") else [command]
        return Command(whole, [*first, *arguments], self.folder / name, variables)

    def goes_on(self, command: Command, recovery: Recovery) -> Command:
        """Resume a run that ended, wait for its end, and return the command that did it."""
        recovery.begins()
        again = self.start(command.home.name, command.run, command="resume")
        recovery.ends(again)
        assert again.ends() == 0, again.said
        return again

    def weights(self, home: str) -> dict[str, Tensor]:
        (run,) = (self.folder / home / "runs").iterdir()
        return read_weights(run / "train")


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("faults")
    write_base(folder / "base")
    write_jsonl(folder / "tickets.jsonl", ticket_rows(300))
    path = folder / "job.yaml"
    path.write_text(
        "name: tickets\nbase: ./base\ndata: {train: tickets.jsonl, split: {test: 0.0}}\n"
        "train: {method: full, epochs: 30, learning_rate: 1.0e-4, batch_size: 16, max_length: 64, zero_stage: 2,\n"
        f"        eval_every: 100, early_stopping: null, checkpoint: {{every: {EVERY}}}}}\n"
        "cluster: {workers: 2, hang_timeout_s: 15}\n"
    )
    return Job(path, folder)


@pytest.fixture(scope="session")
def unbroken(job: Job) -> dict[str, Tensor]:
    """The weights of a run that nothing happened to."""
    command = job.start("unbroken")
    assert command.ends() == 0, command.said
    return job.weights("unbroken")


@pytest.fixture
def recovery(record_property: Callable[[str, object], None]) -> Recovery:
    """Measures how long a run stood still; `benchmarks/faults.py` reads it from the test's record."""
    return Recovery(record_property)


@pytest.fixture
def same(job: Job, unbroken: dict[str, Tensor]) -> Callable[[str], None]:
    """Asserts that a home's run has the unbroken run's weights, bit for bit."""

    def check(home: str) -> None:
        for name, value in job.weights(home).items():
            assert torch.equal(value, unbroken[name]), name

    return check


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """After a test no Ray process is there that was not there before it."""
    with leaving_nothing_behind():
        yield


@contextmanager
def leaving_nothing_behind() -> Generator[None]:
    """After the block no Ray process is there that was not there before it."""
    before = set(ray_pids())
    yield
    deadline = time.monotonic() + 20
    while left := set(ray_pids()) - before:
        if time.monotonic() > deadline:
            names = [" ".join(psutil.Process(pid).cmdline())[:80] for pid in left if psutil.pid_exists(pid)]
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            pytest.fail(f"{len(left)} processes were left behind: {names}")
        time.sleep(0.2)


def ray_pids() -> list[int]:
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or [])
        is_ray = line.startswith("ray::") or "/raylet/raylet" in line or "gcs_server" in line
        if is_ray and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process.pid)
    return found
