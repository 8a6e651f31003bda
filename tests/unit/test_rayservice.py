"""The keeper of an endpoint under RayService, without Ray: steers, looks at drift, and ends with its replica."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from serving import rayservice
from serving.drift_looks import looking
from serving.drift_report import DriftReport

WITHIN_S = 3.0
SERVE = {"endpoint": "support", "arms": {"main": {"release": "m@1", "weight": 1}}}
REPORT = DriftReport(endpoint="support", release="m@1", at_s=0.0, decision="drift", reason="they differ", flagged=True)


def nothing(*_: Any) -> None:
    """Stand for what needs a cluster."""


def test_it_looks_at_drift_while_it_steers_and_ends_with_its_replica(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    steered, looked = threading.Event(), threading.Event()

    def look(endpoint: str, *_: Any) -> DriftReport:
        if endpoint == "support" and steered.wait(WITHIN_S):
            looked.set()
        return REPORT

    monkeypatch.setenv("HONE_HOME", str(tmp_path))
    for name in ("_wait_for_nodes", "bring_up"):
        monkeypatch.setattr(rayservice, name, nothing)
    monkeypatch.setattr(rayservice, "steer", lambda *_: steered.set())
    monkeypatch.setattr(rayservice, "STEER_EVERY_S", 0.01)
    monkeypatch.setattr(rayservice, "look", look, raising=False)
    monkeypatch.setattr(rayservice, "looking", partial(looking, first_s=0.0), raising=False)
    before = set(threading.enumerate())
    keeper = rayservice.ServiceKeeper(SERVE, "127.0.0.1", 1)
    assert looked.wait(WITHIN_S)
    own = set(threading.enumerate()) - before
    keeper.__del__()
    for thread in own:
        thread.join(WITHIN_S)
    assert not any(thread.is_alive() for thread in own)
    assert "support: they differ; see hone drift support" in capfd.readouterr().err
