"""Rows on disk that are read like a list: a million of them take eight bytes each in memory.

Audit, splits and tokenisation look at all rows several times. Held as objects a row takes one to three kilobytes, so
they lie in one file instead and are decoded when they are looked at (2 to 4 µs). Views pick and chain rows without
reading any. All of them can be handed to another process, which opens the files anew. Nothing is mapped: pages of a
mapped file count as the process's memory. The file is scratch of one run and one version of Python (``marshal``, a
quarter of the time of JSON), never an artifact.
"""

from __future__ import annotations

import marshal
import os
import sys
import weakref
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from trainers.rows import Row

READ_BYTES = 2**20
MARSHAL_VERSION = 2
"""The last one that writes equal rows as equal bytes, whatever objects they share."""


class RowSequence(Sequence[Row]):
    """A sequence of rows of which slices are not supported: a slice would hold its rows in memory."""

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        """Return one row."""
        assert isinstance(index, int), "rows are read one at a time"
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.row(index)

    def row(self, index: int) -> Row:
        """Return the row at ``index``, 0 to below the length."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Row]:
        """Yield all rows in order."""
        return map(self.row, range(len(self)))


class RowFile(RowSequence):
    """The rows of one file written by ``RowFile.write``; the file may be unlinked while it is open."""

    def __init__(self, path: Path, starts: NDArray[np.int64]) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        self._starts = starts

    def __reduce__(self) -> tuple[type[RowFile], tuple[Path, NDArray[np.int64]]]:
        """Be opened anew where it is unpickled."""
        return RowFile, (self._path, self._starts)

    @classmethod
    def write(cls, path: Path, rows: Iterable[Row]) -> RowFile:
        """Write rows in order and return them as a sequence."""
        starts = [0]
        with path.open("wb") as file:
            for row in rows:
                starts.append(starts[-1] + file.write(_encoded(row)))
        return cls(path, np.asarray(starts, np.int64))

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._starts) - 1

    def row(self, index: int) -> Row:
        """Read and decode one row."""
        start, end = int(self._starts[index]), int(self._starts[index + 1])
        return _decoded(os.pread(self._descriptor, end - start, start))

    def __iter__(self) -> Iterator[Row]:
        """Yield all rows in order, reading ahead."""
        first = 0
        while first < len(self):
            start = int(self._starts[first])
            last = max(first + 1, int(np.searchsorted(self._starts, start + READ_BYTES, side="right")) - 1)
            data = memoryview(os.pread(self._descriptor, int(self._starts[last]) - start, start))
            ends = (self._starts[first : last + 1] - start).tolist()
            yield from (_decoded(data[begin:end]) for begin, end in pairwise(ends))
            first = last


class PickedRows(RowSequence):
    """Some rows of a sequence, by their places (N,)."""

    def __init__(self, rows: Sequence[Row], places: NDArray[np.int64]) -> None:
        self._rows = rows
        self._places = places

    def __len__(self) -> int:
        """Return the number of rows picked."""
        return len(self._places)

    def row(self, index: int) -> Row:
        """Return one row."""
        return self._rows[int(self._places[index])]


class ChainedRows(RowSequence):
    """Several sequences one after another."""

    def __init__(self, parts: Iterable[Sequence[Row]]) -> None:
        self._parts = list(parts)
        self._ends = np.cumsum([len(part) for part in self._parts], dtype=np.int64)

    def __len__(self) -> int:
        """Return the number of rows in all parts."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def row(self, index: int) -> Row:
        """Return one row."""
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self._parts[part][index - (int(self._ends[part - 1]) if part else 0)]

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows part by part."""
        for part in self._parts:
            yield from part


def _encoded(row: Row) -> bytes:
    fields = (row.messages, row.label, row.references, row.group, row.source, row.where, row.synthetic, row.extra)
    return marshal.dumps(fields, MARSHAL_VERSION)


def _decoded(data: bytes | memoryview) -> Row:
    messages, label, references, group, source, where, synthetic, extra = marshal.loads(data)
    named = label if label is None else sys.intern(label)
    return Row(messages, named, references, group, sys.intern(source), where, synthetic, extra)
