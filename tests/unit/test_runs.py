"""Run ids, and that a status tells the truth about a process that may be gone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import runs
from cluster.errors import StoreError, UsageError
from cluster.records import RunStatus
from cluster.runs import (
    GONE,
    Owner,
    RunId,
    claim_run,
    find_run,
    is_gone,
    list_runs,
    new_run_id,
    orphaned,
    parse_run_id,
    read_status,
    reconciled_status,
    run_ids,
    start_mark,
    write_status,
)
from cluster.store import Store

NOON = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
RUN = "router-20260301-120000-abcd"


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "home"))


def status(state="running", run=RUN, **fields):
    return RunStatus(run=run, stage="train", state=state, **fields)


def owned_by(store, process_id, *, run=RUN, host=None, started=None):
    mark = started or start_mark(process_id)
    store.put_json(
        {"host": host or socket.gethostname(), "pid": process_id, "started": mark}, "runs", run, "owner.json"
    )


@pytest.fixture
def child():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def test_a_run_id_has_the_shape_of_the_contract():
    assert new_run_id("support-router", NOON, b"\x0a\xff\x00") == "support-router-20260301-120000-0aff"


def test_a_run_id_is_in_utc_wherever_it_is_made():
    local = NOON.astimezone(timezone(timedelta(hours=-7)))
    assert new_run_id("a", local, b"\0\0") == new_run_id("a", NOON, b"\0\0")


@given(
    st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True),
    st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)),
    st.binary(min_size=2, max_size=4),
)
def test_a_run_id_reads_back_to_its_parts(name, moment, entropy):
    moment = moment.replace(tzinfo=UTC, microsecond=0)
    parsed = parse_run_id(new_run_id(name, moment, entropy))
    assert parsed == RunId(moment, name, entropy[:2].hex())
    assert str(parsed) == new_run_id(name, moment, entropy)


@pytest.mark.parametrize(
    "text",
    ["", "router", "router-20260301-120000", "router-20261301-120000-abcd", "Router-20260301-120000-abcd", f"../{RUN}"],
)
def test_what_is_no_run_id_is_refused(text):
    with pytest.raises(UsageError, match="not a run"):
        parse_run_id(text)


def test_runs_are_listed_newest_first_whatever_their_names(store):
    old, new, newest = "z-20260101-000000-0000", "a-20260102-000000-0000", "m-20260102-000001-0000"
    for run in (old, newest, new):
        write_status(store, status(run=run))
    store.put_json({}, "runs", "not-a-run", "status.json")
    assert run_ids(store) == [newest, new, old]
    assert [found.run for found in list_runs(store)] == [newest, new, old]


def test_a_damaged_status_does_not_hide_the_other_runs(store):
    write_status(store, status())
    store.put_text("{", "runs", "b-20260302-120000-abcd", "status.json")
    damaged, sound = list_runs(store)
    assert (damaged.state, sound.run) == ("failed", RUN)
    assert "JSON" in damaged.why
    with pytest.raises(StoreError, match="JSON"):
        read_status(store, damaged.run)


def test_a_mistyped_run_is_answered_with_the_near_one(store):
    write_status(store, status())
    assert find_run(store, RUN) == RUN
    for text in (RUN.replace("router", "ruter"), "router", RUN[:-1]):
        with pytest.raises(UsageError) as caught:
            find_run(store, text)
        assert RUN in caught.value.remedy


def test_a_store_without_runs_says_so(store):
    with pytest.raises(UsageError, match="no runs in"):
        find_run(store, "router")


def test_a_status_reads_back_as_written(store):
    written = status(step=3, steps=9, metrics={"loss": 0.5}, eta_s=12.0)
    write_status(store, written)
    assert read_status(store, RUN) == written
    assert read_status(store, "router-20260301-120000-ffff") is None


def test_a_status_is_valid_json_even_when_the_loss_is_not_a_number(store):
    write_status(store, status(metrics={"loss": float("nan"), "accuracy": 0.5}, eta_s=float("inf")))
    text = Path(store.path("runs", RUN, "status.json")).read_text()
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert found["metrics"] == {"accuracy": 0.5}
    assert found["eta_s"] is None


def test_a_running_run_of_a_living_process_is_running(store):
    write_status(store, status())
    claim_run(store, RUN)
    assert reconciled_status(store, RUN) == status()


def test_a_running_run_whose_process_was_killed_has_failed(store, child):
    write_status(store, status(step=3, steps=9, eta_s=5.0))
    owned_by(store, child.pid)
    assert reconciled_status(store, RUN).state == "running"
    child.kill()
    child.wait()
    assert reconciled_status(store, RUN) == status("failed", step=3, steps=9, why=GONE)


def test_a_killed_process_that_nobody_has_waited_for_is_gone(store, child):
    write_status(store, status())
    owned_by(store, child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE
    assert reconciled_status(store, RUN).state == "failed"


def test_a_later_process_with_the_same_number_is_not_the_owner(store, child):
    write_status(store, status())
    owned_by(store, child.pid, started="another-boot:1")
    assert reconciled_status(store, RUN).why == GONE


def test_a_run_of_another_host_is_believed(store):
    write_status(store, status())
    owned_by(store, 2**22 + 1, host="elsewhere", started="x")
    assert reconciled_status(store, RUN).state == "running"


def test_a_run_without_owner_is_believed(store):
    write_status(store, status())
    assert reconciled_status(store, RUN) == status()


def test_a_run_killed_before_its_first_status_has_failed(store):
    owned_by(store, os.getpid(), started="x")
    assert reconciled_status(store, RUN).state == "failed"


@pytest.mark.parametrize("state", ["finished", "failed", "stopped"])
def test_an_ended_run_stays_as_it_ended(store, state):
    write_status(store, status(state, why="because"))
    owned_by(store, os.getpid(), started="x")
    assert reconciled_status(store, RUN) == status(state, why="because")


def test_a_last_word_written_just_before_the_end_counts(store, monkeypatch):
    """The process finishes between our reading of its status and our look at the process."""
    write_status(store, status())
    owned_by(store, os.getpid(), started="x")

    def finishes_meanwhile(owner: Owner, host: str) -> bool:
        write_status(store, status("finished"))
        return is_gone(owner, host)

    monkeypatch.setattr(runs, "is_gone", finishes_meanwhile)
    assert reconciled_status(store, RUN).state == "finished"


def test_a_run_that_was_stopping_has_stopped():
    assert orphaned(status("stopping")).state == "stopped"
    assert orphaned(status("waiting")).state == "failed"


def test_a_process_keeps_its_mark_and_differs_from_its_child(child):
    assert start_mark(os.getpid()) == start_mark(os.getpid())
    assert start_mark(child.pid) not in (None, start_mark(os.getpid()))
    assert start_mark(2**22 + 1) is None


def test_a_mark_does_not_depend_on_odd_process_names(tmp_path):
    odd = tmp_path / "a) R (b 1 2"
    odd.symlink_to(sys.executable)
    process = subprocess.Popen([odd, "-c", "import time; time.sleep(60)"])
    try:
        mark = start_mark(process.pid)
        assert mark is not None
        ticks = int(mark.rpartition(":")[2])
        expected = (psutil.Process(process.pid).create_time() - psutil.boot_time()) * os.sysconf("SC_CLK_TCK")
        assert abs(ticks - expected) < 2 * os.sysconf("SC_CLK_TCK")
    finally:
        process.kill()
        process.wait()
