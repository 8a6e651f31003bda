"""What the doctor says of facts, and that it looks at this machine without changing it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cluster import cluster_checks, machine_checks, state_checks
from cluster.capacity import Capacity, NodeCapacity
from cluster.cli import main
from cluster.diagnosis import Diagnosis, fine
from cluster.doctor import examine
from cluster.errors import StoreError
from cluster.node_facts import NodeFacts
from cluster.offer import Offer
from cluster.ports import free_port
from cluster.ray_token import keep_private, token_of
from cluster.session import Settings
from tests.postgres import PostgresServer

HERE = {"hone": "0.1.0", "ray": "2.60.0", "torch": "2.13.0"}
GIB = 2**30


def settings(home: Path, **env: str) -> Settings:
    return Settings.from_env({"HONE_HOME": str(home), **env}, home)


def node(**facts: object) -> NodeFacts:
    return NodeFacts.model_validate(
        {"node": "a (10.0.0.2)", "python": "3.11.7", "packages": HERE, "auth_mode": "token"} | facts
    )


def states(nodes: list[NodeFacts], *, is_loopback: bool = False) -> dict[str, str]:
    lines = cluster_checks.node_lines(nodes, HERE, "3.11.9", is_loopback=is_loopback)
    assert all(line.remedy for line in lines if line.state != "ok")
    worst = sorted(lines, key=lambda line: ["ok", "warning", "failure"].index(line.state))
    return {line.check: line.state for line in worst}


def test_this_machine_passes_and_nothing_is_changed(tmp_path: Path):
    found = examine(settings(tmp_path / "home"), {}, None)
    failed = [line for line in found.lines if line.state == "failure"]
    assert found.ok, failed
    assert not (tmp_path / "home").exists()
    looked_at = {line.check for line in found.lines}
    assert looked_at >= {"python", "imports", "torch", "collectives", "deepspeed", "compilers", "disk", "storage"}
    assert looked_at >= {"database", "token"}


def test_the_command_prints_one_object_and_ends_with_two_on_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("HONE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    address = f"http://127.0.0.1:{free_port()}"
    assert main(["doctor", "--json", "--address", address]) == 2
    found = Diagnosis.model_validate_json(capsys.readouterr().out.splitlines()[-1])
    failed = {line.check: line for line in found.lines if line.state == "failure"}
    assert set(failed) == {"compilers", "address"}
    assert "no-such-compiler" in failed["compilers"].found
    assert all(line.remedy for line in found.lines if line.state != "ok")


def test_a_check_that_breaks_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(_: Settings) -> None:
        raise RuntimeError("odd")

    monkeypatch.setattr("cluster.doctor.CHECKS", (("first", broken), ("second", lambda _: fine("second", "well"))))
    first, second, *_ = examine(settings(tmp_path), {}).lines
    assert (first.state, "odd" in first.found, second.state) == ("failure", True, "ok")


def test_nodes_that_are_alike_are_fine():
    assert states([node(), node(clock_s=0.4, clock_within_s=0.1)]) == {"nodes": "ok", "clocks": "ok"}


@pytest.mark.parametrize(
    ("facts", "check", "state"),
    [
        ({"python": "3.12.1"}, "nodes", "failure"),
        ({"packages": HERE | {"ray": "2.59.0"}}, "nodes", "failure"),
        ({"packages": HERE | {"torch": "2.12.0"}}, "nodes", "warning"),
        ({"packages": {"ray": "2.60.0", "torch": "2.13.0"}}, "nodes", "warning"),
        ({"packages": {"ray": "2.60.0", "hone": "0.1.0"}}, "nodes", "failure"),
        ({"clock_s": -3.0, "clock_within_s": 0.1}, "clocks", "warning"),
        ({"clock_s": 3.0, "clock_within_s": 2.5}, "clocks", "ok"),
        ({"clock_s": 200.0}, "clocks", "failure"),
        ({"auth_mode": "disabled"}, "token", "failure"),
        ({"problem": "it does not answer within 60 s"}, "nodes", "failure"),
    ],
)
def test_a_node_unlike_the_others_is_named(facts: dict[str, object], check: str, state: str):
    assert states([node(), node(**facts)])[check] == state


def test_a_cluster_without_a_token_is_a_warning_on_loopback_only():
    assert states([node(auth_mode="disabled")], is_loopback=True)["token"] == "warning"


@contextmanager
def head(token: str | None) -> Iterator[str]:
    """A dashboard as far as the doctor knows it: the jobs route, with or without a token."""

    class Jobs(BaseHTTPRequestHandler):
        def do_GET(self):
            sent = self.headers.get("Authorization")
            status = 200 if token is None or sent == f"Bearer {token}" else 403 if sent else 401
            self.send_response(status if self.path == "/api/jobs/" else 404)
            self.end_headers()

        def log_message(self, *_: object):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Jobs)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("asked", "sent", "state", "says"),
    [
        ("right", "right", "ok", "takes this one"),
        ("right", "wrong", "failure", "refuses this token"),
        ("right", None, "failure", "there is none here"),
        (None, None, "warning", "whoever reaches it"),
    ],
)
def test_a_head_is_asked_without_the_token_and_with_it(asked: str | None, sent: str | None, state: str, says: str):
    with head(asked) as address:
        (line,) = cluster_checks.head(address, sent)
    assert line.state == state
    assert says in line.found


@pytest.mark.parametrize(
    ("ray", "python", "state"),
    [("2.60.0", "3.11.2", "ok"), ("2.59.0", "3.11.2", "failure"), ("2.60.0", "3.12.0", "failure")],
)
def test_what_a_head_says_is_compared_with_this_machine(ray: str, python: str, state: str):
    offer = Offer(ray, python, Capacity((NodeCapacity("a", 4, 1, 2**30, host="a"),)), frozenset({"a", "head"}))
    (line,) = cluster_checks.offer_lines(offer, HERE, "3.11.9")
    assert line.state == state
    assert state != "ok" or line.found == "2 machines with Ray 2.60.0, 4 CPUs, 1 GPUs for workers"


@pytest.mark.parametrize(
    ("address", "loopback"),
    [("127.0.0.2:6379", True), ("http://localhost:8265", True), ("http://[::1]:8265", True), ("10.0.0.1:6379", False),
     ("http://head:8265", False), ("http://127.0.0.1.example.org:8265", False)],
)  # fmt: skip
def test_loopback_is_told_by_the_address(address: str, loopback: bool):
    assert cluster_checks.is_loopback(address) == loopback


def test_the_token_is_for_its_owner_alone(tmp_path: Path):
    keep_private({}, tmp_path)
    file = tmp_path / ".ray" / "auth_token"
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(token_of({}, tmp_path) or "") == 64
    file.chmod(0o644)
    assert cluster_checks.token({}, tmp_path).state == "warning"
    keep_private({}, tmp_path)
    assert cluster_checks.token({}, tmp_path).state == "ok"
    assert cluster_checks.token({"RAY_AUTH_MODE": "disabled"}, tmp_path).state == "warning"
    assert token_of({"RAY_AUTH_TOKEN": " given "}, tmp_path) == "given"


def test_a_module_of_another_project_is_named_with_its_directory(tmp_path: Path):
    ours, other = tmp_path / "ours", tmp_path / "other"
    for place in (ours, other):
        (place / "serving").mkdir(parents=True)
        (place / "serving" / "__init__.py").touch()
    (tmp_path / "cluster").mkdir()  # a directory without code is no module
    lines = machine_checks.import_lines
    assert lines(ours, [other, ours], ours)[0].state == "failure"
    assert lines(ours, [ours, other], ours)[0].state == "warning"
    assert lines(ours, [ours], other)[0].state == "warning"
    assert lines(ours, [ours, tmp_path], tmp_path)[0].state == "ok"


def test_room_compilers_and_gpus_are_judged_by_what_is_there():
    assert [machine_checks.disk_line("home", "/x", size * GIB).state for size in (0, 5, 50)] == [
        "failure",
        "warning",
        "ok",
    ]
    assert machine_checks.shared_line(64 * 2**20).state == "warning"
    assert machine_checks.compilers_line("g++", "/usr/bin/g++", None).state == "failure"
    assert machine_checks.torch_line("2.13", None, has_driver=True, gpus=[]).state == "warning"
    assert machine_checks.torch_line("2.13", "12.8", has_driver=True, gpus=[]).state == "warning"
    assert machine_checks.torch_line("2.13", "12.8", has_driver=True, gpus=["H200"]).state == "ok"


def test_storage_is_written_and_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "kept").touch()
    assert state_checks.storage(settings(tmp_path)).state == "ok"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]

    def refuse(*_: object) -> None:
        raise StoreError("no rights", "Ask for them.")

    monkeypatch.setattr("cluster.store.Store.put_text", refuse)
    line = state_checks.storage(settings(tmp_path))
    assert (line.state, line.remedy) == ("failure", "Ask for them.")


def test_a_damaged_database_is_found(tmp_path: Path):
    (tmp_path / "optuna.db").write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    lines = {line.found.partition(":")[0]: line for line in state_checks.databases(settings(tmp_path))}
    assert {name: line.state for name, line in lines.items()} == {"mlflow": "ok", "optuna": "failure", "ledger": "ok"}


def test_postgresql_is_asked_and_its_password_is_not_shown(tmp_path: Path, postgres: PostgresServer):
    database = postgres.new_database()
    lines = state_checks.databases(settings(tmp_path, HONE_DB=database))
    assert [line.state for line in lines] == ["ok", "ok", "ok"]
    wrong = database.replace(postgres.password, "geheim")
    lines = state_checks.databases(settings(tmp_path, HONE_DB=wrong))
    assert [line.state for line in lines] == ["failure"] * 3
    assert not any("geheim" in line.as_json() or postgres.password in line.as_json() for line in lines)


def test_a_tracking_server_that_does_not_answer_is_found(tmp_path: Path):
    uri = f"http://127.0.0.1:{free_port()}"
    first, *_ = state_checks.databases(settings(tmp_path, MLFLOW_TRACKING_URI=uri))
    assert first.state == "failure"
    assert json.loads(first.as_json())["check"] == "database"
