"""The commands that work on what training released."""

from __future__ import annotations

import argparse
from pathlib import Path

from cluster.arguments import column_pair
from cluster.command import Command, emit, entry, json_argument, progress_here, settings_here


def evaluate(arguments: argparse.Namespace) -> int:
    """Score a model on data."""
    from cluster.tables import score_lines

    report = entry("trainers.score_model:evaluate_model")(
        arguments.model,
        arguments.data,
        settings_here(),
        progress_here(),
        columns=dict(column_pair(text) for text in arguments.columns),
        metrics="auto" if arguments.metrics == "auto" else arguments.metrics.split(","),
        max_new_tokens=arguments.max_new_tokens,
        slices=[] if arguments.slices is None else arguments.slices.split(","),
    )
    emit(report, score_lines(report), as_json=arguments.json)
    return 0


def merge(arguments: argparse.Namespace) -> int:
    """Make one full model of an adapter and its base."""
    merged = entry("trainers.merge:merge")(arguments.model, arguments.out, settings_here(), progress_here())
    emit(merged, merged.lines(), as_json=arguments.json)
    return 0


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a release: NAME@N, NAME@champion, a directory, or base:PATH")
    parser.add_argument("--data", required=True, nargs="+", help="the rows to score on: files, globs, URLs or hub ids")
    parser.add_argument("--columns", action="append", default=[], metavar="OURS=THEIRS", help="other column names")
    parser.add_argument("--metrics", default="auto", help="comma-separated metric names (auto)")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="longest answer, in tokens (64)")
    parser.add_argument("--slices", metavar="COLUMNS", help="comma-separated columns whose values are scored apart")
    json_argument(parser)


def _merge_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="RELEASE", help="an adapter: NAME@N, NAME@champion, or a directory")
    parser.add_argument("out", type=Path, metavar="OUT", help="the directory to write")
    json_argument(parser)


COMMANDS: tuple[Command, ...] = (
    Command("evaluate", "score any release or base model on any data", _evaluate_arguments, evaluate),
    Command(
        "merge",
        "make one full model of an adapter and its base, compared before and after",
        _merge_arguments,
        merge,
    ),
)
