"""A job beside an endpoint: where it runs, what is left for it, and what is refused."""

from __future__ import annotations

import socket
from pathlib import Path

import psutil
import pytest

from cluster.capacity import Capacity, NodeCapacity
from cluster.cli import main
from cluster.errors import UsageError
from cluster.runs import Owner, start_mark
from cluster.session import Settings
from cluster.store import Store
from serving.deploy import _refuse_second  # pyright: ignore[reportPrivateUsage] (its caller needs a Ray)
from serving.keeper import CLUSTERS, Kept, beside

ADDRESS = "127.0.0.1:45678"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A home where this process is said to keep an endpoint."""
    settings = Settings.from_env({"HONE_HOME": str(tmp_path)}, tmp_path)
    pid = psutil.Process().pid
    kept = Kept(
        endpoint="support",
        url="http://127.0.0.1:8000",
        ray_address=ADDRESS,
        owner=Owner(host=socket.gethostname(), pid=pid, started=start_mark(pid) or ""),
        keys="",
        engine="transformers",
    )
    Store(settings.home).put_json(kept.model_dump(mode="json"), CLUSTERS, "support.json")
    return settings


def test_a_job_beside_an_endpoint_joins_its_ray(settings: Settings, tmp_path: Path):
    assert beside("support", settings).ray_address == ADDRESS
    with pytest.raises(UsageError, match="no endpoint 'other' runs here"):
        beside("other", settings)
    elsewhere = Settings.from_env({"HONE_HOME": str(tmp_path), "RAY_ADDRESS": "10.0.0.1:6379"}, tmp_path)
    with pytest.raises(UsageError, match=r"RAY_ADDRESS is 10\.0\.0\.1:6379"):
        beside("support", elsewhere)


def test_an_endpoint_that_does_not_run_is_named_before_anything_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HONE_HOME", str(tmp_path))
    job = tmp_path / "job.yaml"
    job.write_text("name: x\nbase: ./x\ndata: x.jsonl\n")
    (tmp_path / "x").mkdir()
    (tmp_path / "x.jsonl").write_text("{}")
    assert main(["train", str(job), "--beside", "support"]) == UsageError.exit_code


def test_what_an_endpoint_holds_is_not_handed_out_again():
    has = Capacity((NodeCapacity("a", 2.0, 1.0, 0), NodeCapacity("b", 4.0, 0.0, 0)))
    left = has.without({"a": (0.15, 0.66), "gone": (1.0, 1.0)})
    assert [(node.cpus, node.gpus) for node in left.nodes] == [(1.85, 0.34), (4.0, 0.0)]
    assert (has.slots(1, 0), left.slots(1, 0), left.slots(1, 1)) == (6, 5, 0)
    assert left.cpus_per_worker(1, 0) == 4
    assert Capacity(left.nodes[:1]).cpus_per_worker(1, 0) == 1


def test_one_ray_holds_one_endpoint():
    _refuse_second("support", {"support"})
    with pytest.raises(UsageError, match="the endpoint other runs in this Ray"):
        _refuse_second("support", {"support", "other"})
