"""Arrays that lie in unnamed files instead of in memory, for what is written once and read in few places at a time.

A mapped page counts as the process's memory until it is let go, so whoever fills or reads an array says when it may
``rest``: the pages leave the process, the system writes them when it likes and keeps them cached while there is room.
The files have no name, so nothing is left behind however the process ends. Left out: sorting, and sharing them.
"""

from __future__ import annotations

import math
import mmap
import tempfile
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)


class DiskArrays:
    """Makes arrays, all in files of one folder (the system's for temporary files unless named)."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._maps: list[mmap.mmap] = []

    def empty(self, shape: tuple[int, ...], dtype: type[Scalar]) -> NDArray[Scalar]:
        """Return a new array of zeros of at least one element."""
        num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        with tempfile.TemporaryFile(dir=self._folder) as file:
            file.truncate(num_bytes)
            mapped = mmap.mmap(file.fileno(), num_bytes)
        self._maps.append(mapped)
        return np.frombuffer(mapped, dtype).reshape(shape)

    def rest(self) -> None:
        """Let the pages of all arrays leave this process's memory; nothing is lost."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for mapped in self._maps:
                mapped.madvise(mmap.MADV_DONTNEED)
