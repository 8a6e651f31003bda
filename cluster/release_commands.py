"""The commands that work on what training released."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cluster.arguments import column_pair, count
from cluster.command import Command, emit, entry, json_argument, progress_here, settings_here


def evaluate(arguments: argparse.Namespace) -> int:
    """Score a model on data."""
    from cluster.tables import score_lines

    report = entry("trainers.score_model:evaluate_model")(
        arguments.model,
        arguments.data,
        settings_here(),
        progress_here(),
        **_scoring(arguments),
        slices=[] if arguments.slices is None else arguments.slices.split(","),
    )
    emit(report, score_lines(report), as_json=arguments.json)
    return 0


def _scoring(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "columns": dict(column_pair(text) for text in arguments.columns),
        "metrics": "auto" if arguments.metrics == "auto" else arguments.metrics.split(","),
        "max_new_tokens": arguments.max_new_tokens,
    }


def merge(arguments: argparse.Namespace) -> int:
    """Make one full model of an adapter and its base."""
    merged = entry("trainers.merge:merge")(arguments.model, arguments.out, settings_here(), progress_here())
    emit(merged, merged.lines(), as_json=arguments.json)
    return 0


def compare(arguments: argparse.Namespace) -> int:
    """Score several models on the same rows."""
    from cluster.tables import compare_lines

    report = entry("trainers.compare:compare_models")(
        arguments.models,
        arguments.data,
        settings_here(),
        progress_here(),
        **_scoring(arguments),
        sample=arguments.sample,
        seed=arguments.seed,
    )
    emit(report, compare_lines(report), as_json=arguments.json)
    return 0


def review(arguments: argparse.Namespace) -> int:
    """Write answers for people to rate, or bring their ratings back."""
    from cluster.tables import review_lines, sample_lines

    if arguments.action == "export":
        sample = entry("trainers.review:export_review")(
            arguments.of,
            arguments.out,
            settings_here(),
            count=arguments.count,
            test=arguments.test,
            seed=arguments.seed,
        )
        emit(sample, sample_lines(sample), as_json=arguments.json)
        return 0
    files = arguments.files
    rows = arguments.rows or files[0].with_suffix(".rows.jsonl")
    report = entry("trainers.review:import_review")(files, rows, settings_here(), accept=arguments.accept)
    emit(report, review_lines(report), as_json=arguments.json)
    return 0


def _review_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    export = actions.add_parser("export", help="write a sample of answers for people to rate")
    export.add_argument("of", metavar="RUN|RELEASE", help="a run's id, NAME@N, NAME@champion, or a release's directory")
    export.add_argument("--out", required=True, type=Path, help="a .csv, or a .json for Label Studio")
    export.add_argument("--count", type=count, default=100, help="answers in the sample (100)")
    export.add_argument("--test", help="the test to draw from (the first)")
    export.add_argument("--seed", type=int, default=0, help="what the sample follows from (0)")
    json_argument(export)
    back = actions.add_parser("import", help="bring ratings back, as metrics and as rows")
    back.add_argument("files", nargs="+", type=Path, metavar="FILE", help="what was rated, one file or several")
    back.add_argument("--rows", type=Path, metavar="FILE", help="where the rows go (beside the first file)")
    back.add_argument("--accept", type=float, default=4.0, help="mean rating from which an answer is a row (4)")
    json_argument(back)


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", metavar="MODEL", help="NAME@N, NAME@champion, a directory, or base:PATH")
    parser.add_argument("--sample", type=count, help="ask for this many of the examples only (all)")
    parser.add_argument("--seed", type=int, default=0, help="what the sample follows from (0)")
    _scoring_arguments(parser)


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a release: NAME@N, NAME@champion, a directory, or base:PATH")
    parser.add_argument("--slices", metavar="COLUMNS", help="comma-separated columns whose values are scored apart")
    _scoring_arguments(parser)


def _scoring_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, nargs="+", help="the rows to score on: files, globs, URLs or hub ids")
    parser.add_argument("--columns", action="append", default=[], metavar="OURS=THEIRS", help="other column names")
    parser.add_argument("--metrics", default="auto", help="comma-separated metric names (auto)")
    parser.add_argument("--max-new-tokens", type=count, default=64, help="longest answer, in tokens (64)")
    json_argument(parser)


def _merge_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="RELEASE", help="an adapter: NAME@N, NAME@champion, or a directory")
    parser.add_argument("out", type=Path, metavar="OUT", help="the directory to write")
    json_argument(parser)


COMMANDS: tuple[Command, ...] = (
    Command("evaluate", "score any release or base model on any data", _evaluate_arguments, evaluate),
    Command(
        "compare",
        "score releases or base models on the same rows, with paired differences",
        _compare_arguments,
        compare,
    ),
    Command("review", "have people rate answers: export a sample, import their ratings", _review_arguments, review),
    Command(
        "merge",
        "make one full model of an adapter and its base, compared before and after",
        _merge_arguments,
        merge,
    ),
)
