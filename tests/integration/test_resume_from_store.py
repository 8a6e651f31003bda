"""A run stopped with its checkpoints on an S3 server and gone on with on another node is the run that never stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.store import Store
from tests.integration.ranks import on_ranks
from tests.integration.test_parity import base, tokens_path
from tests.integration.test_resume import LAYOUT_TOLERANCE, Part, final_weights, trained
from tests.s3 import S3Server
from trainers.checkpoint import best_name, read_weights

__all__ = ["base", "tokens_path"]


def stored_weights(place: str) -> dict[str, torch.Tensor]:
    return read_weights(Store(place).reading(best_name(10)))


def test_it_is_the_unbroken_run_on_the_same_ranks_and_on_others(
    base: Path, tokens_path: Path, tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, whole = s3.new_bucket(), tmp_path / "whole"
    same, others = f"{home}/same", f"{home}/others"
    monkeypatch.setenv("HOME", str(tmp_path / "node"))
    begun: list[Any] = [Part(whole, "full", 2), Part(same, "full", 2, 5), Part(others, "full", 2, 5)]
    (unbroken, *stopped) = on_ranks(trained, 2, base, tokens_path, begun)
    assert [(began, max(losses), done) for began, losses, done in stopped] == [(0, 5, False)] * 2

    monkeypatch.setenv("HOME", str(tmp_path / "another node"))
    (rest,) = on_ranks(trained, 2, base, tokens_path, [Part(same, "full", 2)])
    assert (rest[0], rest[2]) == (5, True)
    assert stopped[0][1] | rest[1] == unbroken[1]
    weights = final_weights(whole)
    for name, value in stored_weights(same).items():
        assert torch.equal(value, weights[name]), name

    (rest,) = on_ranks(trained, 1, base, tokens_path, [Part(others, "full", 0)])
    assert (rest[0], rest[2]) == (5, True)
    drawn = max((value - weights[name]).abs().max() for name, value in stored_weights(others).items())
    assert drawn <= LAYOUT_TOLERANCE
