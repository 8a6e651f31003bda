"""A Ray cluster of several nodes on this machine, for trying what needs one: each has a loopback address of its own.

Whoever talks to it needs its token, and its dashboard, where jobs are submitted, listens on the loopback interface.
(Ray's inner ports listen on every interface for any address but 127.0.0.1, of which there is only one; they ask for the
token too.) It keeps its files in a directory of its own, so that no other Ray on the machine is taken for it, and is
gone with everything it started when the block ends. The head has no CPUs: workers run on the nodes beside it. Left out:
any cluster that shall outlive the program that made it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from cluster.errors import RunFailed, UsageError
from cluster.ports import free_port
from cluster.session import NO_TELEMETRY, OWN_RAY

RAY = str(Path(sys.executable).with_name("ray"))
STARTS_S = 90
OBJECT_STORE_BYTES = 2**28
STARTED = "Ray runtime started"
ENVIRONMENT = {
    **NO_TELEMETRY,
    **OWN_RAY,
    # Several nodes are refused without; addresses other than 127.0.0.1 are kept as they are given.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


@dataclass
class LocalCluster:
    """A head and its nodes; ``folder`` holds what they print, ``with_dashboard`` brings the Jobs interface."""

    folder: Path
    with_dashboard: bool = True
    port: int = field(default_factory=free_port)
    dashboard_port: int = field(default_factory=free_port)
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    _nodes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    _files: Path | None = None

    @property
    def address(self) -> str:
        """Where a driver joins."""
        return f"{host(0)}:{self.port}"

    @property
    def url(self) -> str:
        """Where jobs are submitted."""
        return f"http://{host(0)}:{self.dashboard_port}"

    @property
    def secret(self) -> dict[str, str]:
        """What a client needs in its environment."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}

    @property
    def variables(self) -> dict[str, str]:
        """What a driver that joins needs in its environment."""
        return {"RAY_ADDRESS": self.address, **self.secret}

    @property
    def environment(self) -> dict[str, str]:
        """The whole environment of the cluster's own processes, in which `python` is this one."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        return {**os.environ, **ENVIRONMENT, **self.variables, "PATH": path}

    def start(self, cpus: int) -> int:
        """Start the head (the first), or a node that joins it; return its number. Raises RunFailed."""
        number = len(self._nodes)
        log = self.folder / f"node-{number}.log"
        command = [RAY, "start", *(self._join() if number else self._head()), "--node-ip-address", host(number)]
        command += ["--num-cpus", str(cpus), "--dashboard-agent-listen-port", str(free_port()), "--block"]
        # A directory a node: Ray unpacks a job's code anew on each, over what another one runs in where they share one.
        command += ["--temp-dir", str(self._folder() / str(number))]
        command += [] if number else ["--ray-client-server-port", str(free_port())]
        with log.open("wb") as out:
            self._nodes[number] = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, env=self.environment, start_new_session=True
            )
        deadline = time.monotonic() + STARTS_S
        while STARTED not in log.read_text(errors="replace"):
            if self._nodes[number].poll() is not None or time.monotonic() > deadline:
                raise RunFailed(f"Ray did not start on {host(number)}", f"See {log}.")
            time.sleep(0.1)
        return number

    def kill(self, number: int) -> None:
        """Lose a node with everything that runs on it."""
        process = self._nodes[number]
        with suppress(psutil.NoSuchProcess):
            for one in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
        process.wait()

    def start_again(self, cpus: Sequence[int]) -> None:
        """Start a new head and nodes in place of lost ones: same address and token, and no memory of what ran."""
        self.close()
        self._nodes.clear()
        for number in (0, *cpus):
            self.start(number)

    def close(self) -> None:
        """Lose all nodes that are left, and remove their files."""
        for number, process in reversed(self._nodes.items()):
            if process.poll() is None:
                self.kill(number)
        if self._files is not None:
            shutil.rmtree(self._files, ignore_errors=True)
            self._files = None

    def _folder(self) -> Path:
        """Return where Ray keeps its files; sockets too, whose paths may have 107 characters: a short one."""
        if self._files is None:
            self._files = Path(tempfile.mkdtemp(prefix="hone-ray-", dir="/tmp"))
        return self._files

    def _head(self) -> list[str]:
        options = ["--head", "--port", str(self.port), "--object-store-memory", str(OBJECT_STORE_BYTES)]
        if not self.with_dashboard:
            return [*options, "--include-dashboard", "false"]
        return [*options, "--dashboard-host", host(0), "--dashboard-port", str(self.dashboard_port)]

    def _join(self) -> list[str]:
        return ["--address", self.address, "--object-store-memory", str(OBJECT_STORE_BYTES)]


def host(number: int) -> str:
    """Return the loopback address of a node."""
    return f"127.0.0.{number + 2}"


@contextmanager
def local_cluster(folder: Path, cpus: Sequence[int], *, with_dashboard: bool = True) -> Generator[LocalCluster]:
    """Keep a cluster up whose nodes beside the head have that many CPUs.

    Raises UsageError where this machine has no such addresses, RunFailed where Ray does not start.
    """
    _refuse_single_loopback(len(cpus))
    nodes = LocalCluster(folder, with_dashboard)
    try:
        nodes.start_again(cpus)
        yield nodes
    finally:
        nodes.close()


def _refuse_single_loopback(nodes: int) -> None:
    """On Linux all of 127.0.0.0/8 is this machine; elsewhere further addresses have to be made first."""
    try:
        with closing(socket.socket()) as knock:
            knock.bind((host(nodes), 0))
    except OSError as error:
        remedy = f"On macOS: sudo ifconfig lo0 alias {host(0)} up, and so on to {host(nodes)}."
        raise UsageError(f"{host(nodes)} is no address of this machine", remedy) from error
