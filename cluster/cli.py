"""`hone …`: every command in one parser, and how one of them ends.

What the commands do is in ``cluster.*_commands``, by family; a new one joins its family's table. Exit codes: 0 done, 1
the run failed, 2 the user's file or arguments are wrong, 3 the gate said hold or reject, 4 it cannot fit, 130
interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from cluster import job_commands, loop_commands, release_commands, run_commands, serve_commands
from cluster.command import Command
from cluster.errors import HoneError

EXIT_INTERRUPTED = 130
COMMANDS: tuple[Command, ...] = (
    *job_commands.COMMANDS,
    *run_commands.COMMANDS,
    *release_commands.COMMANDS,
    *serve_commands.COMMANDS,
    *loop_commands.COMMANDS,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors are a few lines on stderr, a traceback only with --debug."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.command.run(arguments)
    except HoneError as error:
        if arguments.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hone",
        description="Fine-tune a model on your data, honestly scored against its base, and keep what earns its place.",
    )
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        sub = subparsers.add_parser(command.name, help=command.about, description=command.about)
        command.arguments(sub)
        sub.add_argument("--debug", action="store_true", help="show a traceback where something fails")
        sub.set_defaults(command=command)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
