"""What happens to a training run when something is killed, stopped, damaged or full.

Each test asserts the final weights (bit for bit those of the unbroken run) or the exact error, that at most one
checkpoint interval was done again, and that no process is left behind.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.faults.conftest import EVERY, Command, Job

slow = pytest.mark.slow


def went_on_after(command: Command) -> int:
    """The step after which the command's run went on, as it told its user."""
    found = re.findall(r"goes on after step (\d+)", command.said)
    assert found, command.said
    return int(found[-1])


def test_a_killed_worker_is_replaced_and_the_weights_are_those_of_the_unbroken_run(
    job: Job, same: Callable[[str], None]
) -> None:
    command = job.start("killed")
    step = command.until(lambda: command.step() if command.step() > 2 * EVERY else 0)
    command.workers()[-1].kill()
    assert command.ends() == 0, command.said
    assert went_on_after(command) >= step - EVERY
    same("killed")


@slow
def test_a_worker_killed_while_it_writes_a_checkpoint_leaves_the_one_before(
    job: Job, same: Callable[[str], None]
) -> None:
    command = job.start("writing")
    command.until(lambda: command.step() > 2 * EVERY)
    aside = command.home / "runs" / command.run / "checkpoints" / ".aside"
    deadline = time.monotonic() + 60
    while not any(aside.glob("step-*/shard-*")):  # no pause: it is there for milliseconds
        assert time.monotonic() < deadline
    command.workers()[0].kill()
    assert command.ends() == 0, command.said
    same("writing")


def test_terminated_it_stops_after_a_checkpoint_and_goes_on_from_the_newest_intact_one(
    job: Job, same: Callable[[str], None]
) -> None:
    command = job.start("terminated")
    command.until(lambda: command.step() > 2 * EVERY)
    command.process.send_signal(signal.SIGTERM)
    assert command.ends() == 130, command.said
    assert "hone resume" in command.said
    status = command.status()
    assert status["state"] == "stopped"
    newest = sorted((command.home / "runs" / command.run / "checkpoints").glob("step-*"))[-1]
    assert int(newest.name[5:]) >= status["step"]
    flip_a_byte(newest / "shard-0-of-2.safetensors")
    again = job.start("terminated", command.run, command="resume")
    assert again.ends() == 0, again.said
    assert newest.name in again.said
    assert went_on_after(again) < int(newest.name[5:])
    same("terminated")


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@slow
def test_a_second_interrupt_leaves_at_once_and_the_run_can_still_go_on(job: Job, same: Callable[[str], None]) -> None:
    command = job.start("twice")
    command.until(lambda: command.step() > 2 * EVERY)
    for worker in command.workers():
        worker.suspend()  # so that the first one cannot be honoured
    command.process.send_signal(signal.SIGINT)
    time.sleep(1)
    began = time.monotonic()
    command.process.send_signal(signal.SIGINT)
    assert command.ends() == 130, command.said
    assert time.monotonic() - began < 15
    assert command.status()["state"] == "stopped"
    again = job.start("twice", command.run, command="resume")
    assert again.ends() == 0, again.said
    same("twice")


@slow
def test_a_killed_driver_leaves_a_run_that_goes_on(job: Job, same: Callable[[str], None]) -> None:
    command = job.start("driver")
    command.until(lambda: command.step() > 2 * EVERY)
    left = psutil.Process(command.process.pid).children(recursive=True)
    command.process.kill()
    command.process.wait()
    psutil.wait_procs(left, timeout=30)
    again = job.start("driver", command.run, command="resume")
    assert again.ends() == 0, again.said
    same("driver")


@slow
def test_a_killed_controller_ends_the_run_with_the_way_to_go_on(job: Job, same: Callable[[str], None]) -> None:
    command = job.start("controller")
    command.until(lambda: command.step() > 2 * EVERY)
    command.processes("ray::TrainController")[0].kill()
    assert command.ends() == 1, command.said
    assert "hone resume" in command.said
    assert "Traceback" not in command.said
    again = job.start("controller", command.run, command="resume")
    assert again.ends() == 0, again.said
    same("controller")


@slow
def test_a_hung_rank_is_noticed_within_its_timeout(job: Job, same: Callable[[str], None]) -> None:
    command = job.start("hung")
    command.until(lambda: command.step() > 2 * EVERY)
    command.workers()[-1].suspend()
    began = time.monotonic()
    command.until(lambda: "goes on after step" in command.said)
    assert time.monotonic() - began < 15 + 30, "the timeout and a restart"
    assert command.ends() == 0, command.said
    same("hung")


@slow
def test_a_full_disk_is_an_error_that_says_so_and_the_run_goes_on_when_there_is_room(
    job: Job, same: Callable[[str], None]
) -> None:
    home = job.folder / "full"
    home.mkdir()
    if os.system(f"mount -t tmpfs -o size=48m tmpfs {home}"):
        pytest.skip("a small disk cannot be mounted here (needs root)")
    try:
        command = job.start("full")
        command.until(lambda: command.step() > EVERY)
        free = os.statvfs(home).f_bavail * os.statvfs(home).f_frsize
        (home / "ballast").write_bytes(b"x" * (free - 2**20))
        assert command.ends() == 1, command.said
        assert "bytes free" in command.said
        assert "Traceback" not in command.said
        (home / "ballast").unlink()
        again = job.start("full", command.run, command="resume")
        assert again.ends() == 0, again.said
        same("full")
    finally:
        os.system(f"umount {home}")
