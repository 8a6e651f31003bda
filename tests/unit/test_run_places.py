"""Runs of this machine: what they said, where they are listed, and that one of them can be ended at once."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from cluster.errors import UsageError
from cluster.ports import free_port
from cluster.progress import Progress
from cluster.records import RunStatus
from cluster.run_log import KEEP_EVERY_S, RunLog, logged, read_log
from cluster.run_places import list_everywhere, log_parts, refuse_living, status_of, stop_now
from cluster.runs import claim_run, release_run, start_mark, write_status
from cluster.store import Store
from cluster.submissions import KILLED, Submission, write_submission

RUN = "router-20260301-120000-abcd"
OTHER = "router-20260301-130000-abcd"
ALIVE = """
import signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
signal.signal(signal.SIGINT, signal.SIG_IGN)
child.wait()
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "home"))


def written(store: Store, state: str = "running", run: str = RUN) -> RunStatus:
    status = RunStatus(run=run, stage="train", state=state, step=3, steps=9)  # pyright: ignore[reportArgumentType]
    write_status(store, status)
    return status


def submitted(store: Store, address: str, run: str = RUN) -> None:
    write_submission(
        store, Submission(run=run, address=address, owner="me@here", job_hash="0", submitted="2026-03-01T12:00:00Z")
    )


def test_a_log_holds_what_was_said_also_beside_a_bar_and_goes_on_after_a_resume(store: Store) -> None:
    for attempt in ("first", "second"):
        progress = Progress(io.StringIO())
        with logged(store, RUN, progress):
            progress.say(attempt)
            progress.update(RunStatus(run=RUN, stage="train", state="running", step=5, steps=9))
        progress.say("after the run")
    lines = [line.split(" ", 1)[1] for line in read_log(store, RUN).splitlines()]
    assert lines == ["first", "  step 5/9  ", "second", "  step 5/9  "]
    assert list(log_parts(store, RUN, follow=False)) == [read_log(store, RUN)]


def test_a_log_in_remote_storage_is_written_every_few_seconds_and_at_the_end() -> None:
    now = 0.0
    store = Store("memory://logs")
    log = RunLog(store, RUN, lambda: now)
    log.line("one")
    log.line("two")
    assert read_log(store, RUN).count("\n") == 1
    now = KEEP_EVERY_S
    log.line("three")
    log.line("four")
    assert read_log(store, RUN).count("\n") == 3
    log.keep()
    assert read_log(store, RUN).count("\n") == 4


def test_following_a_log_ends_with_its_run(store: Store) -> None:
    written(store, "finished")
    RunLog(store, RUN).line("done")
    assert "".join(log_parts(store, RUN, follow=True)).endswith("done\n")


def test_a_list_names_the_head_that_does_not_answer_and_shows_all_runs(store: Store) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    written(store)
    submitted(store, address)
    written(store, "finished", OTHER)
    listed = {run.run: run for run in list_everywhere(store)}
    assert (listed[OTHER].where, listed[OTHER].state) == ("here", "finished")
    assert listed[RUN].where == address
    assert f"the head at {address} does not answer" in listed[RUN].why
    assert status_of(store, RUN).why == listed[RUN].why


def test_a_run_that_has_ended_is_never_asked_about(store: Store) -> None:
    written(store, "finished")
    submitted(store, "http://192.0.2.1:8265")  # nobody is there (RFC 5737), and finding out would take seconds
    began_s = time.monotonic()
    assert status_of(store, RUN).state == "finished"
    assert list_everywhere(store)[0].why == ""
    assert time.monotonic() - began_s < 1


def test_only_a_run_that_has_ended_early_is_submitted_again(store: Store) -> None:
    for state in ("failed", "stopped"):
        written(store, state)
        refuse_living(store, RUN)
    written(store, "finished")
    with pytest.raises(UsageError, match="is finished"):
        refuse_living(store, RUN)
    written(store, "running")
    claim_run(store, RUN)
    with pytest.raises(UsageError, match="is running"):
        refuse_living(store, RUN)


def test_a_run_whose_head_is_silent_is_submitted_again_unless_it_still_writes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted(store, f"http://127.0.0.1:{free_port()}")
    written(store, "running")
    monkeypatch.setattr(time, "sleep", lambda _s: None)
    refuse_living(store, RUN)

    def writes(_s: float) -> None:
        write_status(store, RunStatus(run=RUN, stage="train", state="running", step=4, steps=9))

    monkeypatch.setattr(time, "sleep", writes)
    with pytest.raises(UsageError, match="is running"):
        refuse_living(store, RUN)


def test_a_run_of_this_machine_is_ended_with_everything_it_started(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.run_places.ENDS_S", 0.5)
    written(store)
    with subprocess.Popen([sys.executable, "-c", ALIVE], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))
        owner = {"host": socket.gethostname(), "pid": process.pid, "started": start_mark(process.pid)}
        store.put_json(owner, "runs", RUN, "owner.json")
        ended = stop_now(store, RUN)
    assert (ended.state, ended.why) == ("stopped", KILLED)
    with suppress(psutil.NoSuchProcess):  # whoever it was left to may not have noticed yet
        assert child.status() == psutil.STATUS_ZOMBIE
    assert status_of(store, RUN) == ended


def test_a_process_that_was_given_the_owners_number_later_is_left_alone(store: Store) -> None:
    written(store)
    store.put_json({"host": socket.gethostname(), "pid": os.getpid(), "started": "long ago"}, "runs", RUN, "owner.json")
    assert stop_now(store, RUN).state == "stopped"


def test_a_run_of_another_machine_is_not_ended_from_here(store: Store) -> None:
    written(store)
    store.put_json({"host": "elsewhere", "pid": 1, "started": "x"}, "runs", RUN, "owner.json")
    with pytest.raises(UsageError, match="elsewhere"):
        stop_now(store, RUN)
    release_run(store, RUN)
    with pytest.raises(UsageError, match="unknown machine"):
        stop_now(store, RUN)
