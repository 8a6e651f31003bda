"""What the environment means, where tables live, and what a session leaves behind in its process. No Ray here."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from cluster.capacity import Capacity, NodeCapacity
from cluster.errors import StoreError, UsageError
from cluster.session import Settings, environment, ray_session, refuse_local_home

CWD = Path("/a dir")
POSTGRES = "postgresql://hone:p%40ss@db:5432/hone"


def settings(**env):
    return Settings.from_env(env, CWD)


def test_home_is_dot_hone_where_hone_is_called():
    assert settings() == Settings("/a dir/.hone", None, "sqlite:////a dir/.hone/mlflow.db", None)
    assert settings(HONE_HOME="") == settings()


@pytest.mark.parametrize(
    ("given", "home"),
    [
        ("state", "/a dir/state"),
        ("/abs", "/abs"),
        ("file:///abs", "/abs"),
        ("~/state", str(Path.home() / "state")),
    ],
)
def test_a_local_home_is_an_absolute_path(given, home):
    assert settings(HONE_HOME=given).home == home
    assert settings(HONE_HOME=given).is_local


def test_a_url_home_without_a_database_is_refused():
    with pytest.raises(UsageError, match=r"HONE_HOME is s3://bucket/x, and HONE_DB is not set"):
        settings(HONE_HOME="s3://bucket/x")


def test_a_url_home_with_a_database_is_taken():
    found = settings(HONE_HOME="s3://bucket/x/", HONE_DB=POSTGRES)
    assert found.home == "s3://bucket/x"
    assert not found.is_local


@pytest.mark.parametrize(
    "db", ["sqlite:///all.db", "mysql://h/d", "hone", "postgresql://h", "postgresql+asyncpg://h/d"]
)
def test_a_database_other_than_postgresql_is_refused(db):
    with pytest.raises(UsageError, match="names no PostgreSQL"):
        settings(HONE_DB=db)


def test_a_refused_database_does_not_show_its_password():
    with pytest.raises(UsageError) as caught:
        settings(HONE_DB="mysql://user:geheim@h/d")
    assert "geheim" not in str(caught.value)


def test_options_that_would_hide_the_schema_are_refused():
    with pytest.raises(UsageError, match="options"):
        settings(HONE_DB=f"{POSTGRES}?options=-csearch_path%3Dother")


@pytest.mark.parametrize("db", [POSTGRES, POSTGRES.replace("postgresql", "postgres"), f"{POSTGRES}?sslmode=require"])
def test_every_library_has_its_own_schema(db):
    """As SQLAlchemy reads the URL: the same login and place, and a search path each."""
    from sqlalchemy import make_url

    from cluster.database import database_url

    found = settings(HONE_DB=db)
    urls = [make_url(database_url(found.home, found.db, tables)) for tables in ("mlflow", "optuna", "ledger")]
    assert [url.query["options"] for url in urls] == [f"-csearch_path=hone_{t}" for t in ("mlflow", "optuna", "ledger")]
    assert {(url.drivername, url.username, url.password, url.host, url.port, url.database) for url in urls} == {
        ("postgresql+psycopg", "hone", "p@ss", "db", 5432, "hone")
    }
    assert all(url.query.get("sslmode") == ("require" if "sslmode" in db else None) for url in urls)
    assert parse_qs(urlsplit(found.mlflow_uri).query)["options"] == ["-csearch_path=hone_mlflow"]


def test_without_a_database_every_library_has_its_own_file(tmp_path):
    found = Settings.from_env({}, tmp_path)
    with found.making_tables("optuna") as optuna, found.making_tables("mlflow") as mlflow:
        assert optuna == f"sqlite:///{tmp_path}/.hone/optuna.db"
        assert mlflow == f"sqlite:///{tmp_path}/.hone/mlflow.db"
    assert Path(found.home).is_dir()


HOLD = """
import sys, time
from dataclasses import replace
from pathlib import Path
from cluster.session import Settings
with Settings.from_env({}, Path(sys.argv[1])).making_tables("mlflow"):
    print("held", flush=True)
    sys.stdin.readline()
    Path(sys.argv[1], "done").touch()
"""


def test_one_process_at_a_time_makes_tables(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        other.stdin.write("\n")
        other.stdin.flush()
        with Settings.from_env({}, tmp_path).making_tables("mlflow"):
            assert (tmp_path / "done").exists()


def test_a_home_that_cannot_be_written_is_a_store_error(tmp_path):
    (tmp_path / ".hone").write_text("a file")
    with pytest.raises(StoreError, match="cannot be written"), Settings.from_env({}, tmp_path).making_tables("mlflow"):
        pass


def test_a_tracking_server_and_a_cluster_are_taken_from_the_environment():
    found = settings(MLFLOW_TRACKING_URI="http://mlflow:5000", RAY_ADDRESS="10.0.0.5:6379")
    assert (found.mlflow_uri, found.ray_address) == ("http://mlflow:5000", "10.0.0.5:6379")


def test_a_local_home_is_refused_on_several_machines_only():
    node = NodeCapacity("a", 2, 0, 2**30, host="one")
    alone, several = Capacity((node, replace(node, node_id="b"))), Capacity((node, replace(node, host="other")))
    refuse_local_home(settings(), alone)
    refuse_local_home(settings(HONE_HOME="s3://b/x", HONE_DB=POSTGRES), several)
    with pytest.raises(UsageError, match="the cluster has 2"):
        refuse_local_home(settings(), several)


def test_variables_set_for_a_block_are_gone_after_it_and_the_users_own_stay(monkeypatch):
    monkeypatch.setenv("USERS", "own")
    monkeypatch.delenv("OURS", raising=False)
    with environment({"USERS": "ours", "OURS": "1"}):
        assert (os.environ["USERS"], os.environ["OURS"]) == ("own", "1")
    assert os.environ["USERS"] == "own"
    assert "OURS" not in os.environ


@pytest.mark.parametrize("address", ["http://cluster:8265", "ray://cluster:10001", "cluster", "cluster:x", ":6379"])
def test_an_address_that_no_driver_can_join_is_refused(address):
    with pytest.raises(UsageError, match="not an address that a driver can join"), ray_session(address=address):
        pass


def test_a_cluster_that_does_not_answer_is_refused_at_once():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(UsageError, match=f"no Ray cluster answers at {address}"), ray_session(address=address):
            pass


def test_nothing_heavy_is_imported_before_it_is_needed():
    modules = "cluster.store, cluster.runs, cluster.session, cluster.registry"
    code = (
        f"import sys, {modules}; print(sorted({{'ray', 'mlflow', 'torch', 'sqlalchemy', 'pandas'}} & set(sys.modules)))"
    )
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    assert subprocess.check_output([sys.executable, "-c", code], env=env, text=True) == "[]\n"
