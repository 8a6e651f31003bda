"""A run that was given to a cluster: where it went, and where it stands by what the cluster and the run itself say.

``submission.json`` in the run's directory holds no secret. The run's own status says most; the cluster adds whether
the driver waits, runs or is gone, which the status of a driver that was killed cannot say. ``reconciled`` weighs the
two, and is pure; asking the cluster is ``cluster.jobs``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from cluster.records import Record, RunState, RunStatus
from cluster.runs import ENDED, RUNS, read_record
from cluster.store import Store

SUBMISSION = "submission.json"
Seen = Literal["pending", "running", "succeeded", "failed", "stopped", "absent", "silent"]
"""What a cluster says of a job; ``absent``: it knows of none, ``silent``: it does not answer."""
OVER: frozenset[Seen] = frozenset(("succeeded", "failed", "stopped", "absent"))
KILLED = "ended at once, by hone stop --now"


class Submission(Record):
    """One attempt to run a run on a cluster; a later attempt replaces it."""

    run: str
    address: str = Field(description="the cluster's head, as http://HOST:PORT")
    attempt: int = Field(default=1, description="which submission of this run, from 1")
    owner: str = Field(description="who submitted it, as USER@HOST")
    job_hash: str
    submitted: str = Field(description="when, in UTC")
    overrides: list[str] = Field(default_factory=list, description="KEY=VALUE that resuming changed")

    @property
    def job(self) -> str:
        """The id under which the cluster knows this attempt.

        A used id is never used again: Ray (2.60) loses a job that is submitted under the id of a deleted one.
        """
        return self.run if self.attempt == 1 else f"{self.run}-{self.attempt}"


@dataclass(frozen=True)
class View:
    """What a cluster says of a submission: its word, and its reason where it gives one."""

    seen: Seen
    why: str = ""


def write_submission(store: Store, submission: Submission) -> None:
    """Keep where a run was submitted to."""
    store.put_json(submission.model_dump(mode="json"), RUNS, submission.run, SUBMISSION)


def read_submission(store: Store, run: str) -> Submission | None:
    """Return where a run was submitted to; None for one that was started here. Raises StoreError for a damaged file."""
    return read_record(Submission, store, run, SUBMISSION)


def reconciled(status: RunStatus, view: View, submission: Submission, *, gone: bool = False) -> RunStatus:
    """Return where a run stands, by its own last word and what its cluster says of it.

    ``status`` was read after the cluster was asked, so a driver that had ended by then has had its last word.
    ``gone``: its driver ran on this machine and no longer does. A run that has ended, by its own word, has ended.
    """
    if status.state in ENDED:
        return status
    state: RunState = status.state
    match view.seen:
        case "pending":
            why = f"{submission.address} is about to start it"
        case "running":
            why = status.why or ("its driver is starting" if state == "waiting" else "")
        case "silent" if not gone:
            why = f"{view.why or _silence(submission)}; this is the run's own last word"
        case "stopped":
            state, why = "stopped", KILLED
        case "failed" if status.state == "stopping":
            state, why = "stopped", _reason(view, "its driver has ended")
        case "failed":
            state, why = "failed", _reason(view, "its driver has ended")
        case "succeeded":
            state, why = "failed", "its driver ended without a last word"
        case "absent":
            state, why = "failed", f"the head at {submission.address} knows it no more: it was started again"
        case "silent":
            state, why = "failed", f"its process is gone, and {view.why or _silence(submission)}"
    ended = state in ENDED
    return status.model_copy(update={"state": state, "why": why} | ({"eta_s": None} if ended else {}))


def _silence(submission: Submission) -> str:
    return f"the head at {submission.address} does not answer"


def _reason(view: View, otherwise: str) -> str:
    """Return the last error that a cluster's reason shows, which is the end of the driver's log, or its last line."""
    lines = [line.strip() for line in view.why.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return [otherwise, *lines[-1:], *errors[-1:]][-1][:300]
