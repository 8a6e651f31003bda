from __future__ import annotations

import os
from pathlib import Path

import pytest

from trainers.ops import drop_abandoned_lock, put_tools_on_path


def test_a_lock_that_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.touch()
    assert drop_abandoned_lock(lock)
    assert not lock.exists()
    assert not drop_abandoned_lock(lock)


def test_a_lock_that_a_living_process_holds_stays(tmp_path: Path) -> None:
    """Held as torch's FileBaton holds it: created exclusively, read-only, kept open."""
    lock = tmp_path / "lock"
    held = os.open(lock, os.O_CREAT | os.O_EXCL)
    try:
        assert not drop_abandoned_lock(lock)
        assert lock.exists()
    finally:
        os.close(held)


def test_tools_beside_the_interpreter_are_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    put_tools_on_path()
    put_tools_on_path()
    assert len(os.environ["PATH"].split(os.pathsep)) == 2
