"""Several Ray nodes on this machine, each with a loopback address of its own, that can be lost and added."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from cluster.session import NO_TELEMETRY, OWN_RAY

RAY = str(Path(sys.executable).with_name("ray"))
STARTS_S = 60
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
class RayNodes:
    """A head without CPUs, and nodes with some; ``port`` is the head's."""

    port: int
    folder: Path
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    _nodes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """Where the head listens."""
        return f"{host(0)}:{self.port}"

    @property
    def variables(self) -> dict[str, str]:
        """What a command that joins needs in its environment."""
        return {"RAY_ADDRESS": self.address, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}

    def start(self, cpus: int) -> int:
        """Start the head (the first), or a node that joins it; return its number."""
        number = len(self._nodes)
        joins = ["--address", self.address] if number else ["--head", "--port", str(self.port)]
        command = [RAY, "start", *joins, "--node-ip-address", host(number), "--num-cpus", str(cpus), "--block"]
        log = self.folder / f"node-{number}.log"
        with log.open("wb") as out:
            self._nodes[number] = subprocess.Popen(
                [*command, *(["--include-dashboard", "false"] if not number else [])],
                stdout=out,
                stderr=subprocess.STDOUT,
                env=os.environ | ENVIRONMENT | self.variables,
                start_new_session=True,
            )
        deadline = time.monotonic() + STARTS_S
        while "Ray runtime started" not in log.read_text():
            assert self._nodes[number].poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        return number

    def kill(self, number: int) -> None:
        """Lose a node with everything that runs on it."""
        process = self._nodes[number]
        below = psutil.Process(process.pid).children(recursive=True)
        for one in [psutil.Process(process.pid), *below]:
            with_it_gone(one)
        process.wait()

    def drain(self, number: int, seconds: int) -> None:
        """Announce that a node will be taken away, as a cloud does for its spot machines."""
        listed = f"import ray; ray.init(address={self.address!r}, log_to_driver=False); print(*ray.nodes(), sep='\\n')"
        found = self._run([sys.executable, "-c", listed]).splitlines()
        (node,) = (line.split("'")[3] for line in found if f"'{host(number)}'" in line)
        reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
        deadline = ["--deadline-remaining-seconds", str(seconds)]
        self._run([RAY, "drain-node", "--address", self.address, "--node-id", node, *reason, *deadline])

    def _run(self, command: list[str]) -> str:
        environment = os.environ | ENVIRONMENT | self.variables
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

    def close(self) -> None:
        """Lose all nodes that are left."""
        for number, process in reversed(self._nodes.items()):
            if process.poll() is None:
                self.kill(number)


def host(number: int) -> str:
    """Return the loopback address of a node."""
    return f"127.0.0.{number + 2}"


def with_it_gone(process: psutil.Process) -> None:
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return


@contextmanager
def ray_nodes(folder: Path, port: int, cpus: list[int]) -> Generator[RayNodes]:
    """Keep a cluster up whose nodes beside the head have that many CPUs."""
    nodes = RayNodes(port, folder)
    try:
        nodes.start(0)
        for number in cpus:
            nodes.start(number)
        yield nodes
    finally:
        nodes.close()
