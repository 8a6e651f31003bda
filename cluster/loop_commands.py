"""The commands of what comes after a release: whether its traffic still looks like its data, and training it again.

They call ``serving`` by name, print, and return the exit code; see ``cluster.command``. What comes back is used by two
of its methods only: ``as_json`` and ``lines``.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

from cluster.arguments import a_day, page_file, seconds
from cluster.command import (
    Command,
    entry,
    json_argument,
    override_arguments,
    progress_here,
    settings_here,
    show,
)

if TYPE_CHECKING:
    from pathlib import Path


EXIT_GATE = 3


def drift(arguments: argparse.Namespace) -> int:
    """Compare an endpoint's live prompts with what its release was trained on."""
    found = entry("serving.drift:look")(arguments.endpoint, settings_here(), time.time())
    if arguments.report is not None:
        _write(arguments.report, entry("serving.drift_page:drift_page")(found))
    show(found, as_json=arguments.json)
    return 0


def retrain(arguments: argparse.Namespace) -> int:
    """Train a child on what users said, and let it challenge."""
    settings = settings_here()
    if arguments.dry_run:
        show(entry("serving.retrain:dry_run")(arguments.endpoint, settings), as_json=arguments.json)
        return 0
    found = entry("serving.retrain:retrain")(
        arguments.endpoint,
        settings,
        progress_here(),
        cause=arguments.cause,
        overrides=arguments.set,
        finish=arguments.finish,
    )
    show(found, as_json=arguments.json)
    return 0 if found.state == "deployed" else EXIT_GATE


def watch(arguments: argparse.Namespace) -> int:
    """Retrain an endpoint whenever a condition holds."""
    return entry("serving.watch:watch")(
        arguments.endpoint,
        arguments.when,
        settings_here(),
        progress_here(),
        every_s=arguments.every,
        budget=arguments.budget,
        is_dry=arguments.dry_run,
        once=arguments.once,
        tell=lambda found: show(found, as_json=arguments.json),
    )


def lineage(arguments: argparse.Namespace) -> int:
    """Show where a release comes from, and what became of it."""
    show(entry("serving.lineage:lineage")(arguments.of, settings_here()), as_json=arguments.json)
    return 0


def loop_demo(arguments: argparse.Namespace) -> int:
    """Show the whole loop: a release, traffic that changes, drift, feedback, a child, its experiment, a promotion."""
    from datetime import UTC, datetime

    from cluster import pipeline
    from cluster.jobfile import load_job

    settings, progress = settings_here(), progress_here()
    now = datetime.now(UTC)
    folder = entry("trainers.loop_demo:write_loop_demo")(f"loop-{now:%Y%m%d-%H%M%S}", settings, progress)
    result = pipeline.train(load_job(folder / "job.yaml", arguments.set), settings, progress, now)
    if result.version is None:
        progress.say(f"the gate said {result.gate.decision}, so there is nothing to serve")
        return EXIT_GATE
    shown = entry("serving.loop_demo:close_the_loop")(result.version, folder, settings, progress)
    show(shown, as_json=arguments.json)
    return 0 if shown.is_closed else 1


def _write(path: Path, page: str) -> None:
    path.write_text(page, encoding="utf-8")
    print(f"report: {path}", file=sys.stderr)


def _drift_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("endpoint", metavar="ENDPOINT", help="an endpoint that is or was served from this home")
    parser.add_argument("--report", type=page_file, metavar="FILE.html", help="write the comparison as a page, too")
    json_argument(parser)


def _retrain_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("endpoint", metavar="ENDPOINT", help="an endpoint that is served here, with log: text")
    parser.add_argument("--dry-run", action="store_true", help="show the rows and the gate, and do nothing")
    parser.add_argument("--finish", action="store_true", help="only finish a child that was begun before")
    parser.add_argument("--cause", default="asked for", metavar="TEXT", help="why, for the record (asked for)")
    override_arguments(parser)


def _watch_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("endpoint", metavar="ENDPOINT", help="an endpoint that is served here, with log: text")
    parser.add_argument(
        "--when", required=True, metavar="CONDITION", help='as "drift > 0.6 or new_rows >= 500 or every 30d"'
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--budget", type=a_day, default=1, metavar="N/day", help="most children in 24 hours (1/day)")
    parser.add_argument("--every", type=seconds, default=300.0, metavar="SECONDS", help="how often to look (300)")
    parser.add_argument("--once", action="store_true", help="look once and end, as for cron")
    json_argument(parser)


def _lineage_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("of", metavar="RELEASE|RUN", help="NAME@N, NAME@champion, a release's directory, or a run's id")
    json_argument(parser)


COMMANDS: tuple[Command, ...] = (
    Command("drift", "compare live prompts with what the release was trained on", _drift_arguments, drift),
    Command(
        "retrain",
        "train a child on what users said, and let it challenge the champion",
        _retrain_arguments,
        retrain,
    ),
    Command("watch", "retrain an endpoint whenever a condition holds", _watch_arguments, watch),
    Command(
        "loop-demo",
        "show the whole loop: a release, drift, feedback, a child that wins its experiment",
        override_arguments,
        loop_demo,
    ),
    Command("lineage", "show where a release comes from and what became of it", _lineage_arguments, lineage),
)
