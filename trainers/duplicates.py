"""Rows → which of them are the same, and the texts in which near-duplicates are looked for (``trainers.minhash``).

*Exact*: input, answer and references are equal after NFKC and collapsed white space (the case is kept: it may be the
answer). *Same input*: equal also without the case. Everything is by 64-bit hashes and numpy, a few bytes a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainers.folded_text import collapsed, folded, text_hashes

if TYPE_CHECKING:
    from trainers.rows import Row

IntArray = NDArray[np.int64]
BOILERPLATE_CHARS = 40
GENERAL_FRAC = 0.05
GENERAL_ROWS = 20


class RowHashes(NamedTuple):
    """64-bit hashes of every row, each of shape (N,): the row as it stands, and its input without the case."""

    exact: NDArray[np.uint64]
    input: NDArray[np.uint64]


def row_hashes(rows: Iterable[Row]) -> RowHashes:
    """Return the hashes that decide which rows are exact duplicates and which share their input."""
    both = text_hashes(text for row in rows for text in _compared(row))
    return RowHashes(both[::2].copy(), both[1::2].copy())


def _compared(row: Row) -> tuple[str, str]:
    """Return what makes a row equal to another, and what makes its input so."""
    asked = "\x1e".join(f"{m['role']}\x1f{collapsed(m['content'])}{m.get('tool_calls', '')}" for m in row.prompt)
    last = row.messages[-1]
    answer = collapsed(last["content"]) + last.get("tool_calls", "")
    # Plain text has no input that two rows could share: the text itself stands for it.
    right = "".join(f"\x1e{text}" for text in sorted(map(collapsed, row.references)))
    return f"{asked}\x1d{answer}{right}", asked.lower() if row.prompt else f"\x1d{answer.lower()}"


def general_inputs(inputs: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Tell for each input hash (N,) whether it is a general instruction that a large share of rows carries.

    Such rows differ in their answers alone: the instruction is no input that could leak or tie them together.
    """
    _, inverse, counts = np.unique(inputs, return_inverse=True, return_counts=True)
    return (counts[inverse] >= GENERAL_ROWS) & (counts[inverse] > GENERAL_FRAC * len(inputs))


class NearTexts:
    """The folded text of every row that near-duplicates are looked for in, made when it is looked at.

    Input and answer, or the input alone where the answer is a label. System turns and a long beginning or end that
    nine in ten rows share are left out: an instruction repeated in every row would make all of them look alike.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows
        self._head = self._tail = ""
        sample = [_near_text(rows[index]) for index in range(0, len(rows), max(1, len(rows) // 2000))]
        head = _shared_prefix(sample)
        tail = _shared_prefix([text[::-1] for text in sample])[::-1]
        self._head = head if len(head) >= BOILERPLATE_CHARS else ""
        self._tail = tail if len(tail) >= BOILERPLATE_CHARS else ""

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._rows)

    def __getitem__(self, index: int) -> str:
        """Return the text of one row."""
        return self._own(_near_text(self._rows[index]))

    def __iter__(self) -> Iterator[str]:
        """Yield the texts in order."""
        return map(self._own, map(_near_text, self._rows))

    def _own(self, text: str) -> str:
        return text.removeprefix(self._head).removesuffix(self._tail).strip()


def _near_text(row: Row) -> str:
    turns = [m["content"] for m in row.prompt if m["role"] != "system"]
    answer = [] if row.is_labelled and turns else [row.completion]
    return folded("\n".join(turns + answer))


def _shared_prefix(texts: list[str]) -> str:
    """Return the longest prefix of the middle 90 % of the texts in sorted order."""
    ordered = sorted(texts)
    if len(ordered) < 2:
        return ""
    edge = len(ordered) // 20
    low, high = ordered[edge], ordered[-1 - edge]
    same = next((at for at, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    return low[:same]


def same_key_pairs(keys: NDArray[np.uint64]) -> tuple[IntArray, IntArray]:
    """Return, for every row whose key (N,) was seen before, the first row with that key and the row itself."""
    first, copies = first_occurrences(keys)
    return first[copies], copies


def connected_groups(n: int, *pairs: tuple[IntArray, IntArray]) -> IntArray:
    """Return for each of ``n`` rows the smallest row that it is connected to by the pairs: shape (n,).

    Every round hooks the larger of two roots to the smaller and flattens the trees, for all pairs at once.
    """
    left = np.concatenate([np.empty(0, np.int64), *(np.asarray(i, np.int64) for i, _ in pairs)])
    right = np.concatenate([np.empty(0, np.int64), *(np.asarray(j, np.int64) for _, j in pairs)])
    root = np.arange(n, dtype=np.int64)
    while len(left):
        a, b = root[left], root[right]
        open_pairs = a != b
        left, right, a, b = left[open_pairs], right[open_pairs], a[open_pairs], b[open_pairs]
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(flatter := root[root], root):
            root = flatter
    return root


def first_occurrences(keys: NDArray[np.uint64]) -> tuple[IntArray, IntArray]:
    """Return the first row with each row's key, shape (N,), and the rows that are not the first."""
    _, first_of, inverse = np.unique(keys, return_index=True, return_inverse=True)
    first = first_of[inverse].astype(np.int64)
    return first, np.flatnonzero(first != np.arange(len(first)))
