"""`make cluster-demo`: a cluster of two nodes on this machine, and what a user far from it would type.

Two small versions of the demo's job are submitted over HTTP with a token: one is followed to its end, the other is
stopped with a checkpoint and resumed. Every step is the command itself, printed before it runs. The cluster is taken
down whatever happens.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.command import entry, progress_here, settings_here
from cluster.errors import HoneError, RunFailed
from cluster.local_cluster import local_cluster

SMALL = ("--set", "sweep=null", "--set", 'gate=["accuracy >= base"]')
LONGER = (*SMALL, "--set", "train.epochs=4", "--set", "train.checkpoint={every: 20}")
SHORTER = (*SMALL, "--set", "train.epochs=2")
STARTS_S = 150
ENDS_S = 300
LOOK_EVERY_S = 1.0


@dataclass(frozen=True)
class Shell:
    """A user's shell: its environment, and every command shown before it runs."""

    environment: dict[str, str]

    def run(self, *words: str, expected: Sequence[int] = (0,)) -> None:
        """Run a command, its output on ours. Raises RunFailed for an exit code that was not expected."""
        self._show(words)
        done = subprocess.run(self._command(words), env=self.environment, check=False)
        self._refuse(words, done.returncode, expected)

    def answer(self, *words: str, shown: bool = True) -> str:
        """Run a command and return its last line of output."""
        if shown:
            self._show(words)
        done = subprocess.run(
            self._command(words), env=self.environment, check=False, stdout=subprocess.PIPE, text=True
        )
        self._refuse(words, done.returncode, (0,))
        return done.stdout.strip().splitlines()[-1]

    def _show(self, words: Sequence[str]) -> None:
        print(f"\n$ {shlex.join(words)}", flush=True)

    def _command(self, words: Sequence[str]) -> list[str]:
        assert words[0] == "hone", "only our own commands are run"
        return [sys.executable, "-m", "cluster.cli", *words[1:]]

    def _refuse(self, words: Sequence[str], code: int, expected: Sequence[int]) -> None:
        if code not in expected:
            raise RunFailed(f"{shlex.join(words)} ended with {code}", "The lines above say why.")


def demo() -> None:
    """Show a cluster's whole use. Raises the HoneError of what failed."""
    began_s = time.monotonic()
    settings, progress = settings_here(), progress_here()
    job = str(entry("trainers.demo:write_demo")(settings, progress, method="full", overrides=()))
    with tempfile.TemporaryDirectory(prefix="hone-cluster-") as place:
        progress.say("cluster-demo: starting a head and two nodes of one CPU each, with a token")
        with local_cluster(Path(place), [1, 1]) as cluster:
            secret = Path(place, "token")
            secret.touch(mode=0o600)
            secret.write_text(cluster.token)
            print(f"\n$ export RAY_AUTH_TOKEN_PATH={secret}", flush=True)
            environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
            shell = Shell(environment | {"HONE_HOME": settings.home, "RAY_AUTH_TOKEN_PATH": str(secret)})
            _steps(shell, job, ["--address", cluster.url])
    progress.say(f"\ncluster-demo: done in {time.monotonic() - began_s:.0f} s")


def _steps(shell: Shell, job: str, address: list[str]) -> None:
    shell.run("hone", "submit", job, *address, "--yes", *SHORTER)
    run = shell.answer("hone", "submit", job, *address, "--yes", "--no-wait", *LONGER)
    print(run)
    _until(shell, run, "it trains", lambda status: status["step"] > 0, STARTS_S)
    shell.run("hone", "status", run)
    shell.run("hone", "stop", run)
    _until(shell, run, "it has stopped", lambda status: status["state"] == "stopped", ENDS_S)
    shell.run("hone", "logs", run)
    shell.run("hone", "status", run)
    shell.run("hone", "resume", run)
    shell.run("hone", "list")


def _until(shell: Shell, run: str, what: str, is_so: Callable[[dict[str, Any]], bool], within_s: float) -> None:
    """Wait until a run's status is as it should be."""
    deadline = time.monotonic() + within_s
    while True:
        status = json.loads(shell.answer("hone", "status", run, "--json", shown=False))
        if is_so(status):
            return
        if status["state"] in ("failed", "finished") or time.monotonic() > deadline:
            raise RunFailed(f"{run} is {status['state']} ({status['why']}) where {what} was expected")
        time.sleep(LOOK_EVERY_S)


def main() -> int:
    """Run the demo and return its exit code."""
    try:
        demo()
    except HoneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
