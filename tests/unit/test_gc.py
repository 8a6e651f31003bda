"""What goes and what never does, on a store and a registry as runs leave them."""

from __future__ import annotations

import json
import os
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cluster.cli import main
from cluster.errors import StoreError
from cluster.gc import clean
from cluster.profile_spec import RetentionSpec
from cluster.records import RunStatus
from cluster.registry import Registry
from cluster.retention import Thing, leaving
from cluster.runs import RUNS, claim_run, new_run_id, write_status
from cluster.session import Settings
from cluster.store import Store

NOW = datetime(2026, 3, 1, tzinfo=UTC)
RETENTION = RetentionSpec(runs_days=30, checkpoints_days=7, caches_days=10)
DAY_S = 86_400


class Home:
    """A store with runs of any age."""

    def __init__(self, root: Path, url: str | None = None) -> None:
        self.settings = Settings.from_env({"HONE_HOME": str(root)}, root)
        self.store = Store(url or str(root))
        self.registry = Registry(self.settings)
        self.root = root

    def run(self, name: str, *, state: str = "finished", base: str = "org/base", data: str = "d" * 32) -> str:
        run = new_run_id(name, NOW, os.urandom(2))
        source = f"{self.root}/inputs/{data.upper()}/rows.jsonl"
        self.store.put_text(f"name: {name}\nbase: {base}\ndata: {source}\n", RUNS, run, "job.yaml")
        self.store.put_json({"prepared": data}, RUNS, run, "data.json")
        with self.store.writing(RUNS, run, "release") as fresh:
            (fresh / "model.safetensors").write_bytes(b"x" * 1000)
        self.store.put_text("state", RUNS, run, "checkpoints", "step-1", "weights")
        claim_run(self.store, run)
        write_status(self.store, RunStatus.model_validate({"run": run, "stage": "train", "state": state}))
        return run

    def artifact(self, *parts: str) -> None:
        with self.store.writing(*parts) as fresh:
            (fresh / "rows").write_bytes(b"y" * 10)

    def register(self, run: str, name: str) -> str:
        self.registry.start_run(run, {}, data_hash="0", sources=[])
        return self.registry.register(name, self.store.path(RUNS, run, "release"), run, {})

    def there(self) -> set[str]:
        return {f"{place}/{name}" for place in (RUNS, "data", "inputs", "bases") for name in self.store.list(place)}

    def clean(self, days: float, *, remove: bool = True, retention: RetentionSpec = RETENTION):
        return clean(self.settings, retention, time.time() + days * DAY_S, remove=remove)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def test_what_is_needed_stays_whatever_its_age_and_the_rest_goes_when_it_is_old(home: Home):
    released = home.run("released", data="a" * 32, base="/else/bases/" + "1" * 64)
    served, training, parent = home.run("served"), home.run("training", state="running"), home.run("parent")
    forgotten = home.run("forgotten", data="b" * 32, base=home.store.path(RUNS, parent, "release"))
    for key in ("a" * 32, "b" * 32, "c" * 32):
        home.artifact("data", key)
    for key in ("1" * 64, "2" * 64):
        home.artifact("bases", key)
    for key in ("A" * 32, "B" * 32):
        home.artifact("inputs", key)
    home.register(released, "released")
    directory = home.store.path(RUNS, served, "release")
    home.store.put_json({"arms": {"a": {"directory": directory}}}, "endpoints", "support.json")
    found = home.clean(1000)
    runs = {f"runs/{run}" for run in (released, served, training, parent)}
    assert home.there() == {*runs, f"data/{'a' * 32}", f"inputs/{'A' * 32}", f"bases/{'1' * 64}"}
    assert {item.name for item in found.items if item.kind == "run"} == {forgotten}
    assert home.store.is_committed(RUNS, released, "release")
    assert home.store.list(RUNS, training, "checkpoints") == ["step-1"]
    assert home.store.list(RUNS, released, "checkpoints") == [], "an ended run is not gone on with after so long"
    assert home.registry.release_of("released@1") == home.store.path(RUNS, released, "release")
    assert [item.name for item in home.clean(1000).items] == [parent], "nothing is made from it any more"
    assert home.clean(1000).items == []


def test_looking_removes_nothing_and_counts_what_would_go(home: Home):
    run = home.run("old")
    home.artifact("data", "d" * 32)
    before = home.there()
    found = home.clean(31, remove=False)
    assert home.there() == before
    assert not found.removed
    assert {(item.kind, item.name) for item in found.items} == {("run", run), ("data", "d" * 32)}
    assert found.bytes == sum(home.store.stored(*parts)[0] for parts in ((RUNS, run), ("data", "d" * 32)))


def test_a_young_run_keeps_its_data_and_loses_only_its_checkpoints(home: Home):
    run = home.run("young", state="failed")
    home.artifact("data", "d" * 32)
    found = home.clean(8)
    assert [(item.kind, item.name) for item in found.items] == [("checkpoints", f"{run}/checkpoints")]
    assert home.there() == {f"runs/{run}", f"data/{'d' * 32}"}


def test_a_removed_run_is_in_mlflows_bin(home: Home):
    from cluster.tracking import connected_client

    run = home.run("tracked")
    mlflow_run = home.registry.start_run(run, {}, data_hash="0", sources=[])
    home.clean(31)
    assert connected_client(home.settings).get_run(mlflow_run).info.lifecycle_stage == "deleted"


def test_leftovers_of_killed_processes_go_after_a_day(home: Home):
    left = home.root / ".aside" / uuid.uuid4().hex
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"z" * 7)
    assert home.clean(0.5).items == []
    (item,) = home.clean(2).items
    assert (item.kind, item.bytes, left.exists()) == ("leftover", 7, False)


def test_nothing_goes_where_what_is_needed_cannot_be_read(home: Home):
    run = home.run("old")
    (home.root / "mlflow.db").write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    with pytest.raises(StoreError):
        home.clean(1000)
    assert home.there() == {f"runs/{run}"}


def test_at_the_limit_a_thing_stays():
    things = [Thing("run", "a", 1, 30.0), Thing("run", "b", 1, 30.01), Thing("run", "c", 1, 99.0, "a version")]
    going, kept = leaving(things, RETENTION)
    assert [item.name for item in going] == ["b"]
    assert kept == {"run: within 30 days": 1, "a version": 1}


def test_a_remote_home_is_cleaned_through_the_store_alone(tmp_path: Path):
    store = Store("memory://gc", cache=tmp_path)
    store.put_text("name: old\n", RUNS, "old-20260101-000000-abcd", "job.yaml")
    size, written_s = store.stored(RUNS, "old-20260101-000000-abcd")
    assert (size, abs(time.time() - written_s) < 60) == (10, True)
    settings = Settings("memory://gc", None, f"sqlite:///{tmp_path}/mlflow.db")
    found = clean(settings, RETENTION, time.time() + 31 * DAY_S, remove=False)
    assert [item.name for item in found.items if item.kind == "run"] == []  # it waits: nobody has said that it ended


def test_the_command_prints_one_object_and_takes_the_profiles_retention(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("HONE_HOME", str(home.root))
    run = home.run("old")
    profile = tmp_path / "profile.yaml"
    profile.write_text(
        "name: a\nimage: hone:1\nstorage: s3://b/p\ntoken_secret: t\ndatabase_secret: d\n"
        "workers: [{name: w, cpus: 1, memory_gib: 1}]\nretention: {runs_days: 0, checkpoints_days: 0}\n"
    )
    assert main(["gc", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["items"] == []
    assert main(["gc", "--profile", str(profile), "--yes", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [item["name"] for item in found["items"]] == [run]
    assert found["removed"]
    assert home.there() == set()
    with pytest.raises(SystemExit):
        main(["gc", "--keep-days", "-1"])
