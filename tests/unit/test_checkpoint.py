from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cluster.errors import StoreError
from trainers.checkpoint import load_weights, read_weights, save_weights, shard_owner


@given(st.lists(st.integers(0, 10**9), max_size=40), st.integers(1, 8))
def test_shards_are_balanced_to_within_the_largest_parameter(sizes: list[int], ranks: int) -> None:
    owner = shard_owner(sizes, ranks)
    load = [sum(size for size, o in zip(sizes, owner, strict=True) if o == rank) for rank in range(ranks)]
    assert max(load) - min(load) <= max(sizes, default=0)


def saved(model: nn.Module, directory: Path, ranks: int) -> None:
    for rank in range(ranks):
        save_weights(model.named_parameters(), directory, rank=rank, num_ranks=ranks, zero_stage=0)


@pytest.mark.parametrize("ranks", [1, 3])
def test_weights_come_back_bit_for_bit_whatever_the_number_of_ranks(tmp_path: Path, ranks: int) -> None:
    torch.manual_seed(0)
    model, other = nn.Linear(5, 3), nn.Linear(5, 3)
    saved(model, tmp_path, ranks)
    load_weights(other, read_weights(tmp_path))
    assert torch.equal(model.weight, other.weight)
    assert torch.equal(model.bias, other.bias)


def test_a_missing_shard_is_an_error(tmp_path: Path) -> None:
    saved(nn.Linear(5, 3), tmp_path, 2)
    (tmp_path / "weights-1-of-2.safetensors").unlink()
    with pytest.raises(StoreError, match="1 of 2"):
        read_weights(tmp_path)


def test_weights_of_another_model_are_refused_by_name_or_shape(tmp_path: Path) -> None:
    saved(nn.Linear(5, 3), tmp_path, 1)
    with pytest.raises(StoreError, match="weight"):
        load_weights(nn.Linear(4, 3), read_weights(tmp_path))
    with pytest.raises(StoreError, match="differ in"):
        load_weights(nn.Sequential(nn.Linear(5, 3)), read_weights(tmp_path))
