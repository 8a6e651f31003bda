"""One real Ray, in a process of its own: who can reach it, what it says, and what it leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

DRIVER = '''
import json, os, signal, sys
import psutil
from cluster.session import cluster_capacity, ray_session

def on_terminate(number, frame):
    pass

signal.signal(signal.SIGTERM, on_terminate)
def listening(process):
    try:
        return [c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    except (psutil.NoSuchProcess, FileNotFoundError):  # ended while it was looked at, as idle workers do
        return []

KNOCK = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1]).get_all_node_info(timeout=5)"
def knock(env):
    """Whether a process with another token, or none, is answered."""
    import subprocess
    import ray
    address = ray.get_runtime_context().gcs_address
    done = subprocess.run([sys.executable, "-c", KNOCK, address], env=os.environ | env, capture_output=True)
    return done.returncode == 0

before = dict(os.environ)
with ray_session(num_cpus=2, worker_env={"OMP_NUM_THREADS": "3"}):
    import ray

    @ray.remote(num_cpus=1)
    def in_worker():
        import logging, warnings
        print("a worker prints")
        logging.getLogger("ray.train").warning("a worker warns")
        warnings.warn("a worker warns otherwise")
        return os.environ["OMP_NUM_THREADS"]

    found = {"threads": ray.get([in_worker.remote(), in_worker.remote()])}
    capacity = cluster_capacity()
    with ray_session(num_cpus=7):
        found["nested"] = cluster_capacity() == capacity
    found["outer_lives"] = ray.is_initialized()
    found["strangers"] = [knock(env) for env in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "0" * 64}, {})]
    found["handler_kept"] = signal.getsignal(signal.SIGTERM) is on_terminate
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    addresses = {ip for process in family for ip in listening(process)}
    found["processes"] = [p.pid for p in family[1:]]
found["addresses"] = sorted(addresses)
found["capacity"] = [len(capacity.nodes), capacity.cpus, capacity.gpus, capacity.nodes[0].memory_bytes]
found["env_changes"] = sorted(k for k in {*before, *os.environ} if before.get(k) != os.environ.get(k))
found["total_memory"] = psutil.virtual_memory().total
found["alive"] = ray.is_initialized()
print(json.dumps(found))
'''


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("cwd")
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", DRIVER], cwd=cwd, env=env, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]) | {"printed": done.stdout.splitlines()[:-1], "errors": done.stderr}


def test_nothing_is_printed(session):
    assert session["printed"] == []
    assert session["errors"] == ""


def test_nothing_listens_beyond_loopback(session):
    assert set(session["addresses"]) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    assert session["addresses"]


def test_workers_have_the_environment_they_are_given(session):
    assert session["threads"] == ["3", "3"]


def test_whoever_has_not_the_users_token_is_not_answered(session):
    without, with_another, with_it = session["strangers"]
    assert (without, with_another, with_it) == (False, False, True)


def test_capacity_is_what_the_session_was_given(session):
    nodes, cpus, gpus, memory_bytes = session["capacity"]
    assert (nodes, cpus) == (1, 2)
    assert gpus >= 0
    assert 0 < memory_bytes < session["total_memory"]


def test_a_session_within_a_session_is_the_outer_one(session):
    assert session["nested"]
    assert session["outer_lives"]


def test_a_callers_handler_of_sigterm_is_kept(session):
    assert session["handler_kept"]


def test_the_environment_is_given_back(session):
    """But for three variables that Ray itself sets and leaves."""
    assert set(session["env_changes"]) <= {"RAY_AUTH_MODE", "RAY_CLIENT_MODE", "PYTHONBREAKPOINT"}


def test_no_process_is_left(session):
    assert not session["alive"]
    assert [pid for pid in session["processes"] if Path(f"/proc/{pid}").exists()] == []
