"""A cluster of two Ray nodes with a token: the doctor asks head and nodes, and a node whose machine goes is drained."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.local_cluster import LocalCluster, host, local_cluster

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def python(nodes: LocalCluster, home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = nodes.environment | {"HONE_HOME": str(home)} | variables
    return subprocess.run(
        [sys.executable, "-m", *arguments], env=env, capture_output=True, text=True, check=False, timeout=120
    )


def doctor(nodes: LocalCluster, home: Path, address: str, exits: int = 0, **variables: str) -> dict[str, Any]:
    """What the doctor says, the worst line of each check."""
    asked = python(nodes, home, "cluster.cli", "doctor", "--json", "--address", address, **variables)
    assert asked.returncode == exits, asked.stdout + asked.stderr
    lines = json.loads(asked.stdout.splitlines()[-1])["lines"]
    return {line["check"]: line for line in sorted(lines, key=lambda line: line["state"] == "failure")}


def test_nodes_are_asked_one_by_one_and_drained_when_their_machine_goes(tmp_path: Path):
    wrong = {"RAY_AUTH_TOKEN": "0" * 32}
    with local_cluster(tmp_path, [1]) as nodes:
        found = doctor(nodes, tmp_path, nodes.address)
        assert found["nodes"]["found"].startswith("2 alike")
        assert found["clocks"]["state"] == "ok"
        found = doctor(nodes, tmp_path, nodes.address, exits=2, **wrong)
        assert "token" in found["cluster"]["remedy"]

        found = doctor(nodes, tmp_path, nodes.url)
        assert "takes this one" in found["token"]["found"]
        assert "1 CPUs, 0 GPUs for workers" in found["nodes"]["found"]
        found = doctor(nodes, tmp_path, nodes.url, exits=2, **wrong)
        assert "refuses this token" in found["token"]["found"]

        for said in (f"{host(1)}: ended", f"{host(1)}: ended"):  # the second finds nothing to do
            drained = python(nodes, tmp_path, "cluster.drain", "--seconds", "40", "--ip", host(1))
            assert drained.returncode == 0, drained.stderr
            assert said in drained.stderr
