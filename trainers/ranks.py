"""Who a training worker is among the others, and the few words they exchange outside the engine."""

from __future__ import annotations

import os
import platform
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

Value = TypeVar("Value")
ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
"""Where DeepSpeed looks for the rank of a process that nobody launched."""


@dataclass(frozen=True)
class Ranks:
    """A worker's rank among ``world_size``, and the device that it computes on."""

    rank: int
    world_size: int
    device: torch.device

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.world_size > 1:
            dist.barrier()

    def from_first(self, value: Value) -> Value:
        """Return rank 0's value on every rank; what the others give is ignored."""
        if self.world_size == 1:
            return value
        shared = [value]
        dist.broadcast_object_list(shared, device=self.device)
        return shared[0]

    def from_all(self, value: Value) -> list[Value]:
        """Return every rank's value, in order of rank, on every rank."""
        if self.world_size == 1:
            return [value]
        shared: list[Any] = [None] * self.world_size
        dist.all_gather_object(shared, value)
        return shared


@contextmanager
def world() -> Generator[Ranks]:
    """Yield who this process is among those that torchrun started, with their process group set up."""
    set_before = os.environ.keys() & ALONE.keys()
    try:
        yield join_world()
    finally:
        dist.destroy_process_group()
        for name in ALONE.keys() - set_before:
            os.environ.pop(name, None)


def join_world() -> Ranks:
    """Set up the process group, of torchrun's ranks or of this process alone, unless it is up; return who this is."""
    on_gpu = torch.cuda.is_available()
    if not dist.is_initialized():
        backend = "nccl" if on_gpu else "gloo"
        if "RANK" in os.environ:
            dist.init_process_group(backend)
        else:
            os.environ |= ALONE
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # pyright: ignore[reportPrivateImportUsage]
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    return Ranks(dist.get_rank(), dist.get_world_size(), device)


def on_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor to a device; to a GPU from pinned memory, so that the host does not wait for what it is doing."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def device_name(device: torch.device) -> str:
    """Return the model of a GPU or of the machine's processor; its architecture where it says no more."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return value.strip()
    return platform.machine()
