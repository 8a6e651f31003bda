"""A run on several Ray nodes goes on with fewer workers when a node is lost, and grows back when there is room."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cluster.local_cluster import local_cluster
from tests.faults.conftest import EVERY, LAYOUT_TOLERANCE, Command, Job, Recovery
from tests.faults.ray_nodes import drain

ELASTIC = "cluster.workers={min: 1, max: 2, grow_every_s: 5}"


def losses(command: Command) -> list[float]:
    """The loss of every step of a finished run, which each occurs once."""
    lines = (command.home / "runs" / command.run / "train" / "history.jsonl").read_text().splitlines()
    points = [point for point in map(json.loads, lines) if "loss" in point]
    assert [point["step"] for point in points] == list(range(1, len(points) + 1))
    return [point["loss"] for point in points]


@pytest.mark.slow
def test_a_lost_node_leaves_the_run_to_fewer_workers_with_the_same_result(
    job: Job, unbroken: dict[str, Tensor], recovery: Recovery, tmp_path: Path
) -> None:
    with local_cluster(tmp_path, [1, 1], with_dashboard=False) as nodes:
        command = job.start("node", "--set", ELASTIC, **nodes.variables)
        step = command.until(command.settled)
        recovery.begins()
        nodes.kill(2)
        recovery.ends(command)
        assert command.ends(timeout_s=240) == 0, command.said
    goes_on = re.findall(r"1 of at most 2 workers; goes on after step (\d+)", command.said)
    assert int(goes_on[-1]) >= step - EVERY
    for name, value in job.weights("node").items():
        torch.testing.assert_close(value, unbroken[name], rtol=0, atol=LAYOUT_TOLERANCE)


@pytest.mark.slow
def test_a_run_grows_when_a_node_joins(job: Job, tmp_path: Path) -> None:
    longer = ["--set", "train.epochs=120"]
    alone = job.start("alone", *longer, "--set", "cluster.workers=1")
    assert alone.ends(timeout_s=400) == 0, alone.said
    with local_cluster(tmp_path, [1], with_dashboard=False) as nodes:
        command = job.start("grows", *longer, "--set", ELASTIC, **nodes.variables)
        command.until(lambda: command.step() > EVERY)
        nodes.start(1)
        assert command.ends(timeout_s=400) == 0, command.said
    assert re.search(r"2 of at most 2 workers; 2 workers on 2 nodes: .*; goes on after step \d+", command.said)
    torch.testing.assert_close(losses(command), losses(alone), rtol=2e-2, atol=0)  # rounding, over 2,040 steps


@pytest.mark.slow
def test_a_notice_that_a_node_will_go_is_answered_with_a_checkpoint(job: Job, tmp_path: Path) -> None:
    seldom = ["--set", "train.checkpoint={every: 5000, keep: 1}", "--set", "train.epochs=120", "--set", ELASTIC]
    with local_cluster(tmp_path, [1, 1], with_dashboard=False) as nodes:
        command = job.start("drained", *seldom, **nodes.variables)
        command.until(lambda: command.step() > EVERY)
        drain(nodes, 2, 3600)
        folder = command.home / "runs" / command.run / "checkpoints"
        command.until(lambda: any(folder.glob("step-*")))
        nodes.kill(2)
        assert command.ends(timeout_s=240) == 0, command.said
    assert "1 of at most 2 workers; goes on after step" in command.said
    assert len(losses(command)) == 2040
