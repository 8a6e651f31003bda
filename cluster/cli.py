"""`hone …`: parses arguments, calls the pipeline, prints. It decides nothing.

Results go to stdout (with ``--json`` exactly one JSON object as the last line), everything else to stderr. Heavy
modules are imported inside the command that needs them, so ``hone --help`` answers at once. Exit codes: 0 done, 1 the
run failed, 2 the user's file or arguments are wrong, 3 the gate said hold or reject, 4 it cannot fit, 130
interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.arguments import column_pair, page_file
from cluster.errors import HoneError, UsageError

if TYPE_CHECKING:
    from cluster.progress import Progress
    from cluster.records import Record, TrainResult
    from cluster.session import Settings

EXIT_GATE = 3
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
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        sub = commands.add_parser(command.name, help=command.about, description=command.about)
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


def _schema_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reference", action="store_true", help="print the reference page instead of JSON Schema")


def _demo(arguments: argparse.Namespace) -> int:
    from cluster import pipeline

    settings, progress = _settings(), _progress()
    job_file = pipeline.entry("trainers.demo:write_demo")(
        settings, progress, method=arguments.method, overrides=arguments.set
    )
    return _train_job(job_file, arguments, settings, progress)


def _init(arguments: argparse.Namespace) -> int:
    from cluster.starter import starter_job, write_new

    write_new(arguments.file, starter_job(arguments.name, arguments.base, arguments.data))
    print(f"wrote {arguments.file}; next: hone check {arguments.file}", file=sys.stderr)
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from cluster import pipeline
    from cluster.jobfile import load_job
    from cluster.tables import check_lines

    job = load_job(arguments.job, arguments.set)
    checked = pipeline.entry("trainers.prepare:check")(job, _settings(), _progress(), page=arguments.report)
    _emit(checked.report, check_lines(checked.report, checked.refused), as_json=arguments.json)
    if checked.error is not None:
        sys.stdout.flush()
        raise checked.error
    return 0 if checked.report.ok else UsageError.exit_code


def _train(arguments: argparse.Namespace) -> int:
    return _train_job(arguments.job, arguments, _settings(), _progress())


def _train_job(job_file: Path, arguments: argparse.Namespace, settings: Settings, progress: Progress) -> int:
    from cluster import pipeline
    from cluster.jobfile import load_job

    job = load_job(job_file, arguments.set)
    result = pipeline.train(job, settings, progress, datetime.now(UTC))
    return _finished(result, settings, as_json=arguments.json)


def _finished(result: TrainResult, settings: Settings, *, as_json: bool) -> int:
    from cluster import pipeline
    from cluster.tables import result_lines

    report = pipeline.report_path(settings, result.run)
    _emit(result, result_lines(result, report, pipeline.Registry(settings).ui_command()), as_json=as_json)
    return 0 if result.gate.decision == "accept" else EXIT_GATE


def _resume(arguments: argparse.Namespace) -> int:
    from cluster import pipeline

    settings = _settings()
    result = pipeline.resume(arguments.run, settings, _progress(), arguments.set)
    return _finished(result, settings, as_json=arguments.json)


def _stop(arguments: argparse.Namespace) -> int:
    from cluster.runs import find_run, reconciled_status, request_stop
    from cluster.store import Store
    from cluster.tables import status_lines

    store = Store(_settings().home)
    run = find_run(store, arguments.run)
    status = reconciled_status(store, run)
    if status.state not in ("waiting", "running", "stopping"):
        raise UsageError(f"the run {run} is {status.state}", f"hone status {run}")
    request_stop(store, run)
    status = status.model_copy(update={"state": "stopping"})
    _emit(status, status_lines(status), as_json=arguments.json)
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from cluster import pipeline
    from cluster.tables import score_lines

    report = pipeline.entry("trainers.score_model:evaluate_model")(
        arguments.model,
        arguments.data,
        _settings(),
        _progress(),
        columns=dict(column_pair(text) for text in arguments.columns),
        metrics="auto" if arguments.metrics == "auto" else arguments.metrics.split(","),
        max_new_tokens=arguments.max_new_tokens,
    )
    _emit(report, score_lines(report), as_json=arguments.json)
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from cluster.runs import list_runs
    from cluster.store import Store
    from cluster.tables import run_lines

    runs = list_runs(Store(_settings().home))
    for line in run_lines(runs):
        print(line)
    if arguments.json:
        print(json.dumps({"runs": [run.model_dump(mode="json") for run in runs]}))
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from cluster.runs import find_run, reconciled_status
    from cluster.store import Store
    from cluster.tables import status_lines

    store = Store(_settings().home)
    status = reconciled_status(store, find_run(store, arguments.run))
    _emit(status, status_lines(status), as_json=arguments.json)
    return 0


def _schema(arguments: argparse.Namespace) -> int:
    from cluster.schema import json_schema, reference_page

    print(reference_page() if arguments.reference else json.dumps(json_schema(), indent=2))
    return 0


def _settings() -> Settings:
    from cluster.session import Settings

    return Settings.from_env(os.environ, Path.cwd())


def _progress() -> Progress:
    from cluster.progress import Progress

    return Progress(sys.stderr)


def _emit(record: Record, lines: list[str], *, as_json: bool) -> None:
    """Print a record's table, or with ``as_json`` only the record."""
    print(record.as_json() if as_json else "\n".join(lines))


COMMANDS: tuple[Command, ...] = (
    Command(
        "demo",
        "make data, a small base model and a job, and run it: the product in a few minutes",
        _demo_arguments,
        _demo,
    ),
    Command("init", "write a commented job file", _init_arguments, _init),
    Command("check", "audit the data, split it, and plan the run; trains nothing", _check_arguments, _check),
    Command("train", "run a job: audit, fine-tune, score against the base, gate, register", _job_arguments, _train),
    Command("resume", "go on with a run that stopped or failed", _resume_arguments, _resume),
    Command("stop", "ask a run to stop after a checkpoint", _run_arguments, _stop),
    Command("evaluate", "score any release or base model on any data", _evaluate_arguments, _evaluate),
    Command("list", "show the runs of this HONE_HOME", _json_argument, _list),
    Command("status", "show where a run stands", _run_arguments, _status),
    Command("schema", "print the job file's JSON Schema for editors", _schema_arguments, _schema),
)

if __name__ == "__main__":
    raise SystemExit(main())
