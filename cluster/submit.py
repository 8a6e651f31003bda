"""A job, or a run that ended early → the same run on a cluster, planned here for what the cluster has.

Data stage and plan run on this machine, so whatever can be refused is refused before anything is sent; what the run
needs lies in the store then, and the cluster is given a run's id, our code and the names of variables. Left out: what
the driver does there (``cluster.submitted``), and looking after it (``cluster.run_places``).
"""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cluster.changes import refuse_changes
from cluster.errors import HoneError, UsageError
from cluster.fitting import counted, format_bytes
from cluster.jobfile import job_hash
from cluster.jobs import Head
from cluster.offer import Offer
from cluster.records import RunStatus
from cluster.redaction import without_passwords
from cluster.run_places import refuse_living
from cluster.runs import clear_stop, new_run_id, read_status, release_run, write_status
from cluster.session import KEPT_MEMORY
from cluster.shipping import code_bytes, code_root, shipped_code
from cluster.store import Store
from cluster.submissions import Submission, read_submission, write_submission
from cluster.uploads import with_stored_inputs

if TYPE_CHECKING:
    from cluster.progress import Progress
    from cluster.records import Plan
    from cluster.run_context import RunContext
    from cluster.session import Settings
    from cluster.spec import JobSpec

HOME = "HONE_HOME"
Agree = Callable[[list[str]], None]
"""Shows the plan's lines and returns where the user wants it; raises UsageError otherwise."""
NOT_SENT = ("HONE_DB", "MLFLOW_TRACKING_URI")
"""What may hold a password, and is sent only where it is named."""


@dataclass(frozen=True)
class Parcel:
    """What travels beside the run's id: ``variables`` by name, and our own code unless the cluster's image has it."""

    variables: Mapping[str, str]
    with_code: bool = True


def parcel(settings: Settings, names: Sequence[str], environment: Mapping[str, str], *, with_code: bool) -> Parcel:
    """Return what is sent: where the home is, and the variables that were named. Raises UsageError for one not set."""
    if missing := [name for name in names if name not in environment]:
        raise UsageError(f"--env {missing[0]}: there is no such variable here", "Set it, or leave it out.")
    if odd := [name for name in names if name.startswith("RAY_") or name in KEPT_MEMORY]:
        raise UsageError(f"--env {odd[0]}: the cluster has its own, which the run needs", "Leave it out.")
    return Parcel({name: environment[name] for name in names} | {HOME: settings.home}, with_code)


def submit(
    job: JobSpec,
    head: Head,
    settings: Settings,
    sent: Parcel,
    progress: Progress,
    agree: Agree,
) -> Submission:
    """Plan a job for a head's cluster, show the plan, and once ``agree`` returns make the run and submit it.

    Raises what the data stage and the plan raise, UsageError where ``agree`` does or the cluster cannot see the home.
    """
    from cluster import pipeline

    offer = checked_offer(head, settings)
    there = replace(settings, ray_address=head.address)
    job = with_stored_inputs(job, Store(settings.home), progress)
    ready = pipeline.entry(pipeline.ready_entry(job))(job, there, progress)
    agree(plan_lines(ready.report.plan, head, offer, sent))
    ctx = pipeline.start_run(job, ready, there, progress, new_run_id(job.name, datetime.now(UTC), os.urandom(2)))
    return _send(ctx, _submission(ctx, head, 1, ()), head, sent)


def submit_again(
    run: str, head: Head, settings: Settings, sent: Parcel, progress: Progress, agree: Agree, overrides: Sequence[str]
) -> Submission:
    """Submit a run that has ended early once more; it goes on from its newest checkpoint.

    Raises UsageError for one that its cluster still runs.
    """
    from cluster import pipeline

    store = Store(settings.home)
    refuse_changes(store, run, overrides)
    refuse_living(store, run)
    offer = checked_offer(head, settings)
    there = replace(settings, ray_address=head.address)
    before = read_submission(store, run)
    overrides = [*(before.overrides if before else ()), *overrides]
    ctx = pipeline.context_of(run, there, progress, overrides)
    pipeline.plan_again(ctx, overrides)
    agree(plan_lines(ctx.check().plan, head, offer, sent))
    clear_stop(ctx.store, run)
    attempt = before.attempt + 1 if before else 1
    return _send(ctx, _submission(ctx, head, attempt, overrides), head, sent)


def checked_offer(head: Head, settings: Settings) -> Offer:
    """Return what the cluster has. Raises UsageError where it could not see a home on this machine's disk."""
    offer = head.offer()
    elsewhere = sorted(offer.hosts - {socket.gethostname()})
    if settings.is_local and elsewhere:
        raise UsageError(
            f"HONE_HOME is {settings.home} on this machine, and the cluster runs on {', '.join(elsewhere[:3])}",
            "Set HONE_HOME to storage that all of them reach, such as s3://BUCKET/PATH, and HONE_DB to PostgreSQL.",
        )
    if not offer.capacity.nodes:
        raise UsageError(f"the cluster of {head.address} has no node with CPUs", "Add nodes, or look at its dashboard.")
    return offer


def plan_lines(plan: Plan | None, head: Head, offer: Offer, sent: Parcel) -> list[str]:
    """Return what would be done where, at what price, and whether there is room for it now."""
    from cluster.resources import plan_facts

    assert plan is not None, "a job without a plan was refused"
    has = offer.capacity
    facts = [
        ("cluster", f"{head.address}, Ray {offer.ray_version}, Python {offer.python_version}"),
        ("", f"{counted(len(has.nodes), 'node')}: {counted(has.cpus, 'CPU')}, {counted(has.gpus, 'GPU')}"),
        *plan_facts(plan),
        ("room", room(plan, offer)),
        ("code", format_bytes(code_bytes(code_root())) if sent.with_code else "the image's own"),
        ("home", without_passwords(sent.variables[HOME])),
        ("variables", f"{', '.join(sorted(sent.variables))}: whoever has the cluster's token can read their values"),
    ]
    if (ours := version_here()) != (theirs := offer.ray_version):
        facts.append(("warning", f"the cluster runs Ray {theirs}, this machine {ours}"))
    facts += [("note", f"{name} is set here and is not sent (--env {name})") for name in held_back(sent, os.environ)]
    return [f"  {name:<12}{text}" for name, text in facts]


def room(plan: Plan, offer: Offer) -> str:
    """Return whether the plan's workers would start now, with numbers."""
    needed = plan.min_workers or plan.workers
    if not offer.knows_free:
        return "the head does not say what is free; the run waits until there is room"
    free = offer.capacity.free_slots(plan.cpus_per_worker, plan.gpus_per_worker)
    if free >= needed:
        return f"it fits now: {counted(free, 'such worker')} would"
    return f"it will wait: {counted(needed, 'worker')} needed, now there is room for {free}"


def held_back(sent: Parcel, environment: Mapping[str, str]) -> list[str]:
    """Return the variables that shape a run, are set here and do not travel."""
    return [name for name in NOT_SENT if environment.get(name) and name not in sent.variables]


def version_here() -> str:
    """Return the version of Ray on this machine, without importing it."""
    from importlib.metadata import version

    return version("ray")


def _submission(ctx: RunContext, head: Head, attempt: int, overrides: Sequence[str]) -> Submission:
    return Submission(
        run=ctx.run,
        address=head.address,
        attempt=attempt,
        owner=f"{getpass.getuser()}@{socket.gethostname()}",
        job_hash=job_hash(ctx.job),
        submitted=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        overrides=list(overrides),
    )


def _send(ctx: RunContext, submission: Submission, head: Head, sent: Parcel) -> Submission:
    """Hand a run over to the cluster; where it is not taken, the run has failed and says why."""
    last = read_status(ctx.store, ctx.run) or RunStatus(run=ctx.run, stage="", state="waiting")
    write_status(ctx.store, last.model_copy(update={"state": "waiting", "why": "", "eta_s": None}))
    write_submission(ctx.store, submission)
    release_run(ctx.store, ctx.run)
    try:
        with ExitStack() as held:
            code = held.enter_context(shipped_code(code_root())) if sent.with_code else None
            head.submit(submission, sent.variables, code)
    except HoneError as error:
        write_status(ctx.store, last.model_copy(update={"state": "failed", "why": error.what, "eta_s": None}))
        ctx.registry.end_run(ctx.run, "FAILED")
        raise
    return submission
