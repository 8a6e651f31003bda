"""The commands of serving: calls ``serving`` by name, prints, returns the exit code; see ``cluster.command``.

This folder imports no serving code, so what comes back is used by two of its methods only: ``as_json`` and ``lines``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cluster.arguments import arm_weight
from cluster.command import Command, entry, json_argument, progress_here, settings_here, show

if TYPE_CHECKING:
    from collections.abc import Sequence

CLEAR = "\x1b[H\x1b[J"


def serve(arguments: argparse.Namespace) -> int:
    """Serve releases behind one endpoint."""
    from cluster.serve_file import load_serve

    spec = load_serve(arguments.what, arguments.endpoint)
    settings = settings_here()
    if arguments.detach:
        show(entry("serving.keeper:detach")(spec.endpoint, _again(arguments), settings), as_json=arguments.json)
        return 0
    options = entry("serving.deploy:Options")(
        host=arguments.host,
        port=arguments.port,
        engine=arguments.engine,
        keys=entry("serving.callers:keys_of")(os.environ),
    )
    entry("serving.keeper:serve")(
        spec, settings, progress_here(), options, lambda found: show(found, as_json=arguments.json)
    )
    return 0


def split(arguments: argparse.Namespace) -> int:
    """Set arms' weights."""
    weights = dict(arm_weight(text) for text in arguments.weights)
    show(entry("serving.traffic:split")(arguments.endpoint, weights, settings_here()), as_json=arguments.json)
    return 0


def verdict(arguments: argparse.Namespace) -> int:
    """Show what an experiment says, once or every few seconds."""
    settings = settings_here()
    while True:
        found, _ = entry("serving.results:verdict_on")(arguments.experiment, settings, time.time())
        lines = [found.as_json()] if arguments.json else entry("serving.verdict_table:verdict_lines")(found)
        if arguments.watch and not arguments.json:
            head = CLEAR if sys.stdout.isatty() else ""
            lines = [f"{head}{arguments.experiment} at {datetime.now(UTC):%H:%M:%S} UTC", *lines]
        print(*lines, sep="\n", flush=True)
        if not arguments.watch:
            return 0
        time.sleep(arguments.every)


def promote(arguments: argparse.Namespace) -> int:
    """Give an arm all traffic, and its version the alias."""
    moved = entry("serving.traffic:promote")(arguments.experiment, arguments.arm, settings_here())
    show(moved, as_json=arguments.json)
    return 0


def rollback(arguments: argparse.Namespace) -> int:
    """Take the last change of an endpoint back."""
    show(entry("serving.traffic:rollback")(arguments.endpoint, settings_here()), as_json=arguments.json)
    return 0


def forget(arguments: argparse.Namespace) -> int:
    """Delete what is kept of one user of an endpoint."""
    found = entry("serving.forget:forget")(arguments.endpoint, arguments.unit, settings_here())
    show(found, as_json=arguments.json)
    return 0


def stop_endpoint(endpoint: str, *, as_json: bool) -> int:
    """Drain an endpoint that runs here and end it."""
    entry("serving.keeper:stop")(endpoint, settings_here())
    print(f"{endpoint} has ended", file=sys.stderr)
    if as_json:
        print(json.dumps({"endpoint": endpoint, "state": "stopped"}))
    return 0


def is_endpoint(name: str) -> bool:
    """Return whether an endpoint of this name runs, or ran, from this home."""
    from cluster.store import Store

    return Store(settings_here().home).exists("endpoints", f"{name}.json")


def _again(arguments: argparse.Namespace) -> Sequence[str]:
    """Return the arguments of the same command for a process in the background."""
    given = [arguments.what, "--host", arguments.host, "--port", str(arguments.port), "--engine", arguments.engine]
    return given + (["--endpoint", arguments.endpoint] if arguments.endpoint else [])


def _serve_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", metavar="FILE|RELEASE", help="a serve file, a job file with a serve block, or a release"
    )
    parser.add_argument("--endpoint", help="the endpoint's name, where the file or release should not say it")
    parser.add_argument("--host", default="127.0.0.1", help="the interface to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="the port to listen on (8000)")
    parser.add_argument("--engine", choices=("transformers", "vllm"), default="transformers", help="what writes tokens")
    parser.add_argument("--detach", action="store_true", help="leave it running in the background; hone stop ends it")
    json_argument(parser)


def _split_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("endpoint", metavar="ENDPOINT", help="an endpoint that is served")
    parser.add_argument("weights", nargs="+", metavar="ARM=WEIGHT", help="shares of the traffic; others keep theirs")
    json_argument(parser)


def _verdict_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("experiment", metavar="EXPERIMENT", help="an experiment's name")
    parser.add_argument("--watch", action="store_true", help="look again every few seconds, which costs no validity")
    parser.add_argument("--every", type=float, default=5.0, metavar="SECONDS", help="how often to look (5)")
    json_argument(parser)


def _promote_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("experiment", metavar="EXPERIMENT", help="an experiment's name")
    parser.add_argument("arm", nargs="?", metavar="ARM", help="the arm (the one that the verdict names)")
    json_argument(parser)


def _rollback_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("endpoint", metavar="ENDPOINT", help="an endpoint that is served")
    json_argument(parser)


def _forget_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("endpoint", metavar="ENDPOINT", help="an endpoint that is or was served")
    parser.add_argument("unit", metavar="UNIT", help="the user as requests named them (x-hone-unit, user, or a key)")
    json_argument(parser)


COMMANDS: tuple[Command, ...] = (
    Command(
        "serve",
        "put releases behind one OpenAI-compatible endpoint, until Ctrl-C",
        _serve_arguments,
        serve,
    ),
    Command("split", "set how traffic is shared; live within a second", _split_arguments, split),
    Command("verdict", "show what an experiment says, at any time", _verdict_arguments, verdict),
    Command("promote", "give an arm all traffic and its version the alias", _promote_arguments, promote),
    Command("rollback", "take the last change of traffic back", _rollback_arguments, rollback),
    Command("forget", "delete what an endpoint has kept of one user", _forget_arguments, forget),
)
