"""The commands that keep machines, clusters and the store in order: doctor, gc, cluster render."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from cluster.arguments import days
from cluster.command import Command, emit, json_argument, settings_here
from cluster.errors import UsageError


def doctor(arguments: argparse.Namespace) -> int:
    """Look at this machine, and at the cluster behind an address."""
    from cluster.doctor import examine

    found = examine(settings_here(), os.environ, arguments.address)
    print(found.as_json() if arguments.json else "\n".join(found.text()))
    return 0 if found.ok else UsageError.exit_code


def gc(arguments: argparse.Namespace) -> int:
    """Show what may go by its age, or remove it."""
    from cluster.gc import clean
    from cluster.profile_file import load_profile
    from cluster.profile_spec import RetentionSpec

    retention = RetentionSpec() if arguments.profile is None else load_profile(arguments.profile).retention
    if arguments.keep_days is not None:
        days = arguments.keep_days
        retention = RetentionSpec(runs_days=days, checkpoints_days=days, caches_days=days)
    found = clean(settings_here(), retention, time.time(), remove=arguments.yes)
    emit(found, found.lines(), as_json=arguments.json)
    return 0


def cluster(arguments: argparse.Namespace) -> int:
    """Fill deployment templates with a cluster profile."""
    from cluster.deploy.render import KINDS, possible_kinds, render
    from cluster.profile_file import load_profile

    profile = load_profile(arguments.profile)
    kinds = possible_kinds(profile) if arguments.kind == "all" else [arguments.kind]
    texts = {
        f"{kind}.yaml": render(
            profile, kind, arguments.templates, allow_unauthenticated=arguments.allow_unauthenticated
        )
        for kind in kinds
    }
    if arguments.allow_unauthenticated:
        print("warning: nothing here makes sure that the cluster asks for a token", file=sys.stderr)
    if left := [kind for kind in KINDS if kind not in kinds and arguments.kind == "all"]:
        print(f"left out, for want of job, serve or cloud in the profile: {', '.join(left)}", file=sys.stderr)
    if arguments.out is None:
        print("---\n".join(texts.values()), end="")
        return 0
    written = [_write(arguments.out / name, text) for name, text in texts.items()]
    print(json.dumps({"files": written}) if arguments.json else "\n".join(written))
    return 0


def _write(file: Path, text: str) -> str:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}", "Give another --out.") from error
    return str(file)


def _gc_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yes", action="store_true", help="remove it; without, only say what would go")
    parser.add_argument("--keep-days", type=days, metavar="N", help="keep everything that is at most N days old")
    parser.add_argument("--profile", type=Path, metavar="PROFILE", help="a cluster profile, for its retention")
    json_argument(parser)


def _cluster_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("render",), help="render: write the files that make the cluster")
    parser.add_argument("profile", type=Path, metavar="PROFILE", help="the cluster profile, a YAML file")
    parser.add_argument(
        "--kind",
        choices=("raycluster", "rayjob", "rayservice", "ray-up", "all"),
        default="all",
        help="what to write (all that the profile says enough for)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write it (standard output)")
    parser.add_argument("--templates", type=Path, metavar="DIR", help="templates that take the place of ours")
    parser.add_argument(
        "--allow-unauthenticated",
        action="store_true",
        help="also write a cluster that runs code for whoever reaches it",
    )
    json_argument(parser)


def _doctor_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--address",
        metavar="ADDRESS",
        help="also a cluster: HOST:6379, or its dashboard http://HOST:8265 (RAY_ADDRESS)",
    )
    json_argument(parser)


COMMANDS: tuple[Command, ...] = (
    Command("doctor", "say what is wrong with this machine or a cluster, and the remedy", _doctor_arguments, doctor),
    Command("gc", "say what may go by its age, and with --yes remove it", _gc_arguments, gc),
    Command("cluster", "write the files that make a cluster out of a profile", _cluster_arguments, cluster),
)
