"""What each command of `hone` does with its parsed arguments: calls the pipeline, prints, returns the exit code.

It decides nothing. Results go to stdout (with ``--json`` exactly one JSON object as the last line), everything else to
stderr. Heavy modules are imported inside the command that needs them, so ``hone --help`` answers at once.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cluster.arguments import column_pair
from cluster.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from cluster.progress import Progress
    from cluster.records import Record, TrainResult
    from cluster.session import Settings
    from cluster.spec import JobSpec

EXIT_GATE = 3


def demo(arguments: argparse.Namespace) -> int:
    """Make data, a base and a job, run it, and serve what it released against its base."""
    from cluster import pipeline
    from cluster.jobfile import load_job

    settings, progress = _settings(), _progress()
    job_file = pipeline.entry("trainers.demo:write_demo")(
        settings, progress, method=arguments.method, overrides=arguments.set
    )
    job = load_job(job_file, arguments.set)
    result = pipeline.train(job, settings, progress, datetime.now(UTC))
    code = _finished(result, settings, as_json=arguments.json)
    if result.version is not None:
        prepared = pipeline.prepared_path(settings, result.run)
        told = pipeline.entry("serving.demo:serve_and_decide")(job.base, result.version, prepared, settings, progress)
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


def run(arguments: argparse.Namespace) -> int:
    """Run a job: a sweep or a training."""
    return _run_job(_job(arguments), arguments, _settings(), _progress())


def train(arguments: argparse.Namespace) -> int:
    """Run one training, with the job's own values."""
    job, progress = _job(arguments), _progress()
    if job.sweep is not None:
        progress.say("train: the job's own values; `hone sweep` searches its sweep block")
        job = job.model_copy(update={"sweep": None})
    return _run_job(job, arguments, _settings(), progress)


def sweep(arguments: argparse.Namespace) -> int:
    """Search a job's sweep block and release the winner."""
    job = _job(arguments)
    if job.sweep is None:
        raise UsageError(
            f"{arguments.job} has no sweep block", "Add sweep: {space: {KEY: EXPRESSION}}, or use hone train."
        )
    return _run_job(job, arguments, _settings(), _progress())


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
    _emit(result, result_lines(result, report, pipeline.Registry(settings).ui_command()), as_json=as_json)
    return 0 if result.gate.decision == "accept" else EXIT_GATE


def resume(arguments: argparse.Namespace) -> int:
    """Go on with a run."""
    from cluster import pipeline

    settings = _settings()
    result = pipeline.resume(arguments.run, settings, _progress(), arguments.set)
    return _finished(result, settings, as_json=arguments.json)


def stop(arguments: argparse.Namespace) -> int:
    """Ask a run to stop, or end an endpoint."""
    from cluster import serve_commands
    from cluster.runs import find_run, reconciled_status, request_stop
    from cluster.store import Store
    from cluster.tables import status_lines

    if serve_commands.is_endpoint(arguments.run):
        return serve_commands.stop_endpoint(arguments.run, as_json=arguments.json)
    store = Store(_settings().home)
    run = find_run(store, arguments.run)
    status = reconciled_status(store, run)
    if status.state not in ("waiting", "running", "stopping"):
        raise UsageError(f"the run {run} is {status.state}", f"hone status {run}")
    request_stop(store, run)
    status = status.model_copy(update={"state": "stopping"})
    _emit(status, status_lines(status), as_json=arguments.json)
    return 0


def evaluate(arguments: argparse.Namespace) -> int:
    """Score a model on data."""
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


def merge(arguments: argparse.Namespace) -> int:
    """Make one full model of an adapter and its base."""
    from cluster import pipeline

    merged = pipeline.entry("trainers.merge:merge")(arguments.model, arguments.out, _settings(), _progress())
    _emit(merged, merged.lines(), as_json=arguments.json)
    return 0


def list_all(arguments: argparse.Namespace) -> int:
    """Show the runs."""
    from cluster.runs import list_runs
    from cluster.store import Store
    from cluster.tables import run_lines

    runs = list_runs(Store(_settings().home))
    for line in run_lines(runs):
        print(line)
    if arguments.json:
        print(json.dumps({"runs": [run.model_dump(mode="json") for run in runs]}))
    return 0


def status(arguments: argparse.Namespace) -> int:
    """Show where a run stands."""
    from cluster.runs import find_run, reconciled_status
    from cluster.store import Store
    from cluster.tables import status_lines

    store = Store(_settings().home)
    status = reconciled_status(store, find_run(store, arguments.run))
    _emit(status, status_lines(status), as_json=arguments.json)
    return 0


def schema(arguments: argparse.Namespace) -> int:
    """Print the job file's schema or reference."""
    from cluster.schema import json_schema, reference_page

    print(reference_page() if arguments.reference else json.dumps(json_schema(), indent=2))
    return 0


def _settings() -> Settings:
    from cluster.session import Settings

    return Settings.here()


def _progress() -> Progress:
    from cluster.progress import Progress

    return Progress(sys.stderr)


def _emit(record: Record, lines: list[str], *, as_json: bool) -> None:
    """Print a record's table, or with ``as_json`` only the record."""
    print(record.as_json() if as_json else "\n".join(lines))
