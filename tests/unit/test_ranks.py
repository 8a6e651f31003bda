from __future__ import annotations

import os

import torch
import torch.distributed as dist

from trainers.ranks import on_device, world


def test_a_process_alone_can_be_a_world_several_times_and_leaves_no_trace() -> None:
    before = dict(os.environ)
    for _ in range(2):
        with world() as ranks:
            assert (ranks.rank, ranks.world_size) == (0, 1)
            assert ranks.from_first("a") == "a"
            value = torch.ones(3)
            dist.all_reduce(value)
            assert value.tolist() == [1.0, 1.0, 1.0]
        assert not dist.is_initialized()
        assert dict(os.environ) == before


def test_a_tensor_that_is_where_it_belongs_is_not_copied() -> None:
    tensor = torch.arange(3)
    assert on_device(tensor, torch.device("cpu")) is tensor
