"""`hone …`: the commands with their arguments, and how one of them ends.

What a command does is in ``cluster.commands``. Exit codes: 0 done, 1 the run failed, 2 the user's file or arguments are
wrong, 3 the gate said hold or reject, 4 it cannot fit, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster import commands, serve_commands
from cluster.arguments import page_file
from cluster.errors import HoneError

EXIT_INTERRUPTED = 130


@dataclass(frozen=True)
class Command:
    """One subcommand: its name, its line of help, its arguments and what runs it (returning the exit code)."""

    name: str
    about: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


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


def _job_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", type=Path, help="the job file (`hone init` writes one)")
    _override_arguments(parser)


def _override_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key, as train.epochs=1"
    )
    _json_argument(parser)


def _json_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run's id, as `hone list` shows it")
    _json_argument(parser)


def _resume_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run's id, as `hone list` shows it")
    _override_arguments(parser)


def _demo_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--method", choices=("full", "lora"), default="full", help="tune all weights, or an adapter")
    _override_arguments(parser)


def _init_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, nargs="?", default=Path("job.yaml"), help="where to write it (job.yaml)")
    parser.add_argument("--name", default="my-model", help="the job's and the model's name")
    parser.add_argument("--base", default="./models/base", help="the base model: a directory or hub id")
    parser.add_argument("--data", default="data.jsonl", help="the data: a file, glob, URL or hub id")


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    _job_arguments(parser)
    parser.add_argument(
        "--report",
        type=page_file,
        nargs="?",
        const=Path("check-report.html"),
        metavar="FILE",
        help="also write all of it, with examples, as a page to look at (check-report.html)",
    )


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a release: NAME@N, NAME@champion, a directory, or base:PATH")
    parser.add_argument("--data", required=True, nargs="+", help="the rows to score on: files, globs, URLs or hub ids")
    parser.add_argument("--columns", action="append", default=[], metavar="OURS=THEIRS", help="other column names")
    parser.add_argument("--metrics", default="auto", help="comma-separated metric names (auto)")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="longest answer, in tokens (64)")
    _json_argument(parser)


def _merge_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="RELEASE", help="an adapter: NAME@N, NAME@champion, or a directory")
    parser.add_argument("out", type=Path, metavar="OUT", help="the directory to write")
    _json_argument(parser)


def _serve_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", metavar="FILE|RELEASE", help="a serve file, a job file with a serve block, or a release"
    )
    parser.add_argument("--endpoint", help="the endpoint's name, where the file or release should not say it")
    parser.add_argument("--host", default="127.0.0.1", help="the interface to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="the port to listen on (8000)")
    parser.add_argument("--engine", choices=("transformers", "vllm"), default="transformers", help="what writes tokens")
    parser.add_argument("--detach", action="store_true", help="leave it running in the background; hone stop ends it")
    _json_argument(parser)


def _split_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("endpoint", metavar="ENDPOINT", help="an endpoint that is served")
    parser.add_argument("weights", nargs="+", metavar="ARM=WEIGHT", help="shares of the traffic; others keep theirs")
    _json_argument(parser)


def _verdict_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("experiment", metavar="EXPERIMENT", help="an experiment's name")
    parser.add_argument("--watch", action="store_true", help="look again every few seconds, which costs no validity")
    parser.add_argument("--every", type=float, default=5.0, metavar="SECONDS", help="how often to look (5)")
    _json_argument(parser)


def _promote_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("experiment", metavar="EXPERIMENT", help="an experiment's name")
    parser.add_argument("arm", nargs="?", metavar="ARM", help="the arm (the one that the verdict names)")
    _json_argument(parser)


def _rollback_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("endpoint", metavar="ENDPOINT", help="an endpoint that is served")
    _json_argument(parser)


def _stop_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN|ENDPOINT", help="a run's id, or an endpoint that is served here")
    _json_argument(parser)


def _schema_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reference", action="store_true", help="print the reference page instead of JSON Schema")


COMMANDS: tuple[Command, ...] = (
    Command(
        "demo",
        "make data, a small base model and a job, and run it: the product in a few minutes",
        _demo_arguments,
        commands.demo,
    ),
    Command("init", "write a commented job file", _init_arguments, commands.init),
    Command("check", "audit the data, split it, and plan the run; trains nothing", _check_arguments, commands.check),
    Command("run", "run a job: a sweep where it has a sweep block, else a training", _job_arguments, commands.run),
    Command(
        "train",
        "train with the job's own values: audit, fine-tune, score against the base, gate, register",
        _job_arguments,
        commands.train,
    ),
    Command("sweep", "search the job's sweep block, and release the winner", _job_arguments, commands.sweep),
    Command("resume", "go on with a run that stopped or failed", _resume_arguments, commands.resume),
    Command(
        "stop", "ask a run to stop after a checkpoint, or drain an endpoint and end it", _stop_arguments, commands.stop
    ),
    Command("evaluate", "score any release or base model on any data", _evaluate_arguments, commands.evaluate),
    Command(
        "merge",
        "make one full model of an adapter and its base, compared before and after",
        _merge_arguments,
        commands.merge,
    ),
    Command(
        "serve",
        "put releases behind one OpenAI-compatible endpoint, until Ctrl-C",
        _serve_arguments,
        serve_commands.serve,
    ),
    Command("split", "set how traffic is shared; live within a second", _split_arguments, serve_commands.split),
    Command("verdict", "show what an experiment says, at any time", _verdict_arguments, serve_commands.verdict),
    Command("promote", "give an arm all traffic and its version the alias", _promote_arguments, serve_commands.promote),
    Command("rollback", "take the last change of traffic back", _rollback_arguments, serve_commands.rollback),
    Command("list", "show the runs of this HONE_HOME", _json_argument, commands.list_all),
    Command("status", "show where a run stands", _run_arguments, commands.status),
    Command("schema", "print the job file's JSON Schema for editors", _schema_arguments, commands.schema),
)

if __name__ == "__main__":
    raise SystemExit(main())
