"""Every run of a home, wherever it runs: where it stands by its own word, this machine's processes and its cluster.

A cluster is only asked about runs that have not ended, once for each head and all heads at the same time, so a list is
as slow as the slowest head and never fails for one that is gone.
"""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import psutil
from pydantic import Field

from cluster.errors import HoneError, StoreError, UsageError
from cluster.jobs import Head
from cluster.records import RunStatus
from cluster.run_log import read_log
from cluster.runs import (
    ENDED,
    is_gone,
    list_runs,
    read_owner,
    read_status,
    reconciled_status,
    run_ids,
    start_mark,
    write_status,
)
from cluster.store import Store
from cluster.submissions import KILLED, OVER, Submission, View, read_submission, reconciled

HERE = "here"
FOLLOW_EVERY_S = 1.0
ENDS_S = 10.0
STOPS_S = 20.0
WRITES_WITHIN_S = 5.0
"""A run that trains writes its status more often than this."""


class ListedRun(RunStatus):
    """A run in a list: where it stands, and where it runs."""

    where: str = Field(default=HERE, description="the address of its cluster, or `here`")


def status_of(store: Store, run: str) -> RunStatus:
    """Return where a run stands, its cluster asked where it has one."""
    submission = read_submission(store, run)
    if submission is None:
        return reconciled_status(store, run)
    last = read_status(store, run)
    if last is not None and last.state in ENDED:
        return last
    return _weighed(store, submission, _view(submission))


def list_everywhere(store: Store) -> list[ListedRun]:
    """Return where every run stands, newest first; a damaged status is a failed run that says so."""
    here = {status.run: status for status in list_runs(store)}
    submissions = dict(_submissions(store))
    asked = [submission for run, submission in submissions.items() if _may_live(store, run)]
    views = _views(asked)
    listed: list[ListedRun] = []
    for run, status in here.items():
        submission = submissions.get(run)
        if submission is not None and run in views:
            status = _weighed(store, submission, views[run])
        where = submission.address if submission else HERE
        listed.append(ListedRun(**status.model_dump(), where=where))
    return listed


def refuse_living(store: Store, run: str) -> None:
    """Raise UsageError for a run that has finished, or that may still be going on somewhere.

    Where its head does not answer nobody can know; a run that still writes its status is not gone.
    """
    submission = read_submission(store, run)
    before = read_status(store, run)
    status, silent = reconciled_status(store, run) if submission is None else before, False
    if submission is not None and (before is None or before.state not in ENDED):
        view = _view(submission)
        status, silent = _weighed(store, submission, view), view.seen == "silent"
    assert status is not None, "only a submitted run may have no status yet"
    if status.state in ("failed", "stopped"):
        return
    if silent:
        time.sleep(WRITES_WITHIN_S)
        if read_status(store, run) == before:
            return
    remedy = f"hone status {run}" + ("" if status.state == "finished" else f"; hone stop {run}")
    raise UsageError(f"the run {run} is {status.state}", remedy)


def log_parts(store: Store, run: str, *, follow: bool) -> Iterator[str]:
    """Yield what a run has said, and with ``follow`` what it says until it ends.

    Of a submitted one its cluster's log, which holds also what libraries print; where there is none, what the run kept.
    """
    submission = read_submission(store, run)
    if submission is None:
        yield from _kept_log(store, run, follow=follow)
        return
    found, lost = False, None
    try:
        for part in _cluster_log(submission, follow=follow):
            found = True
            yield part
    except HoneError as error:
        lost = error
    if not found:
        yield from _kept_log(store, run, follow=False)
    if lost is not None and follow:
        raise lost


def stop_now(store: Store, run: str) -> RunStatus:
    """End a run at once, on its cluster or on this machine, and return where it stands then.

    Raises UsageError where its process runs on another machine.
    """
    submission = read_submission(store, run)
    if submission is None:
        _kill_here(store, run)
    else:
        _stop_there(Head(submission.address), submission)
    status = read_status(store, run) or RunStatus(run=run, stage="", state="waiting")
    if status.state not in ENDED:
        status = status.model_copy(update={"state": "stopped", "why": KILLED, "eta_s": None})
        write_status(store, status)
    return status


def wait_for_end(store: Store, submission: Submission, head: Head) -> RunStatus:
    """Return how a submitted run ended, once its cluster says that the driver has."""
    while (view := head.view(submission.job)).seen not in OVER:
        time.sleep(FOLLOW_EVERY_S)
    return _weighed(store, submission, view)


def _weighed(store: Store, submission: Submission, view: View) -> RunStatus:
    run = submission.run
    status = read_status(store, run) or RunStatus(run=run, stage="", state="waiting")
    owner = read_owner(store, run)
    gone = owner is not None and is_gone(owner, host=socket.gethostname())
    return reconciled(status, view, submission, gone=gone)


def _view(submission: Submission) -> View:
    try:
        return Head(submission.address).view(submission.job)
    except HoneError as error:
        return View("silent", error.what)


def _views(submissions: Sequence[Submission]) -> dict[str, View]:
    """Return what their clusters say of them, each head asked in a thread of its own."""
    addresses = sorted({submission.address for submission in submissions})

    def ask(address: str) -> dict[str, View]:
        own = [submission for submission in submissions if submission.address == address]
        try:
            head = Head(address)
            return {submission.run: head.view(submission.job) for submission in own}
        except HoneError as error:
            return {submission.run: View("silent", error.what) for submission in own}

    found: dict[str, View] = {}
    if addresses:
        with ThreadPoolExecutor(len(addresses)) as pool:
            for views in pool.map(ask, addresses):
                found |= views
    return found


def _submissions(store: Store) -> Iterator[tuple[str, Submission]]:
    for run in run_ids(store):
        with suppress(StoreError):
            if submission := read_submission(store, run):
                yield run, submission


def _may_live(store: Store, run: str) -> bool:
    with suppress(StoreError):
        status = read_status(store, run)
        return status is None or status.state not in ENDED
    return False


def _cluster_log(submission: Submission, *, follow: bool) -> Iterator[str]:
    head = Head(submission.address)
    if not follow or head.view(submission.job).seen in OVER:
        text = head.log(submission.job)
        if text:
            yield text
        return
    yield from head.follow(submission.job)


def _kept_log(store: Store, run: str, *, follow: bool) -> Iterator[str]:
    shown = 0
    while True:
        ended = not follow or reconciled_status(store, run).state in ENDED
        text = read_log(store, run)
        if len(text) > shown:
            yield text[shown:]
            shown = len(text)
        if ended:
            return
        time.sleep(FOLLOW_EVERY_S)


def _stop_there(head: Head, submission: Submission) -> None:
    head.stop(submission.job)
    deadline = time.monotonic() + STOPS_S
    while head.view(submission.job).seen not in OVER:
        if time.monotonic() > deadline:
            raise UsageError(f"{submission.run} still runs on {head.address}", f"hone status {submission.run}")
        time.sleep(0.2)


def _kill_here(store: Store, run: str) -> None:
    """End the process that owns a run, and all that it started: interrupted first, so that Ray goes with it."""
    owner = read_owner(store, run)
    if owner is None or owner.host != socket.gethostname():
        where = owner.host if owner else "an unknown machine"
        raise UsageError(f"{run} is kept by a process on {where}", f"Stop it there, or use hone stop {run}.")
    if start_mark(owner.pid) != owner.started:
        return
    process = psutil.Process(owner.pid)
    family = [process, *process.children(recursive=True)]
    for _ in range(2):  # in training the first one asks for a checkpoint, the second one leaves
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGINT)
        if not psutil.wait_procs([process], timeout=1.0)[1]:
            break
    with suppress(psutil.NoSuchProcess):
        family += process.children(recursive=True)
    _, left = psutil.wait_procs(family, timeout=ENDS_S)
    for one in left:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(left, timeout=ENDS_S)
