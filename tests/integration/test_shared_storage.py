"""A whole job whose home is an S3 server and whose tables are PostgreSQL's: nothing of it needs this machine's disk."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from cluster import places
from cluster.errors import StoreError
from cluster.local_cluster import host, local_cluster
from cluster.manifest import content_hash
from cluster.places import local_directory
from cluster.ports import free_port
from cluster.preflight import refuse_unreachable
from cluster.session import Settings
from cluster.store import Store
from serving.engine import open_engine
from serving.load import load
from serving.releases import served
from tests.integration.test_main_job import job_file, run_json
from tests.postgres import PostgresServer
from tests.s3 import S3Server

pytestmark = pytest.mark.usefixtures("ray_cluster")


@dataclass(frozen=True)
class Away:
    """A home at a URL, and the directory of the node that uses it."""

    settings: Settings
    node: Path
    monkeypatch: pytest.MonkeyPatch

    @property
    def store(self) -> Store:
        return Store(self.settings.home)

    def on_another_node(self, name: str = "another node") -> None:
        """Go on from where nothing is cached, by this process neither."""
        places._brought.cache_clear()
        self.monkeypatch.setenv("HOME", str(self.node / name))


@pytest.fixture
def away(s3: S3Server, postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Away:
    monkeypatch.setenv("HONE_HOME", s3.new_bucket())
    monkeypatch.setenv("HONE_DB", postgres.new_database())
    monkeypatch.setenv("HOME", str(tmp_path / "node"))
    return Away(Settings.here(), tmp_path, monkeypatch)


def test_a_run_stops_goes_on_elsewhere_and_its_release_is_served_from_the_store_alone(
    away: Away, tiny_base: Path, tickets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    job = job_file(tmp_path, base, tickets, method="lora", learning_rate=1e-2, zero_stage=2, epochs=2, eval_every=0.5)
    text = job.read_text() + "tracking: [mlflow, tensorboard]\n"
    job.write_text(text.replace("workers: 2}", "workers: 2, max_hours: 1.0e-6}"))
    code, _, told = run_json(capsys, "train", str(job))
    assert code == 1, told
    assert "max_hours" in told
    (run,) = away.store.list("runs")
    assert away.store.list("runs", run, "checkpoints")
    shutil.rmtree(base)

    away.on_another_node()
    code, result, told = run_json(capsys, "resume", run, "--set", "cluster.max_hours=1")
    assert code == 0, told
    assert "goes on after step 1" in told
    assert (result["version"], result["release"]) == ("tickets@1", away.store.path("runs", run, "release"))
    assert {"train", "release", "result.json", "report.html", "tensorboard"} <= set(away.store.list("runs", run))
    assert "checkpoints" not in away.store.list("runs", run)
    curve = (away.store.reading("runs", run, "train") / "history.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in curve if "learning_rate" in json.loads(line)]
    assert steps == list(range(1, result["steps"] + 1))

    away.on_another_node("a third node")
    release = served("tickets@1", away.settings)
    hashed = content_hash(tiny_base)
    assert (release.directory, release.base) == (result["release"], away.store.path("bases", hashed))
    about = json.loads(away.store.get_text("runs", run, "release", "release.json"))
    assert about["base_hash"] == hashed
    base_here = local_directory(release.base or "")
    tuned, plain = load(local_directory(release.directory), base=base_here), load(base_here)
    probe = torch.tensor([[5, 60, 7, 8, 90, 11]])
    with torch.no_grad():
        assert not torch.equal(tuned.model(input_ids=probe).logits, plain.model(input_ids=probe).logits)
    open_engine(release.directory, base=release.base).close()
    code, scored, told = run_json(capsys, "evaluate", "tickets@1", "--data", str(tickets), "--max-new-tokens", "8")
    assert code == 0, told
    assert scored["rows"] == 600


def test_a_sweep_searches_and_its_winner_lies_in_the_store(
    away: Away, tiny_base: Path, tickets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = job_file(tmp_path, tiny_base, tickets, epochs=1, eval_every=0.5)
    space = "{train.learning_rate: 'loguniform(1e-3, 1e-2)'}"
    job.write_text(job.read_text() + f"sweep: {{trials: 2, finalists: 1, workers: 1, space: {space}}}\n")
    code, result, told = run_json(capsys, "sweep", str(job))
    assert code in (0, 3), told
    assert (result["trials"], result["failed"]) == (2, 0)
    trials = away.store.list("runs", result["run"], "trials")
    assert len(trials) == 2
    for trial in trials:
        assert {"history.jsonl", "trial.json"} <= set(away.store.list("runs", result["run"], "trials", trial))
    assert away.store.is_committed("runs", result["run"], "release")
    assert "sweep.html" in away.store.list("runs", result["run"])


def test_storage_that_a_node_cannot_use_is_named_with_the_node_before_a_run_starts(away: Away, s3: S3Server) -> None:
    import ray

    refuse_unreachable(away.settings)
    assert away.store.list("preflight") == []
    (node,) = [node for node in ray.nodes() if node["Alive"]]
    wrong = Settings(away.settings.home, "postgresql+psycopg://hone@127.0.0.1:9/none", "sqlite:///x")
    with pytest.raises(StoreError, match=f"1 of 1 nodes.*{node['NodeID'][:12]}.*127.0.0.1.*database refused"):
        refuse_unreachable(wrong)
    with s3.without_rights(), pytest.raises(StoreError, match="Access Key"):
        refuse_unreachable(away.settings)


LOOKS = (
    "import sys; from cluster.preflight import refuse_unreachable; from cluster.session import Settings, ray_session\n"
    "settings = Settings(sys.argv[1], None, 'sqlite:///x')\n"
    "with ray_session(address=sys.argv[2]): refuse_unreachable(settings)"
)


def test_of_several_nodes_the_one_that_cannot_is_named(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with local_cluster(tmp_path, [1], with_dashboard=False) as nodes:
        with monkeypatch.context() as away:
            away.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
            nodes.start(1)
        looked = subprocess.run(
            [sys.executable, "-c", LOOKS, s3.new_bucket(), nodes.address],
            env=os.environ | nodes.variables,
            capture_output=True,
            text=True,
        )
    assert "StoreError" in looked.stderr, looked.stderr
    assert "1 of 2 nodes cannot use s3://" in looked.stderr
    assert f"({host(2)}): the storage refused" in looked.stderr
    assert f"({host(1)})" not in looked.stderr
