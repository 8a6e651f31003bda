"""The commands that keep machines, clusters and the store in order: doctor, gc, cluster render."""

from __future__ import annotations

import argparse
import os

from cluster.command import Command, json_argument, settings_here
from cluster.errors import UsageError


def doctor(arguments: argparse.Namespace) -> int:
    """Look at this machine, and at the cluster behind an address."""
    from cluster.doctor import examine

    found = examine(settings_here(), os.environ, arguments.address)
    print(found.as_json() if arguments.json else "\n".join(found.text()))
    return 0 if found.ok else UsageError.exit_code


def _doctor_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--address",
        metavar="ADDRESS",
        help="also a cluster: HOST:6379, or its dashboard http://HOST:8265 (RAY_ADDRESS)",
    )
    json_argument(parser)


COMMANDS: tuple[Command, ...] = (
    Command("doctor", "say what is wrong with this machine or a cluster, and the remedy", _doctor_arguments, doctor),
)
