"""Named fp32 tensors ↔ safetensors files, one a rank, written a tensor at a time.

The tensors are dealt to the ranks by size. A shard's header is written first, since shapes are known, and each tensor
goes to the file as soon as it is there: a rank never holds more than one. Nothing is pickled, and reading needs no
process group, so any number of workers, or a laptop, reads what any number wrote.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from safetensors import safe_open
from torch import Tensor

from cluster.errors import StoreError

FP32_BYTES = 4
Named = tuple[str, tuple[int, ...]]


def shard_owner(sizes: Sequence[int], num_ranks: int) -> list[int]:
    """Return the rank that writes each tensor: largest first to the lightest rank."""
    load = [0] * num_ranks
    owner = [0] * len(sizes)
    for index in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        rank = min(range(num_ranks), key=lambda r: load[r])
        owner[index] = rank
        load[rank] += sizes[index]
    return owner


def shard_name(rank: int, num_ranks: int) -> str:
    """Return the name of a rank's file."""
    return f"shard-{rank}-of-{num_ranks}.safetensors"


class ShardWriter:
    """Writes one safetensors file of fp32 tensors whose names and shapes are known beforehand, in that order."""

    def __init__(self, path: Path, tensors: Sequence[Named]) -> None:
        self._left = iter(tensors)
        self._file = path.open("wb")
        header = json.dumps(_header(tensors)).encode()
        header += b" " * (-len(header) % 8)
        self._file.write(struct.pack("<Q", len(header)) + header)

    def write(self, name: str, value: Tensor) -> None:
        """Write the next tensor."""
        assert (name, tuple(value.shape)) == next(self._left), f"{name} is not the next tensor of this shard"
        self._file.write(value.detach().to("cpu", torch.float32).contiguous().numpy().data)

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close the file."""
        self._file.close()
        assert error is not None or next(self._left, None) is None, "a shard lacks tensors that its header names"


def _header(tensors: Sequence[Named]) -> dict[str, object]:
    header: dict[str, object] = {}
    end = 0
    for name, shape in tensors:
        start, end = end, end + FP32_BYTES * prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    return header


class ShardReader:
    """The tensors of all shards in a directory, read one at a time. Raises StoreError where a shard is missing."""

    def __init__(self, directory: Path) -> None:
        found = sorted(directory.glob("shard-*-of-*.safetensors"))
        expected = int(found[0].stem.rsplit("-", 1)[-1]) if found else 1
        if len(found) != expected:
            raise StoreError(
                f"{directory} holds {len(found)} of {expected} shards", "train again, or use another checkpoint"
            )
        self._opened = [safe_open(path, framework="pt") for path in found]
        self._in = {name: opened for opened in self._opened for name in opened.keys()}  # noqa: SIM118 (no mapping)

    def __iter__(self) -> Iterator[str]:
        """Yield the names of all tensors."""
        return iter(self._in)

    def __getitem__(self, name: str) -> Tensor:
        """Read one tensor, fp32, on the CPU."""
        return self._in[name].get_tensor(name)
