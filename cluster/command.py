"""What every command of `hone` is made of: its place in the table, and the few things that all of them do.

A command parses its arguments, calls an entry by name, prints, and returns its exit code; it decides nothing. Results
go to stdout (with ``--json`` exactly one JSON object as the last line), everything else to stderr. Heavy modules are
imported inside the command that needs them, so ``hone --help`` answers at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cluster.progress import Progress
    from cluster.records import Record
    from cluster.session import Settings


@dataclass(frozen=True)
class Command:
    """One subcommand: its name, its line of help, its arguments and what runs it (returning the exit code)."""

    name: str
    about: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def json_argument(parser: argparse.ArgumentParser) -> None:
    """Let the command print its result as JSON."""
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")


def override_arguments(parser: argparse.ArgumentParser) -> None:
    """Let the command take values for keys of the job file."""
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key, as train.epochs=1"
    )
    json_argument(parser)


def beside_argument(parser: argparse.ArgumentParser) -> None:
    """Let the command use the Ray of an endpoint that runs here."""
    parser.add_argument(
        "--beside", metavar="ENDPOINT", help="share the Ray of an endpoint that is served here, and what it leaves free"
    )


def run_argument(parser: argparse.ArgumentParser) -> None:
    """Let the command take a run."""
    parser.add_argument("run", metavar="RUN", help="a run's id, as `hone list` shows it")


def settings_here() -> Settings:
    """Return what the environment says."""
    from cluster.session import Settings

    return Settings.here()


def settings_beside(arguments: argparse.Namespace) -> Settings:
    """Return what the environment says, in the Ray of the endpoint of ``--beside`` where one is named."""
    settings = settings_here()
    return settings if arguments.beside is None else entry("serving.keeper:beside")(arguments.beside, settings)


def progress_here() -> Progress:
    """Return where a command says how far it is."""
    from cluster.progress import Progress

    return Progress(sys.stderr)


def entry(name: str) -> Callable[..., Any]:
    """Return the function MODULE:FUNCTION of a folder that this one does not import."""
    from cluster.pipeline import entry

    return entry(name)


def emit(record: Record, lines: list[str], *, as_json: bool) -> None:
    """Print a record's table, or with ``as_json`` only the record."""
    print(record.as_json() if as_json else "\n".join(lines))


def show(found: Any, *, as_json: bool) -> None:
    """Print what another folder returned, which has ``lines`` and ``as_json``."""
    print(found.as_json() if as_json else "\n".join(found.lines()), flush=True)
