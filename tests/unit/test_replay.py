"""Rows as users, against the app without a cluster."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from cluster.errors import NotServing, RunFailed
from serving import replay
from tests.endpoints import Local, ToldArm, endpoint


def played(local: Local, references: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> replay.Replayed:
    transport = httpx.ASGITransport(local.app)
    real = httpx.AsyncClient

    def client(**more: Any) -> httpx.AsyncClient:
        return real(transport=transport, **more)

    monkeypatch.setattr(replay.httpx, "AsyncClient", client)
    users = [replay.User([{"role": "user", "content": "x"}], own) for own in references]
    return replay.replay("http://here", users, concurrency=2)


def test_every_row_asks_once_and_says_whether_it_was_right(monkeypatch: pytest.MonkeyPatch):
    local = Local(endpoint(a=1), a=ToldArm(words=(" bill", "ing\n")))
    found = played(local, [["billing"], ["bugs"], ["bugs", "billing"]], monkeypatch)
    assert (found.users, found.failed, found.answered, found.right) == (3, 0, {"a": 3}, {"a": 2})
    said = {row.request: row.value for row in local.rows if hasattr(row, "value")}
    assert sorted(said.values()) == [0.0, 1.0, 1.0]
    assert said.keys() == {row.request for row in local.rows if hasattr(row, "arm")}
    assert len({row.unit for row in local.rows if hasattr(row, "unit")}) == 3


def test_nobody_answered_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(replay, "TRIES", 2)
    monkeypatch.setattr(replay, "WAIT_S", 0.0)
    monkeypatch.setattr(asyncio, "sleep", _at_once)
    local = Local(endpoint(a=1), a=ToldArm(words=(), error=NotServing("away", "again")))
    with pytest.raises(RunFailed, match="nobody"):
        played(local, [["x"]], monkeypatch)


async def _at_once(_seconds: float) -> None:
    return None
