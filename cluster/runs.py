"""A run's one id, its directory in the store, and whether it still lives.

The id ``NAME-YYYYMMDD-HHMMSS-xxxx`` (UTC) names the directory, the Ray submission, the MLflow tag and the study, so
that every command takes the same word. ``status.json`` is the contract that others read and says nothing of processes;
beside it ``owner.json`` says which process on which host keeps it up to date. A status that still says ``running``
after that process was killed is corrected by whoever reads it. A run owned by another host is believed, since nothing
here can tell.
"""

from __future__ import annotations

import difflib
import re
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import TypeVar

import psutil
from pydantic import ValidationError

from cluster.blocks import NAME_PATTERN
from cluster.errors import StoreError, UsageError
from cluster.records import Record, RunStatus
from cluster.store import Store

RUNS = "runs"
STATUS = "status.json"
OWNER = "owner.json"
STOP = "stop.json"
ENDED = ("finished", "failed", "stopped")
GONE = "its process is gone"
STAMP_FORMAT = "%Y%m%d-%H%M%S"
AnyRecord = TypeVar("AnyRecord", bound=Record)
_RUN_ID = re.compile(r"(?P<name>[a-z0-9][a-z0-9-]{0,62})-(?P<stamp>\d{8}-\d{6})-(?P<suffix>[0-9a-f]{4})")


@dataclass(frozen=True, order=True)
class RunId:
    """A run id taken apart; ordered by the second (UTC) it was made in, then by name."""

    started: datetime
    name: str
    suffix: str

    def __str__(self) -> str:
        return f"{self.name}-{self.started.astimezone(UTC).strftime(STAMP_FORMAT)}-{self.suffix}"


class Owner(Record):
    """The process that keeps a run's status: ``started`` tells it from a later one that was given the same number."""

    host: str
    pid: int
    started: str


def new_run_id(name: str, now: datetime, entropy: bytes) -> str:
    """Return a fresh run id; ``now`` is timezone-aware, and the first two bytes of ``entropy`` are its suffix."""
    assert re.fullmatch(NAME_PATTERN, name), name
    assert now.tzinfo is not None
    assert len(entropy) >= 2
    return str(RunId(now.astimezone(UTC), name, entropy[:2].hex()))


def parse_run_id(text: str) -> RunId:
    """Return the parts of a run id; raises UsageError where ``text`` is none."""
    parsed = _parsed(text)
    if parsed is None:
        raise UsageError(f"{text!r} is not a run", "A run looks like NAME-YYYYMMDD-HHMMSS-xxxx; hone list shows them.")
    return parsed


def run_ids(store: Store) -> list[str]:
    """Return the ids of all runs in the store, newest first."""
    found = (_parsed(name) for name in store.list(RUNS))
    return [str(run) for run in sorted((run for run in found if run is not None), reverse=True)]


def list_runs(store: Store) -> list[RunStatus]:
    """Return where every run in the store stands, newest first; a damaged status is a failed run that says so."""
    return [_status_or_damage(store, run) for run in run_ids(store)]


def find_run(store: Store, text: str) -> str:
    """Return ``text`` if it is a run in the store; raises UsageError that names the ones it may have meant."""
    runs = run_ids(store)
    if text in runs:
        return text
    near = [run for run in runs if parse_run_id(run).name == text] or difflib.get_close_matches(text, runs, n=3)
    if near:
        remedy = f"Did you mean {' or '.join(near[:3])}?"
    else:
        remedy = "hone list shows the runs." if runs else f"There are no runs in {store.path()} yet."
    raise UsageError(f"there is no run {text!r}", remedy)


def write_status(store: Store, status: RunStatus) -> None:
    """Write ``status.json``, without metrics that are not finite: JSON has no word for them."""
    finite = {name: value for name, value in status.metrics.items() if isfinite(value)}
    eta_s = status.eta_s if status.eta_s is not None and isfinite(status.eta_s) else None
    written = status.model_copy(update={"metrics": finite, "eta_s": eta_s})
    store.put_json(written.model_dump(mode="json"), RUNS, status.run, STATUS)


def read_status(store: Store, run: str) -> RunStatus | None:
    """Return what ``status.json`` says; None where there is none yet. Raises StoreError where it is damaged."""
    return read_record(RunStatus, store, run, STATUS)


def read_owner(store: Store, run: str) -> Owner | None:
    """Return which process keeps the run's status; None where none does. Raises StoreError where that is damaged."""
    return read_record(Owner, store, run, OWNER)


def reconciled_status(store: Store, run: str) -> RunStatus:
    """Return where ``run`` stands, corrected where the process that kept its status is gone."""
    status = read_status(store, run)
    if status is not None and status.state in ENDED:
        return status
    owner = read_owner(store, run)
    gone = owner is not None and is_gone(owner, host=socket.gethostname())
    if gone:  # it may have written its last word between our two reads, and only then have ended
        status = read_status(store, run)
    status = status or RunStatus(run=run, stage="", state="waiting")
    return orphaned(status) if gone else status


def claim_run(store: Store, run: str) -> None:
    """Write down that this process is the one that keeps the run's status."""
    process = psutil.Process()
    owner = Owner(host=socket.gethostname(), pid=process.pid, started=start_mark(process.pid) or "")
    store.put_json(owner.model_dump(mode="json"), RUNS, run, OWNER)


def release_run(store: Store, run: str) -> None:
    """Forget which process keeps the run's status: another one will, elsewhere."""
    store.remove(RUNS, run, OWNER)


def request_stop(store: Store, run: str) -> None:
    """Ask a run to stop after a checkpoint; it looks about once a second while it trains."""
    store.put_json({"stop": True}, RUNS, run, STOP)


def stop_requested(store: Store, run: str) -> bool:
    """Return whether the run was asked to stop."""
    return store.exists(RUNS, run, STOP)


def clear_stop(store: Store, run: str) -> None:
    """Forget that the run was asked to stop."""
    store.remove(RUNS, run, STOP)


def orphaned(status: RunStatus) -> RunStatus:
    """Return what ``status`` means when nobody keeps it any more: an ended run stays, a stopping one has stopped."""
    if status.state in ENDED:
        return status
    state = "stopped" if status.state == "stopping" else "failed"
    return status.model_copy(update={"state": state, "why": GONE, "eta_s": None})


def is_gone(owner: Owner, host: str) -> bool:
    """Return whether the owner ran on ``host`` and no longer does; False where it cannot be known."""
    return owner.host == host and start_mark(owner.pid) != owner.started


def start_mark(pid: int) -> str | None:
    """Return what tells the living process ``pid`` from all others that ever had its number; None if there is none.

    On Linux boot id and start tick, which a changed clock does not move; elsewhere the start time in seconds.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists():
            return str(int(process.create_time()))
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # proc_pid_stat(5): field 22 is the start tick; the name, field 2, may hold spaces and brackets.
        return f"{boot}:{stat.read_text().rpartition(')')[2].split()[19]}"
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return None


def _parsed(text: str) -> RunId | None:
    found = _RUN_ID.fullmatch(text)
    if found is None:
        return None
    try:
        started = datetime.strptime(found["stamp"], STAMP_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        return None
    return RunId(started, found["name"], found["suffix"])


def _status_or_damage(store: Store, run: str) -> RunStatus:
    try:
        return reconciled_status(store, run)
    except StoreError as error:
        return RunStatus(run=run, stage="", state="failed", why=error.what)


def read_record(kind: type[AnyRecord], store: Store, run: str, part: str) -> AnyRecord | None:
    """Return a record of a run's directory; None where there is none. Raises StoreError for a damaged one."""
    if not store.exists(RUNS, run, part):
        return None
    try:
        return kind.model_validate(store.get_json(RUNS, run, part))
    except ValidationError as error:
        where = store.path(RUNS, run, part)
        raise StoreError(f"{part} is damaged: {error.errors()[0]['msg']}", "Remove the file.", where) from error
