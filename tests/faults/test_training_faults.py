"""What happens to a training run when something is killed, stopped, damaged or full.

Each test asserts the final weights (bit for bit those of the unbroken run) or the exact error, that at most one
checkpoint interval was done again, and that no process is left behind.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from torch import Tensor

from tests.faults.conftest import EVERY, GOES_ON, LAYOUT_TOLERANCE, Command, Job, Recovery
from tests.tiny import write_diverging_base

slow = pytest.mark.slow
Same = Callable[[str], None]


def went_on_after(command: Command) -> int:
    """The step after which the command's run went on, as it told its user."""
    found = re.findall(rf"{GOES_ON} (\d+)", command.said)
    assert found, command.said
    return int(found[-1])


def test_a_killed_worker_is_replaced_and_the_weights_are_those_of_the_unbroken_run(
    job: Job, same: Same, recovery: Recovery
) -> None:
    command = job.start("killed")
    step = command.until(command.settled)
    recovery.begins()
    command.workers()[-1].kill()
    recovery.ends(command)
    assert command.ends() == 0, command.said
    assert went_on_after(command) >= step - EVERY
    same("killed")


@slow
def test_a_worker_killed_while_it_writes_a_checkpoint_leaves_the_one_before(
    job: Job, same: Same, recovery: Recovery
) -> None:
    command = job.start("writing")
    command.until(lambda: command.step() > 2 * EVERY)
    aside = command.home / "runs" / command.run / "checkpoints" / ".aside"
    deadline = time.monotonic() + 60
    while not any(aside.glob("step-*/shard-*")):  # no pause: it is there for milliseconds
        assert time.monotonic() < deadline
    recovery.begins()
    command.workers()[0].kill()
    recovery.ends(command)
    assert command.ends() == 0, command.said
    same("writing")


def test_terminated_it_stops_after_a_checkpoint_and_goes_on_from_the_newest_intact_one(
    job: Job, same: Same, recovery: Recovery
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
    again = job.goes_on(command, recovery)
    assert newest.name in again.said
    assert went_on_after(again) < int(newest.name[5:])
    same("terminated")


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@slow
def test_a_second_interrupt_leaves_at_once_and_the_run_can_still_go_on(
    job: Job, same: Same, recovery: Recovery
) -> None:
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
    job.goes_on(command, recovery)
    same("twice")


@slow
def test_a_killed_driver_leaves_a_run_that_goes_on(job: Job, same: Same, recovery: Recovery) -> None:
    command = job.start("driver")
    command.until(lambda: command.step() > 2 * EVERY)
    left = psutil.Process(command.process.pid).children(recursive=True)
    command.process.kill()
    command.process.wait()
    psutil.wait_procs(left, timeout=30)
    job.goes_on(command, recovery)
    same("driver")


@slow
def test_a_killed_controller_ends_the_run_with_the_way_to_go_on(job: Job, same: Same, recovery: Recovery) -> None:
    command = job.start("controller")
    command.until(lambda: command.step() > 2 * EVERY)
    command.processes("ray::TrainController")[0].kill()
    assert command.ends() == 1, command.said
    assert "hone resume" in command.said
    assert "Traceback" not in command.said
    job.goes_on(command, recovery)
    same("controller")


@slow
def test_a_hung_rank_is_noticed_within_its_timeout(job: Job, same: Same, recovery: Recovery) -> None:
    command = job.start("hung")
    command.until(lambda: command.step() > 2 * EVERY)
    recovery.begins()
    command.workers()[-1].suspend()
    recovery.ends(command)
    assert time.monotonic() - recovery.began_s < 15 + 30, "the timeout and a restart"
    assert command.ends() == 0, command.said
    same("hung")


@slow
def test_a_full_disk_is_an_error_that_says_so_and_the_run_goes_on_when_there_is_room(
    job: Job, same: Same, recovery: Recovery
) -> None:
    home = job.folder / "full"
    home.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(home)], check=False).returncode:
        pytest.skip("a small disk cannot be mounted here (needs root)")
    try:
        command = job.start("full")
        command.until(lambda: command.step() > EVERY)
        (home / "ballast").write_bytes(b"x" * (shutil.disk_usage(home).free - 2**20))
        assert command.ends() == 1, command.said
        assert "bytes free" in command.said
        assert "Traceback" not in command.said
        (home / "ballast").unlink()
        job.goes_on(command, recovery)
        same("full")
    finally:
        subprocess.run(["umount", str(home)], check=True)


@slow
def test_out_of_memory_halves_the_micro_batches_and_changes_nothing_else(job: Job, unbroken: dict[str, Tensor]) -> None:
    paths = [str(Path(__file__).parent / "small_memory"), os.environ.get("PYTHONPATH", "")]
    command = job.start("memory", MEMORY_TOKENS="100", PYTHONPATH=os.pathsep.join(paths))
    assert command.ends() == 0, command.said
    assert "out of memory with micro-batches of" in command.said
    for name, value in job.weights("memory").items():
        torch.testing.assert_close(value, unbroken[name], rtol=0, atol=LAYOUT_TOLERANCE)


def test_a_loss_that_is_not_finite_is_an_error_that_is_not_tried_again(job: Job, tmp_path: Path) -> None:
    base = write_diverging_base(tmp_path / "base")
    command = job.start("diverging", "--set", f"base={base}")
    assert command.ends() == 1, command.said
    assert "the loss became" in command.said
    assert "lower train.learning_rate" in command.said
    assert "Traceback" not in command.said
    assert GOES_ON not in command.said
