"""Sums through shared memory are sums, gathers are gathers, and the maps leave nothing behind in /dev/shm."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.integration.ranks import on_ranks
from trainers import shared_sums
from trainers.ranks import Ranks
from trainers.shared_sums import Pages, offer_shared_memory, shared_sum, use_shared_memory

pytestmark = pytest.mark.integration


def names(port: str) -> list[str]:
    maps = Path("/dev/shm")
    return [
        path.name
        for name in ("deepspeed_allreduce_buffer_*_{}_*", "hone_pages_*_{}")
        for path in maps.glob(name.format(port))
    ]


def started(ranks: Ranks) -> bool:
    import deepspeed

    from trainers.ops import prepare_cpu_collective

    prepare_cpu_collective()
    offered = offer_shared_memory(ranks)
    deepspeed.init_distributed("gloo")
    return offered and use_shared_memory(ranks)


def collected(ranks: Ranks) -> tuple[bool, list[str], list[bool]]:
    from deepspeed.comm import comm

    used = started(ranks)
    ranks.barrier()
    left = names(os.environ["MASTER_PORT"])
    generator = torch.Generator().manual_seed(ranks.rank)
    same: list[bool] = []
    for count in (3, 20_000, 9_000_001):  # gloo's, one chunk, several chunks of 32 MB
        given = torch.randn(count, generator=generator)
        expected, gathered = given.clone(), torch.empty(ranks.world_size * count)
        dist.all_reduce(expected)
        ours = given.clone()
        comm.all_reduce(ours)
        same.append(torch.allclose(ours, expected, rtol=1e-6, atol=1e-6))
        dist.all_gather_into_tensor(gathered, given)
        apart, in_place = torch.empty_like(gathered), torch.full_like(gathered, 7.0)
        comm.all_gather_into_tensor(apart, given)
        own = in_place[ranks.rank * count : (ranks.rank + 1) * count]
        own.copy_(given)
        comm.all_gather_into_tensor(in_place, own)
        same += [torch.equal(apart, gathered), torch.equal(in_place, gathered)]
    return used, left, same


def test_shared_sums_and_gathers_are_gloos() -> None:
    used, left, same = on_ranks(collected, 2)
    assert used
    assert left == []
    assert all(same), same


def in_pieces(ranks: Ranks) -> bool:
    assert started(ranks)
    shared_sums.MOST_ELEMENTS = shared_sums.PAGE_ELEMENTS = 1000
    given = torch.full((2345,), float(ranks.rank + 1))
    shared_sum(given)
    pages = Pages.shared_by(ranks)
    right = bool((given == 3).all()) and not list(Path("/dev/shm").glob("hone_pages_*"))
    for turn in range(50):
        gathered = torch.empty(2 * 2345)
        pages.gather(gathered, torch.full((2345,), float(ranks.rank + turn)))
        right &= gathered.unique(return_counts=True)[1].tolist() == [2345, 2345]
    return right


def test_what_is_too_large_for_one_call_is_summed_in_pieces() -> None:
    assert on_ranks(in_pieces, 2)


def without_room(ranks: Ranks) -> bool:
    shared_sums.RANK_BYTES = 2**60
    return offer_shared_memory(ranks)


def test_a_small_shared_memory_is_left_alone() -> None:
    assert on_ranks(without_room, 2) is False
