"""Jobs submitted over HTTP to a cluster of two nodes with a token: followed, queued, stopped, resumed, lost and found.

One cluster for all; every command is a process of its own, as a user's is.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster.local_cluster import LocalCluster, local_cluster
from cluster.ports import free_port
from tests.tiny import ticket_rows, write_base, write_jsonl

pytestmark = pytest.mark.integration

EVERY = 20


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str
    took_s: float

    def json(self) -> dict[str, Any]:
        return json.loads(self.out.strip().splitlines()[-1])


@dataclass(frozen=True)
class Client:
    """A user's shell on this machine."""

    job: Path
    home: Path
    cluster: LocalCluster

    def hone(self, *arguments: str, **variables: str) -> Done:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment |= {"HONE_HOME": str(self.home), "RAY_AUTH_TOKEN": self.cluster.token} | variables
        began_s = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "cluster.cli", *arguments],
            env=environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=240,
        )
        return Done(done.returncode, done.stdout, done.stderr, time.monotonic() - began_s)

    def submit(self, *arguments: str, address: str = "", **variables: str) -> Done:
        given = ["--address", address or self.cluster.url, "--yes", *arguments]
        return self.hone("submit", str(self.job), *given, **variables)

    def submitted(self, *arguments: str) -> str:
        done = self.submit("--no-wait", *arguments)
        assert done.code == 0, done.err
        return done.out.strip().splitlines()[-1]

    def status(self, run: str) -> dict[str, Any]:
        done = self.hone("status", run, "--json")
        assert done.code == 0, done.err
        return done.json()

    def until(self, run: str, what: Any, timeout_s: float = 120) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        while not what(status := self.status(run)):
            log = self.hone("logs", run).out
            assert status["state"] not in ("failed", "finished"), (status, log)
            assert time.monotonic() < deadline, (status, log)
            time.sleep(0.3)
        return status


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("submit")
    write_base(folder / "base")
    write_jsonl(folder / "tickets.jsonl", ticket_rows(300))
    job = folder / "job.yaml"
    job.write_text(
        "name: tickets\nbase: ./base\ndata: {train: tickets.jsonl, split: {test: 0.0}}\n"
        "train: {method: full, epochs: 150, learning_rate: 1.0e-4, batch_size: 16, max_length: 64, zero_stage: 2,\n"
        f"        eval_every: 1000, early_stopping: null, checkpoint: {{every: {EVERY}}}}}\n"
        "cluster: {workers: 2, hang_timeout_s: 60}\n"
    )
    with local_cluster(folder, [1, 1]) as cluster:
        yield Client(job, folder / "home", cluster)


@pytest.fixture(scope="module")
def stopped(client: Client) -> str:
    """A run that was stopped with a checkpoint while it trained, after another one had waited for its room."""
    run = client.submitted()
    client.until(run, lambda status: status["step"] > EVERY)
    queued = client.submitted()
    waiting = client.until(queued, lambda status: "waiting for" in status["why"])
    assert waiting["state"] == "waiting"
    assert waiting["why"] == "waiting for 2 CPUs, 0 free"
    assert client.hone("stop", queued).code == 0
    client.until(queued, lambda status: status["state"] == "stopped")
    assert client.hone("stop", run, "--json").json()["state"] == "stopping"
    client.until(run, lambda status: status["state"] == "stopped")
    return run


def test_a_job_without_a_token_or_with_a_wrong_one_is_refused_in_a_line(client: Client, tmp_path: Path) -> None:
    missing = client.submit(RAY_AUTH_TOKEN="", HOME=str(tmp_path))
    wrong = client.submit(RAY_AUTH_TOKEN="0" * 32)
    assert (missing.code, wrong.code) == (2, 2)
    assert missing.err.startswith(f"error: the head at {client.cluster.url} asks for a token, and none is set here\n")
    assert wrong.err.startswith(f"error: the head at {client.cluster.url} does not take the token that is set here\n")
    assert max(len(done.err.splitlines()) for done in (missing, wrong)) == 2
    assert not (client.home / "runs").exists()


def test_a_head_that_does_not_answer_is_told_within_ten_seconds(client: Client) -> None:
    nobody = client.submit(address=f"http://127.0.0.1:{free_port()}")
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        mute = client.submit(address=f"http://127.0.0.1:{silent.getsockname()[1]}")
    for done in (nobody, mute):
        assert done.code == 2
        assert "does not answer" in done.err.splitlines()[0]
        assert len(done.err.splitlines()) == 2
        assert done.took_s < 10
    assert "Connection refused" in nobody.err
    assert "nothing came back in time" in mute.err


def test_a_job_that_cannot_fit_is_refused_with_numbers(client: Client) -> None:
    done = client.submit("--set", "cluster.workers=3")
    assert done.code == 4
    assert "3 workers" in done.err
    assert "2 CPUs" in done.err
    assert not (client.home / "runs").exists()


def test_a_stopped_run_goes_on_from_its_checkpoint_to_its_end(client: Client, stopped: str) -> None:
    step = client.status(stopped)["step"]
    done = client.hone("resume", stopped, "--json")
    assert done.code == 0, done.err
    result = done.json()
    assert result["run"] == stopped
    assert result["steps"] == 2550
    found = [line for line in done.err.splitlines() if "goes on after step" in line]
    begins = int(found[0].split("goes on after step")[1].split()[0].strip(";,."))
    assert abs(begins - step) <= EVERY, "a status is a second old at most"
    assert f"  hone status {stopped}" in done.err


def test_a_list_shows_every_run_and_where_it_ran(client: Client, stopped: str) -> None:
    listed = {run["run"]: run for run in client.hone("list", "--json").json()["runs"]}
    assert listed[stopped]["where"] == client.cluster.url
    assert len(listed) == 2


def test_a_run_whose_cluster_was_lost_says_so_and_is_submitted_again(client: Client) -> None:
    run = client.submitted()
    client.until(run, lambda status: status["step"] > 2 * EVERY)
    client.cluster.close()
    lost = client.status(run)
    assert "does not answer" in lost["why"]
    assert client.hone("logs", run).out.count("step") > 0
    client.cluster.start_again([1, 1])
    assert "knows it no more" in client.status(run)["why"]
    done = client.hone("resume", run, "--no-wait", "--json")
    assert done.code == 0, done.err
    assert done.json()["attempt"] == 2
    client.until(run, lambda status: status["step"] > lost["step"])
    assert client.hone("stop", run, "--now", "--json").json()["state"] == "stopped"
    assert client.status(run)["state"] == "stopped"
