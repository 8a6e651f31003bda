"""The registry against a real MLflow on SQLite, in a home whose path has a space."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path

import pytest

from cluster.errors import StoreError, UsageError
from cluster.registry import Registry
from cluster.session import Settings

pytestmark = pytest.mark.integration

HASH = "0123456789abcdef" * 4
NUMBERS = count()


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    home = tmp_path_factory.mktemp("a home") / ".hone"
    return Settings.from_env({"HONE_HOME": str(home)}, Path.cwd())


@pytest.fixture(scope="module")
def registry(settings):
    return Registry(settings, clock=lambda: 1_800_000_000.5)


@dataclass(frozen=True)
class Job:
    """A job of its own for every test, so that tests share MLflow's tables and nothing else."""

    name: str

    def run(self, number=0):
        return f"{self.name}-20260301-1200{number:02d}-abcd"


@pytest.fixture
def job():
    return Job(f"job-{next(NUMBERS)}")


def start(registry, run, params=None):
    return registry.start_run(run, params or {}, data_hash=HASH, sources=["/data/train.jsonl"])


def register(registry, job, number=0):
    start(registry, job.run(number))
    return registry.register(job.name, f"/releases/{job.run(number)}", job.run(number), {"data_hash": HASH})


def in_mlflow(registry, mlflow_run):
    return registry._client.get_run(mlflow_run)


def test_a_run_is_found_by_its_tag_in_its_jobs_experiment(registry, job, settings):
    found = in_mlflow(registry, start(registry, job.run(), {"train.learning_rate": 2e-4, "train.seed": 0}))
    assert found.info.run_name == found.data.tags["hone.run"] == job.run()
    assert registry._client.get_experiment(found.info.experiment_id).name == job.name
    assert found.data.params == {"train.learning_rate": "0.0002", "train.seed": "0"}
    assert found.info.start_time == 1_800_000_000_500
    assert found.info.artifact_uri.startswith(f"{settings.home}/mlartifacts/{job.name}")


def test_the_data_a_run_was_trained_on_is_its_lineage(registry, job):
    found = in_mlflow(registry, start(registry, job.run()))
    (trained_on,) = found.inputs.dataset_inputs
    assert (trained_on.dataset.name, trained_on.dataset.digest) == (job.name, HASH[:36])
    assert "/data/train.jsonl" in trained_on.dataset.source
    assert found.data.tags["hone.data_hash"] == HASH


def test_a_started_run_goes_on_instead_of_starting_twice(registry, settings, job):
    first = start(registry, job.run(), {"a": 1})
    registry.end_run(job.run(), "KILLED")
    again = start(Registry(settings), job.run(), {"a": 2, "b": 3})
    assert again == first
    found = in_mlflow(registry, first)
    assert found.info.status == "RUNNING"
    assert found.data.params == {"a": "1", "b": "3"}


def test_parameters_beyond_mlflows_limits_are_cut_not_refused(registry, job):
    params = {f"p{i}": i for i in range(250)} | {"long": "x" * 7000, "k" * 300: "v", "../größe%": 1}
    found = in_mlflow(registry, start(registry, job.run(), params)).data.params
    assert len(found) == 253
    assert found["long"] == "x" * 5999 + "…"
    assert max(map(len, found)) == 250
    assert found["__größe_"] == "1"


def test_every_point_of_a_curve_is_kept_up_to_the_limit(registry, job):
    mlflow_run = start(registry, job.run())
    history = [{"step": step, "loss": 1 / step, "grad_norm": float(step)} for step in range(1, 1501)]
    registry.log_history(job.run(), [*history, {"step": 1500, "validation_loss": 0.5}])
    curve = registry._client.get_metric_history(mlflow_run, "loss")
    assert [(point.step, point.value) for point in curve] == [(row["step"], row["loss"]) for row in history]
    assert in_mlflow(registry, mlflow_run).data.metrics == {
        "loss": 1 / 1500,
        "grad_norm": 1500.0,
        "validation_loss": 0.5,
    }


def test_a_longer_curve_keeps_its_ends_and_its_shape(registry, job):
    mlflow_run = start(registry, job.run())
    registry.log_history(job.run(), [{"step": step, "loss": float(step)} for step in range(1, 10_001)])
    steps = [point.step for point in registry._client.get_metric_history(mlflow_run, "loss")]
    assert len(steps) == 2000
    assert (steps[0], steps[-1]) == (1, 10_000)
    assert max(after - before for before, after in pairwise(steps)) <= 6


def test_a_loss_that_is_not_a_number_is_logged_as_such(registry, job):
    mlflow_run = start(registry, job.run())
    registry.log_history(job.run(), [{"step": 1, "loss": float("nan")}, {"step": 2, "loss": float("inf")}])
    first, second = registry._client.get_metric_history(mlflow_run, "loss")
    assert first.value != first.value
    assert second.value > 1e300


def test_artifacts_lie_under_home(registry, settings, job, tmp_path):
    mlflow_run = start(registry, job.run())
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "check.html").write_text("<p>")
    (tmp_path / "README.md").write_text("card")
    registry.log_artifact(job.run(), tmp_path / "README.md")
    registry.log_artifact(job.run(), tmp_path / "reports")
    registry.log_text(job.run(), "Grüße", "greeting.txt")
    kept = Path(settings.home, "mlartifacts", job.name, mlflow_run, "artifacts")
    assert sorted(path.name for path in kept.iterdir()) == ["README.md", "check.html", "greeting.txt"]
    assert (kept / "greeting.txt").read_text(encoding="utf-8") == "Grüße"


@pytest.mark.parametrize("outcome", ["FINISHED", "FAILED", "KILLED"])
def test_a_run_ends_as_told(registry, job, outcome):
    mlflow_run = start(registry, job.run())
    registry.end_run(job.run(), outcome)
    assert in_mlflow(registry, mlflow_run).info.status == outcome


def test_ending_what_never_started_is_no_error(registry, job):
    registry.end_run(job.run(), "FAILED")


def test_the_first_version_of_a_model_is_its_champion_and_the_second_is_not(registry, job):
    assert registry.champion(job.name) is None
    assert register(registry, job, 0) == f"{job.name}@1"
    assert register(registry, job, 1) == f"{job.name}@2"
    assert registry.champion(job.name) == f"{job.name}@1"


def test_registering_a_run_twice_gives_one_version(registry, settings, job):
    assert register(registry, job) == register(Registry(settings), job) == f"{job.name}@1"
    assert len(registry.list_versions(job.name)) == 1


def test_an_alias_moves_and_only_to_a_version_that_exists(registry, job):
    register(registry, job, 0), register(registry, job, 1)
    registry.set_alias(f"{job.name}@2", "champion")
    assert registry.champion(job.name) == f"{job.name}@2"
    with pytest.raises(UsageError, match=f"there is no {job.name}@3"):
        registry.set_alias(f"{job.name}@3", "champion")


def test_a_version_names_its_release_run_and_lineage(registry, job):
    register(registry, job, 0), register(registry, job, 1)
    newest, oldest = registry.list_versions(job.name)
    assert (newest.ref, oldest.ref) == (f"{job.name}@2", f"{job.name}@1")
    assert oldest.release == registry.release_of(f"{job.name}@1") == f"/releases/{job.run(0)}"
    assert registry.release_of(f"{job.name}@champion") == oldest.release
    assert (oldest.run, oldest.aliases) == (job.run(0), ("champion",))
    assert oldest.tags["hone.data_hash"] == HASH
    assert oldest in registry.list_versions()


def test_the_metrics_of_a_version_are_its_runs(registry, job):
    register(registry, job)
    registry.log_metrics(job.run(), {"test.accuracy": 0.71, "base.accuracy": 0.05})
    assert registry.version_metrics(f"{job.name}@champion") == {"test.accuracy": 0.71, "base.accuracy": 0.05}


def test_a_mistyped_model_is_answered_with_the_near_one(registry, job):
    register(registry, job)
    with pytest.raises(UsageError) as caught:
        registry.release_of(f"{job.name}x@champion")
    assert f"{job.name}@champion" in caught.value.remedy


@pytest.mark.parametrize("ref", ["nothing", "nothing@", "@1", "x' or '1'='1@1", "a/b@1", "job@-1"])
def test_what_is_no_version_is_a_usage_error(registry, job, ref):
    register(registry, job)
    with pytest.raises(UsageError):
        registry.release_of(ref)


def test_a_run_that_mlflow_does_not_have_is_named(registry, job):
    with pytest.raises(StoreError, match=job.run()):
        registry.log_metrics(job.run(), {"loss": 1.0})


def test_a_deleted_experiment_is_taken_out_of_the_bin(registry, settings, job):
    experiment = in_mlflow(registry, start(registry, job.run(0))).info.experiment_id
    registry._client.delete_experiment(experiment)
    assert in_mlflow(registry, start(Registry(settings), job.run(1))).info.experiment_id == experiment


def test_a_home_that_was_never_written_to_is_read_without_making_tables(tmp_path):
    fresh = Registry(Settings.from_env({}, tmp_path))
    assert fresh.champion("router") is None
    assert fresh.list_versions() == []
    fresh.end_run("router-20260301-120000-abcd", "FAILED")
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_is_no_database_is_a_store_error(tmp_path):
    (tmp_path / ".hone").mkdir()
    (tmp_path / ".hone" / "mlflow.db").write_text("this is no database" * 100)
    with pytest.raises(StoreError, match="MLflow refused"):
        Registry(Settings.from_env({}, tmp_path)).champion("router")


def test_the_registry_lives_in_postgresql_too(postgres, job, tmp_path):
    settings = Settings.from_env({"HONE_HOME": str(tmp_path), "HONE_DB": postgres.new_database()}, tmp_path)
    registry = Registry(settings)
    assert registry.champion(job.name) is None
    mlflow_run = start(registry, job.run(0), {"train.learning_rate": 2e-4})
    registry.log_history(job.run(0), [{"step": step, "loss": 1 / step} for step in (1, 2)])
    registry.log_trial(job.run(0), "trials/0", {"train.seed": 1}, [{"step": 2, "loss": 0.5}], "FINISHED", {})
    registry.log_text(job.run(0), "Grüße", "greeting.txt")
    assert register(registry, job, 0) == f"{job.name}@1"
    registry.end_run(job.run(0), "FINISHED")
    assert register(registry, job, 1) == f"{job.name}@2"
    again = Registry(settings)
    again.set_alias(f"{job.name}@2", "champion")
    assert again.champion(job.name) == f"{job.name}@2"
    found = in_mlflow(again, mlflow_run)
    assert found.info.status == "FINISHED"
    assert (found.data.params, found.data.metrics) == ({"train.learning_rate": "0.0002"}, {"loss": 0.5})
    assert not list(tmp_path.glob("*.db")), "nothing lies in SQLite beside it"


QUIET = """
import socket, sys, time
from pathlib import Path
assert "mlflow" not in sys.modules
from cluster.registry import Registry
from cluster.session import Settings
assert "mlflow" not in sys.modules
def refuse(self, address):
    raise AssertionError(f"network: {address}")
socket.socket.connect = refuse
began = time.perf_counter()
registry = Registry(Settings.from_env({}, Path.cwd()))
run = "router-20260301-120000-abcd"
registry.start_run(run, {"long": "x" * 9000}, data_hash="0" * 64, sources=[])
registry.log_metrics(run, {"test.accuracy": 0.5})
registry.register("router", "/releases/r", run, {})
registry.end_run(run, "FINISHED")
Path("seconds").write_text(str(time.perf_counter() - began))
"""


def test_first_use_prints_nothing_reaches_no_network_and_leaves_nothing_outside_home(tmp_path, record_property):
    """A fresh process with default warnings, as a user has it: tables are made, and nothing is seen of it."""
    env = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", QUIET], cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for _ in range(2)  # two at once on fresh tables, which MLflow alone does not survive
    ]
    assert [process.communicate(timeout=120)[0] for process in processes] == [b"", b""]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hone", "seconds"]
    record_property("first_use_s", (tmp_path / "seconds").read_text())
