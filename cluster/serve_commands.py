"""The commands of serving: calls ``serving`` by name, prints, returns the exit code; see ``cluster.commands``.

This folder imports no serving code, so what comes back is used by two of its methods only: ``as_json`` and ``lines``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cluster.arguments import arm_weight

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from cluster.session import Settings

CLEAR = "\x1b[H\x1b[J"


def serve(arguments: argparse.Namespace) -> int:
    """Serve releases behind one endpoint."""
    from cluster.progress import Progress
    from cluster.serve_file import load_serve

    spec = load_serve(arguments.what, arguments.endpoint)
    settings = _settings()
    if arguments.detach:
        _show(_entry("serving.keeper:detach")(spec.endpoint, _again(arguments), settings), as_json=arguments.json)
        return 0
    options = _entry("serving.deploy:Options")(
        host=arguments.host,
        port=arguments.port,
        engine=arguments.engine,
        keys=_entry("serving.callers:keys_of")(os.environ),
    )
    _entry("serving.keeper:serve")(
        spec, settings, Progress(sys.stderr), options, lambda found: _show(found, as_json=arguments.json)
    )
    return 0


def split(arguments: argparse.Namespace) -> int:
    """Set arms' weights."""
    weights = dict(arm_weight(text) for text in arguments.weights)
    _show(_entry("serving.traffic:split")(arguments.endpoint, weights, _settings()), as_json=arguments.json)
    return 0


def verdict(arguments: argparse.Namespace) -> int:
    """Show what an experiment says, once or every few seconds."""
    settings = _settings()
    while True:
        found, _ = _entry("serving.results:verdict_on")(arguments.experiment, settings, time.time())
        lines = [found.as_json()] if arguments.json else _entry("serving.verdict_table:verdict_lines")(found)
        if arguments.watch and not arguments.json:
            head = CLEAR if sys.stdout.isatty() else ""
            lines = [f"{head}{arguments.experiment} at {datetime.now(UTC):%H:%M:%S} UTC", *lines]
        print(*lines, sep="\n", flush=True)
        if not arguments.watch:
            return 0
        time.sleep(arguments.every)


def promote(arguments: argparse.Namespace) -> int:
    """Give an arm all traffic, and its version the alias."""
    moved = _entry("serving.traffic:promote")(arguments.experiment, arguments.arm, _settings())
    _show(moved, as_json=arguments.json)
    return 0


def rollback(arguments: argparse.Namespace) -> int:
    """Take the last change of an endpoint back."""
    _show(_entry("serving.traffic:rollback")(arguments.endpoint, _settings()), as_json=arguments.json)
    return 0


def stop_endpoint(endpoint: str, *, as_json: bool) -> int:
    """Drain an endpoint that runs here and end it."""
    _entry("serving.keeper:stop")(endpoint, _settings())
    print(f"{endpoint} has ended", file=sys.stderr)
    if as_json:
        print(json.dumps({"endpoint": endpoint, "state": "stopped"}))
    return 0


def is_endpoint(name: str) -> bool:
    """Return whether an endpoint of this name runs, or ran, from this home."""
    from cluster.store import Store

    return Store(_settings().home).exists("endpoints", f"{name}.json")


def _again(arguments: argparse.Namespace) -> Sequence[str]:
    """Return the arguments of the same command for a process in the background."""
    given = [arguments.what, "--host", arguments.host, "--port", str(arguments.port), "--engine", arguments.engine]
    return given + (["--endpoint", arguments.endpoint] if arguments.endpoint else [])


def _entry(name: str) -> Callable[..., Any]:
    from cluster.pipeline import entry

    return entry(name)


def _settings() -> Settings:
    from cluster.session import Settings

    return Settings.here()


def _show(found: Any, *, as_json: bool) -> None:
    print(found.as_json() if as_json else "\n".join(found.lines()), flush=True)
