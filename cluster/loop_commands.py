"""The commands of what comes after a release: whether its traffic still looks like its data, and training it again.

They call ``serving`` by name, print, and return the exit code; see ``cluster.command``. What comes back is used by two
of its methods only: ``as_json`` and ``lines``.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

from cluster.arguments import page_file
from cluster.command import Command, entry, json_argument, settings_here, show

if TYPE_CHECKING:
    from pathlib import Path


def drift(arguments: argparse.Namespace) -> int:
    """Compare an endpoint's live prompts with what its release was trained on."""
    found = entry("serving.drift:look")(arguments.endpoint, settings_here(), time.time())
    if arguments.report is not None:
        _write(arguments.report, entry("serving.drift_page:drift_page")(found))
    show(found, as_json=arguments.json)
    return 0


def _write(path: Path, page: str) -> None:
    path.write_text(page, encoding="utf-8")
    print(f"report: {path}", file=sys.stderr)


def _drift_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("endpoint", metavar="ENDPOINT", help="an endpoint that is or was served from this home")
    parser.add_argument("--report", type=page_file, metavar="FILE.html", help="write the comparison as a page, too")
    json_argument(parser)


COMMANDS: tuple[Command, ...] = (
    Command("drift", "compare live prompts with what the release was trained on", _drift_arguments, drift),
)
