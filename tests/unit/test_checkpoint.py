from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from cluster.errors import StoreError
from trainers.checkpoint import Checkpoints, best_directory, load_weights, read_weights
from trainers.loop_state import Best, LoopState
from trainers.ranks import Ranks
from trainers.shards import ShardReader, ShardWriter, shard_name, shard_owner


class Engine:
    """What a checkpoint reads of an engine at ZeRO stage 0: torch's own AdamW."""

    def __init__(self, model: nn.Module) -> None:
        self.basic_optimizer = self.optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        self.optimizer.step()


@given(st.lists(st.integers(0, 10**9), max_size=40), st.integers(1, 8))
def test_shards_are_balanced_to_within_the_largest_parameter(sizes: list[int], ranks: int) -> None:
    owner = shard_owner(sizes, ranks)
    load = [sum(size for size, o in zip(sizes, owner, strict=True) if o == rank) for rank in range(ranks)]
    assert max(load) - min(load) <= max(sizes, default=0)


@pytest.mark.parametrize("ranks", [1, 3])
def test_tensors_come_back_bit_for_bit_whatever_the_number_of_shards(tmp_path: Path, ranks: int) -> None:
    torch.manual_seed(0)
    tensors = {"a": torch.randn(5, 3), "b": torch.randn(0), "c": torch.randn(()), "d": torch.randn(2, 2).bfloat16()}
    for rank in range(ranks):
        mine = list(tensors)[rank::ranks]
        with ShardWriter(tmp_path / shard_name(rank, ranks), [(n, tuple(tensors[n].shape)) for n in mine]) as shard:
            for name in mine:
                shard.write(name, tensors[name])
    shards = ShardReader(tmp_path)
    assert {name: shards[name].tolist() for name in shards} == {n: t.float().tolist() for n, t in tensors.items()}
    read = {
        name: value for rank in range(ranks) for name, value in load_file(tmp_path / shard_name(rank, ranks)).items()
    }
    assert read.keys() == tensors.keys()


def checkpoints(root: Path, keep: int = 2) -> Checkpoints:
    return Checkpoints(root, Ranks(0, 1, torch.device("cpu")), keep)


def saved(root: Path, steps: list[int], best: int = 0, keep: int = 2) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Linear(5, 3)
    engine, kept = Engine(model), checkpoints(root, keep)
    named = list(model.named_parameters())
    if best:
        kept.save_best(named, best, {"logits": torch.ones(2, 3)}, {best})
    for step in steps:
        kept.save(engine, named, LoopState(step=step, best=Best(step=best, value=1.0)))
    kept.wait()
    return model


def test_the_newest_checkpoint_holds_weights_moments_and_state(tmp_path: Path) -> None:
    model = saved(tmp_path, [10, 20], best=10)
    found = checkpoints(tmp_path).newest(pytest.fail)
    assert found is not None
    path, state = found
    assert (state.step, state.best.step, state.best.value) == (20, 10, 1.0)
    shards = ShardReader(path)
    assert set(shards) == {
        f"{kind}/{name}" for kind in ("weights", "exp_avg", "exp_avg_sq") for name in ("weight", "bias")
    }
    assert torch.equal(shards["weights/weight"], model.weight.detach())
    other = nn.Linear(5, 3)
    load_weights(other, read_weights(path))
    assert torch.equal(other.bias, model.bias)
    assert torch.equal(read_weights(best_directory(tmp_path, 10))["weight"], model.weight.detach())


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda newest: flip_a_byte(newest / "shard-0-of-1.safetensors"),
        lambda newest: (newest / "shard-0-of-1.safetensors").unlink(),
        lambda newest: (newest / "manifest.json").unlink(),
        lambda newest: (newest / "state.json").write_text("{}"),
    ],
    ids=["byte flipped", "shard missing", "manifest missing", "state changed"],
)
def test_a_broken_checkpoint_is_named_and_the_one_before_is_used(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    saved(tmp_path, [10, 20])
    damage(tmp_path / "step-00000020")
    warnings: list[str] = []
    found = checkpoints(tmp_path).newest(warnings.append)
    assert found is not None
    assert found[1].step == 10
    assert "step-00000020" in warnings[0]


def test_a_checkpoint_whose_best_weights_are_damaged_is_passed_over(tmp_path: Path) -> None:
    saved(tmp_path, [10], best=10)
    flip_a_byte(best_directory(tmp_path, 10) / "probe.safetensors")
    warnings: list[str] = []
    assert checkpoints(tmp_path).newest(warnings.append) is None
    assert "probe.safetensors" in warnings[0]


@pytest.mark.parametrize(("keep", "left"), [(1, ["step-00000030"]), (2, ["step-00000020", "step-00000030"])])
def test_only_the_newest_are_kept_and_the_best_they_need(tmp_path: Path, keep: int, left: list[str]) -> None:
    saved(tmp_path, [], best=5, keep=keep)
    saved(tmp_path, [10, 20, 30], best=8, keep=keep)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != ".aside") == ["best-00000008", *left]


def test_saving_needs_no_more_memory_than_one_parameters_state(tmp_path: Path) -> None:
    """Of 32 layers with a state of 12 MB each, less than three are in memory beside what was there before."""
    model = nn.Sequential(*(nn.Linear(1000, 1000) for _ in range(32)))
    engine, named = Engine(model), list(model.named_parameters())
    process, peak, over = psutil.Process(), [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.001):
            peak[0] = max(peak[0], process.memory_info().rss)

    kept = checkpoints(tmp_path)
    kept.save(engine, named, LoopState(step=1))  # what is loaded at the first time is not the checkpoint's
    before = process.memory_info().rss
    watcher = threading.Thread(target=watch)
    watcher.start()
    kept.save(engine, named, LoopState(step=2))
    kept.wait()
    over.set()
    watcher.join()
    assert peak[0] - before < 3 * 12e6


def test_what_a_killed_run_left_half_written_is_no_checkpoint(tmp_path: Path) -> None:
    saved(tmp_path, [10])
    (tmp_path / ".aside" / "step-00000020").mkdir()
    (tmp_path / ".aside" / "step-00000020" / "shard-0-of-1.safetensors").write_bytes(b"half")
    found = checkpoints(tmp_path).newest(pytest.fail)
    assert found is not None
    assert found[1].step == 10
    assert list((tmp_path / ".aside").iterdir()) == []


def test_a_full_disk_is_refused_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(StoreError, match="1,000 bytes free"):
        saved(tmp_path, [10])


def test_a_missing_shard_is_an_error(tmp_path: Path) -> None:
    saved(tmp_path, [10])
    (tmp_path / "step-00000010" / "shard-0-of-1.safetensors").rename(
        tmp_path / "step-00000010" / "shard-0-of-2.safetensors"
    )
    with pytest.raises(StoreError, match="1 of 2"):
        read_weights(tmp_path / "step-00000010")


def test_weights_of_another_model_are_refused_by_name_or_shape(tmp_path: Path) -> None:
    saved(tmp_path, [10])
    weights = read_weights(tmp_path / "step-00000010")
    with pytest.raises(StoreError, match="weight"):
        load_weights(nn.Linear(4, 3), weights)
    with pytest.raises(StoreError, match="differ in"):
        load_weights(nn.Sequential(nn.Linear(5, 3)), weights)
