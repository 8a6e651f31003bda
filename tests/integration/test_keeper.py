"""`hone serve --detach`: a process of its own that others change and stop, leaving nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from cluster.ports import free_port
from tests.integration.test_serve import FILE, TURN

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def hone(home: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    done = subprocess.run(
        [sys.executable, "-m", "cluster.cli", *arguments],
        env=os.environ | {"HONE_HOME": str(home)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    last = done.stdout.strip().splitlines()[-1:] or [""]
    return done.returncode, json.loads(last[0]) if last[0].startswith("{") else {}, done.stderr


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs; one whose end nobody has asked about yet does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_detached_endpoint_is_changed_and_stopped_by_other_processes(tmp_path: Path, tiny_base: Path):
    home, port, file = tmp_path / "home", free_port(), tmp_path / "serve.yaml"
    file.write_text(FILE.format(old=tiny_base, new=tiny_base))
    code, up, err = hone(home, "serve", str(file), "--port", str(port), "--detach", "--json")
    assert code == 0, err
    kept = json.loads((home / "clusters" / "support.json").read_text())
    try:
        assert (up["endpoint"], up["url"]) == ("support", f"http://127.0.0.1:{port}")
        assert kept["ray_address"].startswith("127.0.0.1:")
        asked = {"messages": TURN, "max_tokens": 2}
        assert httpx.post(f"{up['url']}/v1/chat/completions", json=asked, timeout=30).status_code == 200
        assert hone(home, "serve", str(file), "--port", str(port), "--detach")[0] == 2, "it runs already"
        code, _, err = hone(home, "serve", str(file), "--port", str(port + 1))
        assert code == 2
        assert "hone stop support" in err
        file.write_text(
            file.read_text().replace("experiment:", f'  third: {{release: "base:{tiny_base}"}}\nexperiment:')
        )
        code, changed, err = hone(home, "serve", str(file), "--json")
        assert code == 0, err
        assert set(changed["arms"]) == {"old", "new", "third"}
        code, moved, _ = hone(home, "split", "support", "old=0", "new=0", "third=1", "--json")
        assert (code, moved["shares"]["third"]) == (0, 1.0)
        time.sleep(1)
        answer = httpx.post(f"{up['url']}/v1/chat/completions", json=asked, timeout=30)
        assert answer.headers["x-hone-arm"] == "third"
        keeper = psutil.Process(kept["owner"]["pid"])
        children = keeper.children(recursive=True)
    finally:
        code, _, err = hone(home, "stop", "support")
    assert code == 0, err
    assert not [process for process in (keeper, *children) if is_alive(process)]
    assert not (home / "clusters" / "support.json").exists()
    assert hone(home, "stop", "support")[0] == 2


def test_a_detached_endpoint_that_cannot_come_up_says_why(tmp_path: Path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    where = f"base:{tmp_path}/broken"
    code, _, err = hone(tmp_path / "home", "serve", where, "--endpoint", "b", "--port", str(free_port()), "--detach")
    assert code == 1
    assert "did not come up" in err
    assert "Traceback" not in err
    code, _, err = hone(tmp_path / "home", "serve", "base:./nothing", "--endpoint", "b")
    assert code == 2
