"""The commands that hand a job to a cluster and watch it there: submit, and resume of what was submitted."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from cluster.command import Command, override_arguments, progress_here, settings_here
from cluster.errors import HeadSilent, RunFailed, RunStopped, UsageError

if TYPE_CHECKING:
    from cluster.jobs import Head
    from cluster.session import Settings
    from cluster.submissions import Submission
    from cluster.submit import Parcel

EXIT_DETACHED = 130


def submit(arguments: argparse.Namespace) -> int:
    """Submit a job to a cluster, and show its log until it ends."""
    from cluster.jobfile import load_job
    from cluster.submit import submit

    job = load_job(arguments.job, arguments.set)
    settings, progress = settings_here(), progress_here()
    sent = _parcel(arguments, settings)
    head = _head(arguments.address)
    submission = submit(job, head, settings, sent, progress, lambda lines: _agree(lines, yes=arguments.yes))
    return _watch(arguments, head, submission, settings)


def resume(arguments: argparse.Namespace, address: str) -> int:
    """Submit a run that has ended early again, to the cluster at ``address``."""
    from cluster.submit import submit_again

    settings, progress = settings_here(), progress_here()
    sent = _parcel(arguments, settings)
    head = _head(address)
    submission = submit_again(
        arguments.run,
        head,
        settings,
        sent,
        progress,
        lambda lines: _agree(lines, yes=True),
        arguments.set,
    )
    return _watch(arguments, head, submission, settings)


def cluster_arguments(parser: argparse.ArgumentParser) -> None:
    """Let the command say what travels to a cluster, and whether to wait for the end."""
    parser.add_argument("--no-wait", action="store_true", help="return once the cluster has taken the job")
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME",
        help="also send this variable; whoever has the cluster's token can read it",
    )
    parser.add_argument(
        "--code",
        choices=("ship", "image"),
        default="ship",
        help="send this installation's code (ship), or use what the cluster's image has (image)",
    )


def _submit_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", type=Path, help="the job file (`hone init` writes one)")
    parser.add_argument("--address", required=True, metavar="URL", help="the head's dashboard, as http://HEAD:8265")
    parser.add_argument("--yes", action="store_true", help="submit without asking")
    cluster_arguments(parser)
    override_arguments(parser)


def _parcel(arguments: argparse.Namespace, settings: Settings) -> Parcel:
    from cluster.submit import parcel

    return parcel(settings, arguments.env, os.environ, with_code=arguments.code == "ship")


def _head(address: str) -> Head:
    from cluster.jobs import Head

    head = Head(address)
    for line in head.warnings:
        print(f"warning: {line}", file=sys.stderr)
    return head


def _agree(lines: list[str], *, yes: bool) -> None:
    print(*lines, sep="\n", file=sys.stderr, flush=True)
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("nobody is here to agree to this plan", "Submit with --yes.")
    print("submit? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was submitted")


def _watch(arguments: argparse.Namespace, head: Head, submission: Submission, settings: Settings) -> int:
    """Show a submission's log to its end, and return the exit code that the run would have had here."""
    print(f"submitted {submission.run} to {head.address}", file=sys.stderr, flush=True)
    if arguments.no_wait:
        print(*_next(submission), sep="\n", file=sys.stderr)
        print(submission.as_json() if arguments.json else submission.run, flush=True)
        return 0
    try:
        _tail(head, submission, sys.stderr if arguments.json else sys.stdout)
    except KeyboardInterrupt:
        print("", f"detached: {submission.run} goes on", *_next(submission), sep="\n", file=sys.stderr, flush=True)
        return EXIT_DETACHED
    except HeadSilent as error:
        raise HeadSilent(error.what, f"hone status {submission.run}; hone resume {submission.run}") from error
    print(*_next(submission), sep="\n", file=sys.stderr, flush=True)
    return _ended(head, submission, settings, as_json=arguments.json)


def _tail(head: Head, submission: Submission, out: TextIO) -> None:
    for part in head.follow(submission.job):
        print(part, end="", file=out, flush=True)


def _ended(head: Head, submission: Submission, settings: Settings, *, as_json: bool) -> int:
    from cluster.job_commands import EXIT_GATE
    from cluster.pipeline import result_of
    from cluster.run_places import wait_for_end
    from cluster.store import Store

    store = Store(settings.home)
    status = wait_for_end(store, submission, head)
    run = submission.run
    if status.state == "stopped":
        raise RunStopped(f"{run} was stopped: {status.why}", f"hone resume {run}")
    if status.state != "finished":
        raise RunFailed(f"{run} failed: {status.why}", f"hone logs {run}; then hone resume {run}")
    result = result_of(store, run)
    if as_json:
        print(result.as_json(), flush=True)
    return 0 if result.gate.decision == "accept" else EXIT_GATE


def _next(submission: Submission) -> list[str]:
    """Return the commands that look after a run."""
    return [f"  hone {command} {submission.run}" for command in ("logs -f", "status", "stop")]


COMMANDS: tuple[Command, ...] = (
    Command(
        "submit", "run a job on a cluster: plan it for what is there, ask, and follow it", _submit_arguments, submit
    ),
)
