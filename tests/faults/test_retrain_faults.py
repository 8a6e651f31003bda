"""A watch that is killed in the middle of a retraining: the next one finishes that child, and there is no second."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from cluster.ports import free_port
from serving.replay import User, replay
from tests.faults.conftest import HONE, Command
from tests.tiny import ticket_rows, write_base, write_jsonl

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

LATER = "bugs"
WHEN = "new_rows >= 40"
JOB = {
    "name": "tickets", "base": "./base", "data": "tickets.jsonl",
    "train": {"method": "full", "epochs": 6, "learning_rate": 3e-3, "batch_size": 16, "eval_every": 2.0},
    "cluster": {"workers": 1}, "evaluate": {"base": False, "max_new_tokens": 8, "batch_size": 64},
    "gate": ["accuracy >= 0.3"],
}  # fmt: skip
SERVE = {
    "endpoint": "support", "arms": {"first": {"release": "tickets@1", "weight": 1.0}}, "log": "text",
    "retrain": {"min_rows": 40, "margin": 0.3, "weight": 40, "horizon_h": 0.01},
}  # fmt: skip


def hone(home: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    done = subprocess.run(
        [*HONE, *arguments, "--json"], env=os.environ | {"HONE_HOME": str(home)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    last = done.stdout.strip().splitlines()[-1:] or [""]
    return done.returncode, json.loads(last[0]) if last[0].startswith("{") else {}, done.stderr


def users(rows: list[dict[str, str]]) -> list[User]:
    return [User([{"role": "user", "content": row["text"]}], [row["label"]]) for row in rows]


def child_of(home: Path) -> dict[str, Any]:
    """The status of the run that the watch began, once it takes steps."""
    for attempt in (home / "retraining" / "support").glob("*.json"):
        status = home / "runs" / attempt.stem / "status.json"
        found = json.loads(status.read_text()) if status.exists() else {}
        if found.get("step", 0) > 0:
            return found
    return {}


def kill_all(command: Command) -> None:
    """Kill a command and all that it began, as a machine that goes off does."""
    process = psutil.Process(command.process.pid)
    own = [process, *process.children(recursive=True)]
    for one in own:
        if one.is_running():
            one.kill()
    command.process.wait(30)
    psutil.wait_procs(own, timeout=30)


def test_a_watch_killed_in_the_middle_of_a_retraining_and_restarted_makes_one_child(tmp_path: Path) -> None:
    home, port = tmp_path / "home", free_port()
    write_base(tmp_path / "base")
    rows = ticket_rows(800)
    write_jsonl(tmp_path / "tickets.jsonl", [row for row in rows[:500] if row["label"] != LATER])
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(JOB))
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(SERVE))
    code, trained, err = hone(home, "train", str(tmp_path / "job.yaml"))
    assert (code, trained.get("version")) == (0, "tickets@1"), err
    code, up, err = hone(home, "serve", str(tmp_path / "serve.yaml"), "--port", str(port), "--detach")
    assert code == 0, err
    try:
        code, _, err = hone(home, "retrain", "support")
        assert code == 2
        assert "holds no corrections" in err
        asked = users([row for row in rows[500:] if row["label"] == LATER])
        assert replay(up["url"], asked, max_tokens=8, feedback="correction").failed == 0
        time.sleep(2)
        watch = Command(home, ["watch", "support", "--when", WHEN, "--every", "1"], tmp_path / "watch.out")
        watch.until(lambda: child_of(home), timeout_s=180)
        kill_all(watch)
        (begun,) = (home / "retraining" / "support").glob("*.json")
        assert json.loads(begun.read_text())["state"] == "begun"
        again = Command(home, ["watch", "support", "--when", WHEN, "--once"], tmp_path / "again.out")
        assert again.ends() == 0, again.said
        assert {path.name for path in (home / "runs").iterdir()} == {trained["run"], begun.stem}, "one child"
        done = json.loads(begun.read_text())
        assert (done["state"], done["version"], done["experiment"], done["arm"]) == (
            "deployed", "tickets@2", "tickets-v2", "v2",
        ), again.said  # fmt: skip
        code, look, err = hone(home, "watch", "support", "--when", WHEN, "--once")
        assert (code, look["cause"]) == (0, None), err
        is_challenged(home, up["url"], trained["run"], begun.stem)
    finally:
        code, _, err = hone(home, "stop", "support")
    assert code == 0, err


def is_challenged(home: Path, url: str, parent: str, child: str) -> None:
    """The child is the challenger of its parent at its share, passed on the rows it should, and is in the lineage."""
    endpoint = json.loads((home / "endpoints" / "support.json").read_text())
    assert {name: (arm["version"], arm["weight"]) for name, arm in endpoint["arms"].items()} == {
        "first": ("tickets@1", 60.0), "v2": ("tickets@2", 40.0),
    }  # fmt: skip
    assert (endpoint["experiment"]["name"], endpoint["experiment"]["control"]) == ("tickets-v2", "first")
    result = json.loads((home / "runs" / child / "result.json").read_text())
    rules = {rule["rule"]: rule for rule in result["gate"]["rules"]}
    won = rules["new.accuracy > champion"]
    assert (won["passed"], won["right"]) == (True, 0.0), "the champion was asked the same rows, and knew none"
    assert set(result["metrics"]["test"]) == {"old", "new"}
    answered = replay(url, users(ticket_rows(40, seed=9)), max_tokens=8).answered
    assert set(answered) == {"first", "v2"}
    code, found, err = hone(home, "lineage", "tickets@1")
    assert (code, found["run"], [one["run"] for one in found["children"]]) == (0, parent, [child]), err
    assert found["served"][0]["corrections"] >= 40
