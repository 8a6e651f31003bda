"""Where a submitted run stands: its own last word against what its cluster says, every pair of them."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest

from cluster.errors import StoreError
from cluster.records import RunState, RunStatus
from cluster.runs import ENDED
from cluster.store import Store
from cluster.submissions import (
    OVER,
    Seen,
    Submission,
    View,
    read_submission,
    reconciled,
    write_submission,
)

RUN = "router-20260301-120000-abcd"
URL = "http://head:8265"
SUBMISSION = Submission(run=RUN, address=URL, owner="me@here", job_hash="0" * 64, submitted="2026-03-01T12:00:00Z")
STATES: tuple[RunState, ...] = get_args(RunState)
SEEN: tuple[Seen, ...] = get_args(Seen)


def weigh(state: RunState, seen: Seen, why: str = "", *, gone: bool = False, own: str = "") -> RunStatus:
    status = RunStatus(run=RUN, stage="train", state=state, why=own, step=3, steps=9, eta_s=4.0)
    return reconciled(status, View(seen, why), SUBMISSION, gone=gone)


@pytest.mark.parametrize(("state", "seen", "gone"), list(product(ENDED, SEEN, (False, True))))
def test_a_run_that_has_ended_by_its_own_word_has_ended(state: RunState, seen: Seen, gone: bool) -> None:
    assert weigh(state, seen, gone=gone, own="its own reason") == RunStatus(
        run=RUN, stage="train", state=state, why="its own reason", step=3, steps=9, eta_s=4.0
    )


@pytest.mark.parametrize(("state", "seen"), sorted(product(set(STATES) - set(ENDED), OVER)))
def test_no_run_goes_on_without_its_driver(state: RunState, seen: Seen) -> None:
    found = weigh(state, seen)
    assert found.state in ("failed", "stopped")
    assert found.why
    assert found.eta_s is None
    assert (found.step, found.steps) == (3, 9)


@pytest.mark.parametrize(("state", "seen"), sorted(product(set(STATES) - set(ENDED), ("pending", "running"))))
def test_a_run_whose_driver_lives_is_where_it_says(state: RunState, seen: Seen) -> None:
    assert weigh(state, seen).state == state


@pytest.mark.parametrize("state", sorted(set(STATES) - set(ENDED)))
def test_a_head_that_does_not_answer_leaves_the_last_word_and_says_so(state: RunState) -> None:
    found = weigh(state, "silent")
    assert found.state == state
    assert f"the head at {URL} does not answer" in found.why
    assert weigh(state, "silent", gone=True).state == "failed"


def test_a_driver_that_was_killed_stopped_and_one_that_ended_by_itself_failed() -> None:
    assert weigh("running", "stopped").state == "stopped"
    assert weigh("stopping", "failed").state == "stopped"
    assert weigh("running", "failed").state == "failed"
    assert weigh("running", "succeeded").why == "its driver ended without a last word"


def test_the_reason_is_the_last_error_in_the_drivers_log_or_its_last_line() -> None:
    told = "it failed with code 2:\nbegins\nerror: HONE_DB is not set\n  → Set it.\n"
    assert weigh("waiting", "failed", told).why == "HONE_DB is not set"
    assert weigh("waiting", "failed", "runtime_env setup failed:\nno space left\n").why == "no space left"
    assert weigh("waiting", "failed").why == "its driver has ended"


def test_a_head_that_was_started_again_knows_the_run_no_more() -> None:
    assert weigh("running", "absent").why == f"the head at {URL} knows it no more: it was started again"


def test_what_workers_wait_for_is_told() -> None:
    assert weigh("waiting", "running", own="waiting for 4 GPUs, 2 free").why == "waiting for 4 GPUs, 2 free"
    assert weigh("waiting", "running").why == "its driver is starting"
    assert weigh("waiting", "pending").why == f"{URL} is about to start it"
    assert weigh("running", "running").why == ""


def test_every_attempt_has_an_id_of_its_own_and_the_first_one_is_the_runs() -> None:
    ids = [SUBMISSION.model_copy(update={"attempt": attempt}).job for attempt in (1, 2, 3)]
    assert ids == [RUN, f"{RUN}-2", f"{RUN}-3"]


def test_a_submission_reads_back_and_a_damaged_one_is_named(tmp_path) -> None:
    store = Store(str(tmp_path))
    assert read_submission(store, RUN) is None
    write_submission(store, SUBMISSION)
    assert read_submission(store, RUN) == SUBMISSION
    store.put_json({"run": RUN}, "runs", RUN, "submission.json")
    with pytest.raises(StoreError, match="damaged"):
        read_submission(store, RUN)
