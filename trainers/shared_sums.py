"""Sums and gathers over the ranks of one machine through shared memory, where they would go through gloo's sockets.

DeepSpeed compiles such a sum for CPUs and uses it for inference; here its backend object, which every ZeRO stage goes
through, uses it for what training sums (gradients). What it gathers (updated parameters) every rank copies from a page
of the others. Between 2 ranks a sum of 70 MB took 18 ms, gloo's 60; a gather 13 to 16, gloo's 76 (torch 2.13,
benchmarks/results/ray_overhead.md). Every rank adds in the same order, so a run is as repeatable as before. Offered to
DeepSpeed before it starts, tried against gloo after that, and not used where ranks are on several machines or the
shared memory of a container is small.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from math import prod
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from trainers.ranks import Ranks

SHARED = Path("/dev/shm")
PAGE_ELEMENTS = 2**22
"""What a rank shows the others of its part at once."""
RANK_BYTES = 72 * 2**20 + 2 * 4 * PAGE_ELEMENTS
"""What DeepSpeed maps for each rank (csrc/cpu/comm/shm.cpp, ``allreduce_workspace``), some more, and its pages."""
LARGE_BYTES = 2**16
"""Smaller tensors stay with gloo: who waits there sleeps."""
MOST_ELEMENTS = 2**26
"""Of one call: it counts bytes in an int."""
TRIED_ELEMENTS = 2**20


def offer_shared_memory(ranks: Ranks) -> bool:
    """Let DeepSpeed, which is not started yet, map shared memory, where all ranks can use it (collective)."""
    if ranks.world_size == 1 or ranks.device.type != "cpu":
        return False
    free_bytes = shutil.disk_usage(SHARED).free if SHARED.is_dir() else 0
    mine = (platform.node(), _boot(), free_bytes >= ranks.world_size * RANK_BYTES and "MASTER_PORT" in os.environ)
    everyones: list[Any] = [None] * ranks.world_size
    dist.all_gather_object(everyones, mine)
    if any(others != mine for others in everyones) or not mine[2]:
        return False
    os.environ["LOCAL_SIZE"] = str(ranks.world_size)
    return True


def use_shared_memory(ranks: Ranks, engine: Any = None) -> bool:
    """Let DeepSpeed's backend sum and gather through what it mapped; return whether it does (collective).

    An engine without ZeRO would copy all gradients together and apart again; it sums large ones where they lie.

    The maps lose their names here, so nothing stays behind whatever ends the processes.
    """
    from deepspeed.comm import comm

    backend: Any = comm.cdb
    dist.barrier()
    address, port = os.environ.get("MASTER_ADDR", ""), os.environ["MASTER_PORT"]
    with suppress(FileNotFoundError):
        (SHARED / f"deepspeed_allreduce_buffer_{os.getuid()}_{address}_{port}_{ranks.rank}").unlink()
    if not _agrees_with_gloo(ranks, backend):
        return False
    backend.all_reduce = _sum_or(backend.all_reduce, ranks.world_size)
    backend.all_gather_into_tensor = _gather_or(backend.all_gather_into_tensor, Pages.shared_by(ranks))
    if engine is not None and not engine.gradient_average:
        engine.allreduce_no_retain = _sums_or(engine.allreduce_no_retain, ranks.world_size)
    return True


def _agrees_with_gloo(ranks: Ranks, backend: Any) -> bool:
    if getattr(backend, "shm_vector_kernel_level", 0) < 1:
        return False
    given = torch.randn(TRIED_ELEMENTS, generator=torch.Generator().manual_seed(ranks.rank))
    expected = given.clone()
    dist.all_reduce(expected)
    shared_sum(given)
    agreed = torch.tensor(float(torch.allclose(given, expected, rtol=1e-6, atol=1e-6)))
    dist.all_reduce(agreed, op=dist.ReduceOp.MIN)
    return bool(agreed)


def shared_sum(tensor: Tensor) -> None:
    """Replace a contiguous fp32 tensor by its sum over the ranks."""
    for part in tensor.view(-1).split(MOST_ELEMENTS):
        torch.ops.deepspeed.inference_all_reduce_(part)


@dataclass(frozen=True)
class Pages:
    """Memory that the ranks of one machine share: two pages for each, ``(2, world, PAGE_ELEMENTS)`` fp32.

    A rank fills one page while others may still read the other; it comes back to a page after a barrier that nobody
    passes before having read it. So one barrier a page is enough.
    """

    ranks: Ranks
    pages: Tensor
    turns: Iterator[int] = field(default_factory=count)

    @classmethod
    def shared_by(cls, ranks: Ranks) -> Pages:
        """Map the pages (collective); the file has no name when this returns."""
        path = SHARED / f"hone_pages_{os.getuid()}_{os.environ['MASTER_PORT']}"
        shape = (2, ranks.world_size, PAGE_ELEMENTS)
        if ranks.rank == 0:
            path.unlink(missing_ok=True)
            with path.open("xb") as file:
                file.truncate(4 * prod(shape))
        dist.barrier()
        mapped = torch.from_file(str(path), shared=True, size=prod(shape), dtype=torch.float32)
        dist.barrier()
        if ranks.rank == 0:
            path.unlink()
        return cls(ranks, mapped.view(shape))

    def gather(self, output: Tensor, mine: Tensor) -> None:
        """Fill ``output`` (world × N,) with every rank's ``mine`` (N,), which may lie in its place there already."""
        parts = output.view(self.ranks.world_size, mine.numel())
        if parts[self.ranks.rank].data_ptr() != mine.data_ptr():
            parts[self.ranks.rank].copy_(mine.view(-1))
        for part in parts.split(PAGE_ELEMENTS, dim=1):
            shown = self.pages[next(self.turns) % 2, :, : part.shape[1]]
            shown[self.ranks.rank].copy_(part[self.ranks.rank])
            dist.barrier()
            for other in set(range(self.ranks.world_size)) - {self.ranks.rank}:
                part[other].copy_(shown[other])


def _fits(tensor: Tensor, group: Any, world_size: int) -> bool:
    is_plain = tensor.dtype == torch.float32 and tensor.is_contiguous() and tensor.device.type == "cpu"
    return is_plain and tensor.nbytes >= LARGE_BYTES and dist.get_world_size(group) == world_size


def _sum_or(plain: Callable[..., Any], world_size: int) -> Callable[..., Any]:
    def all_reduce(tensor: Tensor, op: Any = dist.ReduceOp.SUM, group: Any = None, async_op: bool = False) -> Any:
        if async_op or op not in (dist.ReduceOp.SUM, _deepspeed_sum()) or not _fits(tensor, group, world_size):
            return plain(tensor, op=op, group=group, async_op=async_op)
        with torch.no_grad():
            return shared_sum(tensor)

    return all_reduce


def _sums_or(plain: Callable[..., Any], world_size: int) -> Callable[..., Any]:
    def allreduce_no_retain(bucket: list[Tensor], dp_group: Any, **sizes: Any) -> None:
        with torch.no_grad():
            for tensor in bucket:
                if _fits(tensor, dp_group, world_size):
                    shared_sum(tensor)
        plain([tensor for tensor in bucket if not _fits(tensor, dp_group, world_size)], dp_group, **sizes)

    return allreduce_no_retain


def _gather_or(plain: Callable[..., Any], pages: Pages) -> Callable[..., Any]:
    def all_gather(output_tensor: Tensor, input_tensor: Tensor, group: Any = None, async_op: bool = False) -> Any:
        if async_op or not _fits(output_tensor, group, pages.ranks.world_size):
            return plain(output_tensor, input_tensor, group=group, async_op=async_op)
        with torch.no_grad():
            return pages.gather(output_tensor, input_tensor)

    return all_gather


def _deepspeed_sum() -> Any:
    from deepspeed.comm.reduce_op import ReduceOp

    return ReduceOp.SUM


def _boot() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text()
    return ""
