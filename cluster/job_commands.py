"""The commands that run a job here: check, train, sweep, and what leads to them."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.arguments import page_file
from cluster.command import (
    Command,
    beside_argument,
    emit,
    entry,
    override_arguments,
    progress_here,
    run_argument,
    settings_beside,
    settings_here,
)
from cluster.errors import UsageError
from cluster.submit_commands import cluster_arguments

if TYPE_CHECKING:
    from cluster.progress import Progress
    from cluster.records import TrainResult
    from cluster.session import Settings
    from cluster.spec import JobSpec

EXIT_GATE = 3


def demo(arguments: argparse.Namespace) -> int:
    """Make data, a base and a job, run it, and serve what it released against its base."""
    from cluster import pipeline
    from cluster.jobfile import load_job

    settings, progress = settings_here(), progress_here()
    job_file = entry("trainers.demo:write_demo")(settings, progress, method=arguments.method, overrides=arguments.set)
    job = load_job(job_file, arguments.set)
    result = pipeline.train(job, settings, progress, datetime.now(UTC))
    code = _finished(result, settings, as_json=arguments.json)
    if result.version is not None:
        prepared = pipeline.prepared_path(settings, result.run)
        told = entry("serving.demo:serve_and_decide")(job.base, result.version, prepared, settings, progress)
        print(*told, sep="\n", file=sys.stderr if arguments.json else sys.stdout)
    return code


def init(arguments: argparse.Namespace) -> int:
    """Write a commented job file."""
    from cluster.starter import starter_job, write_new

    write_new(arguments.file, starter_job(arguments.name, arguments.base, arguments.data))
    print(f"wrote {arguments.file}; next: hone check {arguments.file}", file=sys.stderr)
    return 0


def check(arguments: argparse.Namespace) -> int:
    """Audit, split and plan, and print the report."""
    from cluster.jobfile import load_job
    from cluster.tables import check_lines

    job = load_job(arguments.job, arguments.set)
    checked = entry("trainers.prepare:check")(job, settings_beside(arguments), progress_here(), page=arguments.report)
    emit(checked.report, check_lines(checked.report, checked.refused), as_json=arguments.json)
    if checked.error is not None:
        sys.stdout.flush()
        raise checked.error
    return 0 if checked.report.ok else UsageError.exit_code


def run(arguments: argparse.Namespace) -> int:
    """Run a job: a sweep or a training."""
    return _run_job(_job(arguments), arguments, settings_beside(arguments), progress_here())


def train(arguments: argparse.Namespace) -> int:
    """Run one training, with the job's own values."""
    job, progress = _job(arguments), progress_here()
    if job.sweep is not None:
        progress.say("train: the job's own values; `hone sweep` searches its sweep block")
        job = job.model_copy(update={"sweep": None})
    return _run_job(job, arguments, settings_beside(arguments), progress)


def sweep(arguments: argparse.Namespace) -> int:
    """Search a job's sweep block and release the winner."""
    job = _job(arguments)
    if job.sweep is None:
        raise UsageError(
            f"{arguments.job} has no sweep block", "Add sweep: {space: {KEY: EXPRESSION}}, or use hone train."
        )
    return _run_job(job, arguments, settings_beside(arguments), progress_here())


def resume(arguments: argparse.Namespace) -> int:
    """Go on with a run."""
    from cluster import pipeline, submit_commands
    from cluster.runs import find_run
    from cluster.store import Store
    from cluster.submissions import read_submission

    settings = settings_beside(arguments)
    store = Store(settings.home)
    submission = read_submission(store, find_run(store, arguments.run))
    if address := arguments.address or (submission.address if submission else None):
        return submit_commands.resume(arguments, address)
    result = pipeline.resume(arguments.run, settings, progress_here(), arguments.set)
    return _finished(result, settings, as_json=arguments.json)


def _job(arguments: argparse.Namespace) -> JobSpec:
    from cluster.jobfile import load_job

    return load_job(arguments.job, arguments.set)


def _run_job(job: JobSpec, arguments: argparse.Namespace, settings: Settings, progress: Progress) -> int:
    from cluster import pipeline

    result = pipeline.train(job, settings, progress, datetime.now(UTC))
    return _finished(result, settings, as_json=arguments.json)


def _finished(result: TrainResult, settings: Settings, *, as_json: bool) -> int:
    from cluster import pipeline
    from cluster.tables import result_lines

    report = pipeline.report_path(settings, result.run)
    emit(result, result_lines(result, report, pipeline.Registry(settings).ui_command()), as_json=as_json)
    return 0 if result.gate.decision == "accept" else EXIT_GATE


def _job_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", type=Path, help="the job file (`hone init` writes one)")
    override_arguments(parser)
    beside_argument(parser)


def _demo_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--method", choices=("full", "lora"), default="full", help="tune all weights, or an adapter")
    override_arguments(parser)


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


def _resume_arguments(parser: argparse.ArgumentParser) -> None:
    run_argument(parser)
    parser.add_argument(
        "--address", metavar="URL", help="the head to submit it to (the one it was submitted to, if any)"
    )
    cluster_arguments(parser)
    override_arguments(parser)
    beside_argument(parser)


def schema(arguments: argparse.Namespace) -> int:
    """Print the job file's schema or reference."""
    from cluster.schema import json_schema, reference_page

    print(reference_page() if arguments.reference else json.dumps(json_schema(), indent=2))
    return 0


def _schema_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reference", action="store_true", help="print the reference page instead of JSON Schema")


COMMANDS: tuple[Command, ...] = (
    Command(
        "demo",
        "make data, a small base model and a job, and run it: the product in a few minutes",
        _demo_arguments,
        demo,
    ),
    Command("init", "write a commented job file", _init_arguments, init),
    Command("check", "audit the data, split it, and plan the run; trains nothing", _check_arguments, check),
    Command("run", "run a job: a sweep where it has a sweep block, else a training", _job_arguments, run),
    Command(
        "train",
        "train with the job's own values: audit, fine-tune, score against the base, gate, register",
        _job_arguments,
        train,
    ),
    Command("sweep", "search the job's sweep block, and release the winner", _job_arguments, sweep),
    Command("resume", "go on with a run that stopped or failed", _resume_arguments, resume),
    Command("schema", "print the job file's JSON Schema for editors", _schema_arguments, schema),
)
