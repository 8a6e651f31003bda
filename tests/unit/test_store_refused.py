"""Storage that answers no, or not at all, is one StoreError that says so, and never an answer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from s3fs import S3FileSystem

from cluster.errors import StoreError
from cluster.ports import free_port
from cluster.store import Store
from tests.s3 import S3Server

ASKED: list[Callable[[Store], Any]] = [
    lambda store: store.exists("status.json"),
    lambda store: store.is_committed("a"),
    lambda store: store.list(),
    lambda store: store.reading("a"),
    lambda store: store.get_json("status.json"),
    lambda store: store.put_json({}, "status.json"),
    lambda store: store.put_file(Path(__file__), "file"),
    lambda store: store.remove("a"),
]


@pytest.fixture
def store(s3: S3Server, tmp_path: Path) -> Store:
    store = Store(s3.new_bucket(), cache=tmp_path / "cache")
    store.put_json({}, "status.json")
    write(store, "a")
    return store


def write(store: Store, *parts: str, then: Callable[[], Any] = lambda: None) -> None:
    with store.writing(*parts) as directory:
        (directory / "x").write_bytes(b"x")
        then()


@pytest.mark.parametrize("ask", ASKED)
def test_without_rights_every_call_is_refused_and_none_says_that_nothing_is_there(
    store: Store, s3: S3Server, ask: Callable[[Store], Any]
) -> None:
    with s3.without_rights(), pytest.raises(StoreError, match=r"refused s3://.*PermissionError"):
        ask(store)


def test_rights_lost_while_an_artifact_is_written_leave_none(store: Store, s3: S3Server) -> None:
    with ExitStack() as lost:
        with pytest.raises(StoreError, match="PermissionError"):
            write(store, "b", then=lambda: lost.enter_context(s3.without_rights()))
        lost.close()
        assert not store.is_committed("b")


def test_a_wrong_bucket_is_named_and_not_made(s3: S3Server, tmp_path: Path) -> None:
    wrong = Store("s3://hone-with-a-typing-error/home", cache=tmp_path)
    for ask in (lambda: wrong.put_json({}, "status.json"), lambda: write(wrong, "a")):
        with pytest.raises(StoreError, match=r"hone-with-a-typing-error.*bucket does not exist"):
            ask()
    assert not wrong.exists("status.json")


def test_a_server_that_goes_away_in_the_middle_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    S3FileSystem.clear_instance_cache()  # fsspec would go on with one for the session's server
    server = S3Server(free_port())
    for name, value in server.variables.items():
        monkeypatch.setenv(name, value)
    server.start()
    try:
        store = Store(server.new_bucket(), cache=tmp_path)
        with pytest.raises(StoreError, match="Could not connect"):
            write(store, "a", then=server.stop)
    finally:
        server.stop()
        S3FileSystem.clear_instance_cache()
