"""What every place for checkpoints promises, for several ranks: a shared directory, a store in memory, an S3 server."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import pytest
import torch
from torch import nn

from cluster.errors import StoreError
from cluster.store import Store
from trainers import checkpoint_places
from trainers.checkpoint import Checkpoints, best_place, drop_checkpoints, read_weights
from trainers.loop_state import Best, LoopState
from trainers.ranks import Ranks
from trainers.shards import ShardReader

Value = TypeVar("Value")
RANKS = 3


@dataclass(frozen=True)
class Thread(Ranks):
    """A rank that is a thread of this process."""

    meeting: threading.Barrier = field(default_factory=lambda: threading.Barrier(1))
    shared: dict[str, Any] = field(default_factory=dict)

    def barrier(self) -> None:
        self.meeting.wait(30)

    def from_first(self, value: Value) -> Value:
        if self.rank == 0:
            self.shared["value"] = value
        self.meeting.wait(30)
        found = self.shared["value"]
        self.meeting.wait(30)
        return found


def on_threads(function: Callable[[Ranks], Value], num_ranks: int = RANKS) -> list[Value]:
    meeting, shared = threading.Barrier(num_ranks), {}
    ranks = [Thread(rank, num_ranks, torch.device("cpu"), meeting, shared) for rank in range(num_ranks)]
    with ThreadPoolExecutor(num_ranks) as pool:
        return list(pool.map(function, ranks))


@pytest.fixture(params=["directory", "memory", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HOME", str(tmp_path / "node"))
    if request.param == "directory":
        return str(tmp_path / "checkpoints")
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}/checkpoints"
    return f"{request.getfixturevalue('s3').new_bucket()}/runs/r/checkpoints"


class Engine:
    """What a checkpoint reads of an engine at ZeRO stage 0: torch's own AdamW."""

    def __init__(self, model: nn.Module) -> None:
        self.basic_optimizer = self.optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        self.optimizer.step()


def saved(root: str, steps: list[int], best: int = 0, keep: int = 2, num_ranks: int = RANKS) -> nn.Module:
    """Save as a run does, and return the model that every rank saved its share of."""

    def run(ranks: Ranks) -> nn.Module:
        model = nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 7))
        for place, parameter in enumerate(model.parameters()):
            nn.init.constant_(parameter, place + 1.5)
        engine, kept = Engine(model), Checkpoints(root, ranks, keep)
        named = list(model.named_parameters())
        if best:
            kept.save_best(named, best, {"logits": torch.ones(2, 3)}, {best})
        for step in steps:
            kept.save(engine, named, LoopState(step=step, best=Best(step=best, value=1.0)))
        kept.wait()
        ranks.barrier()
        return model

    return on_threads(run, num_ranks)[0]


def newest(root: str, num_ranks: int, warnings: list[str]) -> list[tuple[Path, LoopState] | None]:
    return on_threads(lambda ranks: Checkpoints(root, ranks, 2).newest(warnings.append), num_ranks)


def on_another_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "another node"))


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_other_ranks_on_another_node_find_the_newest_as_it_was_saved(
    root: str, num_ranks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = saved(root, [10, 20], best=10)
    on_another_node(monkeypatch, tmp_path)
    warnings: list[str] = []
    for found in newest(root, num_ranks, warnings):
        assert found is not None
        path, state = found
        assert (state.step, state.best.step, state.best.value) == (20, 10, 1.0)
        shards = ShardReader(path)
        for name, parameter in model.named_parameters():
            assert torch.equal(shards[f"weights/{name}"], parameter.detach())
            assert {f"exp_avg/{name}", f"exp_avg_sq/{name}"} <= set(shards)
    assert warnings == []
    best = Store(root).reading("best-00000010")
    assert torch.equal(read_weights(best)["0.bias"], model.get_parameter("0.bias").detach())
    assert best_place(root, 10).endswith("/best-00000010")


def test_only_the_newest_are_kept_and_the_best_they_need(root: str) -> None:
    saved(root, [], best=5)
    saved(root, [10, 20, 30], best=8)
    assert Store(root).list() == ["best-00000008", "step-00000020", "step-00000030"]


def test_a_step_saved_again_replaces_the_one_before(root: str) -> None:
    saved(root, [10], num_ranks=3)
    saved(root, [10], num_ranks=1)
    assert Store(root).list("step-00000010") == ["manifest.json", "shard-0-of-1.safetensors", "state.json"]
    assert newest(root, 1, []) != [None]


def damaged(root: str, name: str, content: bytes | None) -> None:
    fs, base = fsspec.core.url_to_fs(root, use_listings_cache=False)
    if content is None:
        fs.rm_file(f"{base}/{name}")
    else:
        fs.pipe_file(f"{base}/{name}", content)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("shard-1-of-3.safetensors", b"other"),
        ("shard-1-of-3.safetensors", None),
        ("manifest.json", None),
        ("state.json", b"{}"),
    ],
)
def test_a_broken_one_is_passed_over(
    root: str, file: str, content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(root, [10, 20])
    damaged(root, f"step-00000020/{file}", content)
    on_another_node(monkeypatch, tmp_path)
    warnings: list[str] = []
    (found,) = newest(root, 1, warnings)
    assert found is not None
    assert found[1].step == 10
    assert all("step-00000020" in warning for warning in warnings)
    assert warnings or file == "manifest.json", "what has no manifest was never a checkpoint of a store"


def test_a_checkpoint_whose_best_weights_are_damaged_is_passed_over(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(root, [10], best=10)
    damaged(root, "best-00000010/probe.safetensors", b"")
    on_another_node(monkeypatch, tmp_path)
    warnings: list[str] = []
    assert newest(root, 1, warnings) == [None]
    assert "probe.safetensors" in warnings[0]


def test_a_shard_that_never_comes_leaves_no_checkpoint(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_places, "SHARDS_TIMEOUT_S", 0.3)
    for kind in (checkpoint_places.SharedDirectory, checkpoint_places.StoredCheckpoints):
        whole = kind.hand_in

        def hand_in(self: Any, name: str, shard: str, whole: Callable[..., None] = whole) -> None:
            if not shard.startswith("shard-1"):
                whole(self, name, shard)

        monkeypatch.setattr(kind, "hand_in", hand_in)
    with pytest.raises(StoreError, match="shard-1-of-3"):
        saved(root, [10])
    monkeypatch.undo()
    assert newest(root, 2, []) == [None, None]


def test_dropped_checkpoints_leave_the_best_weights_unless_those_too(root: str) -> None:
    saved(root, [10], best=10)
    Store(root).put_text("{}", "trial.json")
    drop_checkpoints(root, weights=False)
    assert Store(root).list() == ["best-00000010", "trial.json"]
    drop_checkpoints(root, weights=True)
    assert Store(root).list() == ["trial.json"]


def test_a_node_keeps_no_shards_after_they_are_stored(root: str, tmp_path: Path) -> None:
    saved(root, [10, 20], best=10)
    assert not list((tmp_path / "node").rglob("*.safetensors"))
