"""The commands that look at runs and end them, wherever they run."""

from __future__ import annotations

import argparse
import json

from cluster import serve_commands
from cluster.command import Command, emit, json_argument, run_argument, settings_here
from cluster.errors import UsageError


def list_all(arguments: argparse.Namespace) -> int:
    """Show the runs."""
    from cluster.run_places import list_everywhere
    from cluster.store import Store
    from cluster.tables import run_lines

    runs = list_everywhere(Store(settings_here().home))
    for line in run_lines(runs):
        print(line)
    if arguments.json:
        print(json.dumps({"runs": [run.model_dump(mode="json") for run in runs]}))
    return 0


def status(arguments: argparse.Namespace) -> int:
    """Show where a run stands."""
    from cluster.run_places import status_of
    from cluster.runs import find_run
    from cluster.store import Store
    from cluster.tables import status_lines

    store = Store(settings_here().home)
    status = status_of(store, find_run(store, arguments.run))
    emit(status, status_lines(status), as_json=arguments.json)
    return 0


def logs(arguments: argparse.Namespace) -> int:
    """Show what a run has said, and with --follow what it says."""
    from cluster.run_places import log_parts
    from cluster.runs import find_run
    from cluster.store import Store

    store = Store(settings_here().home)
    for part in log_parts(store, find_run(store, arguments.run), follow=arguments.follow):
        print(part, end="", flush=True)
    return 0


def stop(arguments: argparse.Namespace) -> int:
    """Ask a run to stop, or end an endpoint."""
    from cluster.run_places import status_of, stop_now
    from cluster.runs import find_run, request_stop
    from cluster.store import Store
    from cluster.tables import status_lines

    if serve_commands.is_endpoint(arguments.run):
        return serve_commands.stop_endpoint(arguments.run, as_json=arguments.json)
    store = Store(settings_here().home)
    run = find_run(store, arguments.run)
    status = status_of(store, run)
    if status.state not in ("waiting", "running", "stopping"):
        raise UsageError(f"the run {run} is {status.state}", f"hone status {run}")
    if arguments.now:
        status = stop_now(store, run)
    else:
        request_stop(store, run)
        status = status.model_copy(update={"state": "stopping"})
    emit(status, status_lines(status), as_json=arguments.json)
    return 0


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    run_argument(parser)
    json_argument(parser)


def _stop_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN|ENDPOINT", help="a run's id, or an endpoint that is served here")
    parser.add_argument("--now", action="store_true", help="end a run at once, without a checkpoint")
    json_argument(parser)


def _logs_arguments(parser: argparse.ArgumentParser) -> None:
    run_argument(parser)
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the run ends")


COMMANDS: tuple[Command, ...] = (
    Command("list", "show the runs of this HONE_HOME", json_argument, list_all),
    Command("status", "show where a run stands", _run_arguments, status),
    Command("logs", "show what a run has said, or follow it", _logs_arguments, logs),
    Command("stop", "ask a run to stop after a checkpoint, or drain an endpoint and end it", _stop_arguments, stop),
)
