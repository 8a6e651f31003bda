"""A cluster of two Ray nodes with a token: the doctor asks each, and a node that will be taken away is drained."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.ports import free_port
from tests.faults.conftest import leaving_nothing_behind
from tests.faults.ray_nodes import ENVIRONMENT, RayNodes, host, ray_nodes

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def python(nodes: RayNodes, home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | ENVIRONMENT | nodes.variables | {"HONE_HOME": str(home)} | variables
    return subprocess.run(
        [sys.executable, "-m", *arguments], env=env, capture_output=True, text=True, check=False, timeout=120
    )


def test_nodes_are_asked_one_by_one_and_drained_when_their_machine_goes(tmp_path: Path):
    with leaving_nothing_behind(), ray_nodes(tmp_path, free_port(), [1]) as nodes:
        asked = python(nodes, tmp_path, "cluster.cli", "doctor", "--json", "--address", nodes.address)
        assert asked.returncode == 0, asked.stdout + asked.stderr
        lines = json.loads(asked.stdout.splitlines()[-1])["lines"]
        found = {line["check"]: line for line in lines}
        assert found["nodes"]["state"] == "ok"
        assert found["nodes"]["found"].startswith("2 alike")
        assert found["clocks"]["state"] == "ok"

        wrong = {"RAY_AUTH_TOKEN": "0" * 32}
        refused = python(nodes, tmp_path, "cluster.cli", "doctor", "--json", "--address", nodes.address, **wrong)
        assert refused.returncode == 2, refused.stdout
        failed = [line for line in json.loads(refused.stdout.splitlines()[-1])["lines"] if line["state"] == "failure"]
        assert [line["check"] for line in failed] == ["cluster"]
        assert "oken" in failed[0]["found"] + failed[0]["remedy"]

        drained = python(nodes, tmp_path, "cluster.drain", "--seconds", "40", "--ip", host(1))
        assert drained.returncode == 0, drained.stderr
        assert f"{host(1)}: ended" in drained.stderr
        again = python(nodes, tmp_path, "cluster.drain", "--seconds", "40", "--ip", host(1))
        assert again.returncode == 0, again.stderr
