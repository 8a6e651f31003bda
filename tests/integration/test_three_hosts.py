"""A job on machines that share nothing but a network: submitted over HTTP with a token, trained by ZeRO-3 across two of
them, one lost on the way, finished by the other, registered, and served by a third.

Every machine is a network namespace with an address and a host name of its own; storage and database answer on another
one.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pytest

from cluster.ports import LOOPBACK
from cluster.session import NO_TELEMETRY
from tests.hosts import Hosts, missing, running_hosts
from tests.postgres import running_server
from tests.s3 import running_s3
from tests.tiny import ticket_rows, write_base, write_jsonl

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

EVERY = 20
MACHINES = ("services", "head", "one", "two", "client")
PORT, DASHBOARD = 6379, 8265
ASK = (
    "import json, ray; ray.init(log_to_driver=False)\n"
    "for has in (ray.cluster_resources(), ray.available_resources()): print(json.dumps(has, sort_keys=True))"
)


@dataclass
class Lab:
    """The machines, what runs on them, and the environment that they all have."""

    hosts: Hosts
    folder: Path
    variables: dict[str, str]
    files: str
    """A directory of each machine's own lies there: a short path, since sockets are among Ray's files."""
    nodes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "GLOO_"))}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return kept | NO_TELEMETRY | self.variables | {"PATH": path}

    def start(self, machine: str, arguments: list[str], log: str, **variables: str) -> subprocess.Popen[bytes]:
        with self.hosts.inside(machine), (self.folder / log).open("wb") as out:
            return subprocess.Popen(
                self.hosts.command(machine, arguments), stdout=out, stderr=subprocess.STDOUT,
                env=self.environment() | variables, start_new_session=True,
            )  # fmt: skip

    def run(self, machine: str, arguments: list[str], **variables: str) -> str:
        with self.hosts.inside(machine):
            done = subprocess.run(
                self.hosts.command(machine, arguments), env=self.environment() | variables,
                capture_output=True, text=True, check=False, timeout=240,
            )  # fmt: skip
        assert done.returncode == 0, f"{arguments}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def hone(self, machine: str, *arguments: str) -> dict[str, Any]:
        said = self.run(machine, [sys.executable, "-m", "cluster.cli", *arguments, "--json"])
        return json.loads(said.strip().splitlines()[-1])

    def join(self, machine: str, cpus: int) -> None:
        """Start Ray on a machine: the head first."""
        address = self.hosts.addresses[machine]
        joins = ["--address", f"{self.hosts.addresses['head']}:{PORT}"]
        leads = ["--head", "--port", str(PORT), "--dashboard-host", address, "--dashboard-port", str(DASHBOARD)]
        command = [str(Path(sys.executable).with_name("ray")), "start", *(leads if machine == "head" else joins)]
        command += ["--node-ip-address", address, "--num-cpus", str(cpus), "--temp-dir", f"{self.files}/{machine}"]
        command += ["--object-store-memory", str(2**28), "--block"]
        self.nodes[machine] = self.start(machine, command, f"{machine}.log")
        self.until(lambda: "Ray runtime started" in (self.folder / f"{machine}.log").read_text(), machine)

    def lose(self, machine: str) -> None:
        """Take a machine away with everything that runs on it."""
        process = self.nodes.pop(machine)
        for one in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
            try:
                one.kill()
            except psutil.NoSuchProcess:
                continue
        process.wait()

    def until(self, what: Callable[[], Any], about: str, timeout_s: float = 180) -> Any:
        deadline = time.monotonic() + timeout_s
        while not (found := what()):
            assert time.monotonic() < deadline, f"{about}: nothing within {timeout_s} s"
            time.sleep(0.5)
        return found


@contextmanager
def lab(folder: Path) -> Iterator[Lab]:
    """Keep the machines up, with storage and a database, and a cluster whose two workers have a CPU each."""
    with ExitStack() as up:
        hosts = up.enter_context(running_hosts(MACHINES, folder))
        with hosts.inside("services"):
            database = up.enter_context(running_server(hosts.addresses["services"]))
            storage = up.enter_context(running_s3(hosts.addresses["services"]))
            home, db = storage.new_bucket(), database.new_database()
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
        files = up.enter_context(TemporaryDirectory(prefix="hone-", dir="/tmp"))
        made = Lab(hosts, folder, {"HONE_HOME": home, "HONE_DB": db, **storage.variables, **token}, files)
        try:
            for machine, cpus in (("head", 0), ("one", 1), ("two", 1)):
                made.join(machine, cpus)
            yield made
        finally:
            for machine in list(made.nodes):
                made.lose(machine)


def write_job(folder: Path) -> Path:
    write_base(folder / "base")
    write_jsonl(folder / "tickets.jsonl", ticket_rows(400))
    job = folder / "job.yaml"
    job.write_text(
        "name: tickets\nbase: ./base\ndata: tickets.jsonl\n"
        "train: {method: full, epochs: 15, learning_rate: 1.0e-3, batch_size: 16, max_length: 64, zero_stage: 3,\n"
        f"        eval_every: 100, early_stopping: null, checkpoint: {{every: {EVERY}}}}}\n"
        "cluster: {workers: {min: 1, max: 2, grow_every_s: 3600}, cpus_per_worker: 1, hang_timeout_s: 60}\n"
        "evaluate: {max_new_tokens: 8, batch_size: 64}\n"
    )
    return job


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_a_job_crosses_machines_survives_the_loss_of_one_and_is_served(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    with lab(tmp_path) as machines:
        url = f"http://{machines.hosts.addresses['head']}:{DASHBOARD}"
        sent = [part for name in machines.variables if name.startswith(("HONE_DB", "AWS_")) for part in ("--env", name)]
        submitted = machines.hone("client", "submit", str(job), "--address", url, "--yes", "--no-wait", *sent)
        run = submitted["run"]
        machines.until(lambda: is_training(machines, run), "training")
        machines.lose("two")
        ended = machines.until(lambda: ended_status(machines, run), "the end", 300)
        assert ended["state"] == "finished", (ended, machines.run("client", hone("logs", run)))
        both, one = placements(machines, run)[:2]
        addresses = {machines.hosts.addresses["one"], machines.hosts.addresses["two"]}
        assert {worker["address"] for worker in both["workers"]} == addresses
        assert len({worker["node"] for worker in both["workers"]}) == 2
        assert {worker["host"] for worker in both["workers"]} == {"one", "two"}
        assert both["group"].split(":")[0] in addresses
        assert [worker["host"] for worker in one["workers"]] == ["one"]
        assert "goes on after step" in machines.run("client", hone("logs", run))
        has, free = machines.run("one", [sys.executable, "-c", ASK], RAY_ADDRESS=head(machines)).strip().splitlines()
        assert json.loads(has)["CPU"] == 1.0
        assert has == free, "all that is left of the cluster is free"
        answers(machines, "tickets@1")


def hone(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "cluster.cli", *arguments]


def head(machines: Lab) -> str:
    return f"{machines.hosts.addresses['head']}:{PORT}"


def is_training(machines: Lab, run: str) -> bool:
    status = machines.hone("client", "status", run)
    assert status["state"] in ("waiting", "running"), (status, machines.run("client", hone("logs", run)))
    return status["step"] > EVERY


def ended_status(machines: Lab, run: str) -> dict[str, Any] | None:
    status = machines.hone("client", "status", run)
    return status if status["state"] in ("finished", "failed", "stopped") else None


def placements(machines: Lab, run: str) -> list[dict[str, Any]]:
    """What the run keeps of where its workers were, attempt by attempt."""
    code = "import sys; from cluster.store import Store; print(Store(sys.argv[1]).get_text(*sys.argv[2:]))"
    home = machines.variables["HONE_HOME"]
    return json.loads(machines.run("client", [sys.executable, "-c", code, home, "runs", run, "placements.json"]))


def answers(machines: Lab, release: str) -> None:
    """Serve a release on a machine that trained nothing, out of the storage, and let it answer."""
    up = machines.hone("client", "serve", release, "--endpoint", "tickets", "--detach")
    try:
        assert up["url"].startswith(f"http://{LOOPBACK}:")
        asked = {"messages": [{"role": "user", "content": "please help the invoice"}], "max_tokens": 4}
        code = (
            "import sys, httpx; answer = httpx.post(sys.argv[1], content=sys.argv[2], timeout=60);"
            "assert answer.status_code == 200, answer.text; print(answer.json()['choices'][0]['message']['content'])"
        )
        said = machines.run(
            "client", [sys.executable, "-c", code, f"{up['url']}/v1/chat/completions", json.dumps(asked)]
        )
        assert said.strip() == "billing"
    finally:
        machines.hone("client", "stop", "tickets")
