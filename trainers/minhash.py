"""Texts → the pairs of them that are nearly the same.

Near means that the Jaccard similarity of the sets of character 5-grams is at least a threshold; the texts are compared
as they stand, so the caller folds what shall not count (``trainers.folded_text``).
Pairs are found by MinHash (Broder 1997) with banding (Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets",
ch. 3.4): rows that share a band of their signature are candidates, most of which the whole signature refuses; the rest
are verified by the true Jaccard similarity. Everything is numpy over blocks of texts: no library object per
row, no Python step per shingle, and never all texts at once. Signatures and bands take about 370 bytes a text; from
``ROWS_IN_MEMORY`` texts on they lie in unnamed files, and a band is sorted part by part, so that a few bytes a text
and a bounded rest are in memory. Identical texts are compared once, and
a bucket that is crowded is chained to its first row, so thousands of copies cost no more than thousands of rows. The
price: not every pair of a crowd is returned, but every row of it is in some pair.

Left out: similarity of meaning (paraphrases), and sampling of very long texts (the time grows with the characters).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from trainers.disk_arrays import DiskArrays
from trainers.duplicates import IntArray, first_occurrences
from trainers.folded_text import text_hashes

SHINGLE_CHARS = 5
BLOCK_CHARS = 100_000  # a block's shingles stay in the processor's cache
VERIFY_CHARS = 4_000_000
CROWD_ROWS = 24
ROWS_IN_MEMORY = 200_000
BLOCKS_A_REST = 500


class Texts(Protocol):
    """Texts that may be made only when they are looked at."""

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    def __getitem__(self, index: int, /) -> str:
        """Return one."""
        ...

    def __iter__(self) -> Iterator[str]:
        """Yield all in order."""
        ...


class NearPairs(NamedTuple):
    """Pairs of near-duplicates with i < j and their true Jaccard similarity, each array of shape (pairs,)."""

    i: IntArray
    j: IntArray
    jaccard: NDArray[np.float64]


def near_duplicate_pairs(
    texts: Texts,
    threshold: float = 0.8,
    num_hashes: int = 128,
    seed: int = 0,
    *,
    scratch: Path | None = None,
    rows_in_memory: int = ROWS_IN_MEMORY,
) -> NearPairs:
    """Return the pairs of texts whose 5-gram sets have a Jaccard similarity of at least ``threshold`` (above 0 to 1).

    A pair at the threshold is found with a probability of about 0.99, one above it with a higher one. A copy is paired
    with its first occurrence only, at similarity 1. Of more than ``rows_in_memory`` texts the signatures lie in
    ``scratch``; the pairs are the same.
    """
    hashes = text_hashes(texts)
    first, copies = first_occurrences(hashes)
    distinct = np.flatnonzero(first == np.arange(len(first)))
    hashing = Hashing.of(threshold, num_hashes, seed)
    each_once = (text for text, is_first in zip(texts, first == np.arange(len(first)), strict=True) if is_first)
    i, j = _likely_pairs(each_once, len(distinct), threshold, hashing, scratch, rows_in_memory)
    i, j = distinct[i], distinct[j]
    jaccard = _jaccard(texts, i, j)
    near = jaccard >= threshold
    return NearPairs(
        np.concatenate([first[copies], i[near]]),
        np.concatenate([copies, j[near]]),
        np.concatenate([np.ones(len(copies)), jaccard[near]]),
    )


class Hashing(NamedTuple):
    """The hash functions of a signature, and how many of them make a band."""

    factors: NDArray[np.uint32]
    shifts: NDArray[np.uint32]
    band_rows: int

    @classmethod
    def of(cls, threshold: float, num_hashes: int, seed: int) -> Hashing:
        """Return the functions of a seed."""
        rng = np.random.default_rng(seed)
        factors = rng.integers(0, 2**31, num_hashes, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
        return cls(factors, rng.integers(0, 2**32, num_hashes, dtype=np.uint32), _band_rows(threshold, num_hashes))

    @property
    def num_hashes(self) -> int:
        """Length of a signature."""
        return len(self.factors)

    @property
    def num_bands(self) -> int:
        """Bands in a signature."""
        return self.num_hashes // self.band_rows


def _likely_pairs(
    texts: Iterable[str],
    num_texts: int,
    threshold: float,
    hashing: Hashing,
    scratch: Path | None,
    rows_in_memory: int,
) -> tuple[IntArray, IntArray]:
    """Return the pairs, by place, that are near by their signatures, among texts of which no two are equal."""
    on_disk = DiskArrays(scratch) if num_texts > rows_in_memory else None
    empty = np.empty if on_disk is None else on_disk.empty
    signatures = empty((num_texts, hashing.num_hashes), np.uint16)
    bands = [empty((num_texts,), np.uint64) for _ in range(hashing.num_bands)]
    _sign(texts, hashing, signatures, bands, on_disk)
    # Three standard deviations of the estimate below the threshold: one true pair in a thousand is lost here.
    enough = threshold - 3 * np.sqrt(threshold * (1 - threshold) / hashing.num_hashes)
    found: list[NDArray[np.uint64]] = []
    for keys in bands:
        for i, j in _band_pairs(keys, rows_in_memory):
            alike = (signatures[i] == signatures[j]).mean(axis=1, dtype=np.float32) >= enough
            found.append(i[alike].astype(np.uint64) << np.uint64(32) | j[alike].astype(np.uint64))
            if on_disk is not None:
                on_disk.rest()
    pairs = np.unique(np.concatenate([np.empty(0, np.uint64), *found]))
    return (pairs >> np.uint64(32)).astype(np.int64), (pairs & np.uint64(0xFFFFFFFF)).astype(np.int64)


def _band_pairs(keys: NDArray[np.uint64], rows_in_memory: int) -> Iterator[tuple[IntArray, IntArray]]:
    """Yield the pairs of a band (R,), sorted in parts of about ``rows_in_memory`` rows; equal keys are in one part."""
    num_parts = len(keys) // rows_in_memory + 1
    for part in range(num_parts):
        if num_parts == 1:
            yield from _bucket_pairs(keys)
            continue
        chunks = range(0, len(keys), rows_in_memory)
        rows = np.concatenate(
            [at + np.flatnonzero(keys[at : at + rows_in_memory] % np.uint64(num_parts) == part) for at in chunks]
        )
        for i, j in _bucket_pairs(keys[rows]):
            yield rows[i], rows[j]


def _band_rows(threshold: float, num_hashes: int) -> int:
    """Return the most hashes per band with which a pair at the threshold shares a band with probability 0.99."""
    for rows in range(num_hashes, 1, -1):
        if 1 - (1 - threshold**rows) ** (num_hashes // rows) >= 0.99:
            return rows
    return 1


def _blocks(texts: Iterable[str], chars: int = BLOCK_CHARS) -> Iterator[list[str]]:
    """Yield the texts in blocks of about ``chars`` characters, at least one text each."""
    block: list[str] = []
    total = 0
    for text in texts:
        if block and total + len(text) > chars:
            yield block
            block, total = [], 0
        block.append(text)
        total += len(text)
    if block:
        yield block


def _shingles(texts: Sequence[str]) -> tuple[NDArray[np.uint32], IntArray]:
    """Return the hashed 5-grams of each text without repetition, end to end, and where each text's begin (R + 1,).

    A text shorter than 5 characters is one shingle, itself.
    """
    padded = [text.ljust(SHINGLE_CHARS, "\0") for text in texts]
    lengths = np.fromiter(map(len, padded), np.int64, len(padded))
    chars = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64)
    row_of_char = np.repeat(np.arange(len(padded), dtype=np.uint64), lengths)
    last = SHINGLE_CHARS - 1
    mixed = chars[: len(chars) - last]
    for offset in range(1, SHINGLE_CHARS):
        mixed = mixed * np.uint64(0x9E3779B97F4A7C15) + chars[offset : len(chars) - last + offset]
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)  # splitmix64's finaliser
    keys = (row_of_char[: len(mixed)] << np.uint64(32)) | (mixed >> np.uint64(32))
    keys = keys[row_of_char[: len(mixed)] == row_of_char[last:]]
    keys.sort()
    keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])]
    starts = np.searchsorted(keys, np.arange(len(padded) + 1, dtype=np.uint64) << np.uint64(32))
    return keys.astype(np.uint32), starts.astype(np.int64)


def _sign(
    texts: Iterable[str],
    hashing: Hashing,
    signatures: NDArray[np.uint16],
    bands: list[NDArray[np.uint64]],
    on_disk: DiskArrays | None,
) -> None:
    """Fill in 16 bits of every minimum, shape (R, hashes), and one key per row (R,) for each band."""
    stop = 0
    for number, block in enumerate(_blocks(texts), start=1):
        start, stop = stop, stop + len(block)
        shingles, starts = _shingles(block)
        minima = np.empty((hashing.num_hashes, len(block)), np.uint32)
        for k in range(hashing.num_hashes):
            np.minimum.reduceat(shingles * hashing.factors[k] + hashing.shifts[k], starts[:-1], out=minima[k])
        signatures[start:stop] = minima.T.astype(np.uint16)
        for band, keys in enumerate(bands):
            key = np.zeros(len(block), np.uint64)
            for row in minima[band * hashing.band_rows : (band + 1) * hashing.band_rows]:
                key = (key ^ row) * np.uint64(0x9E3779B97F4A7C15)
                key ^= key >> np.uint64(32)
            keys[start:stop] = key
        if on_disk is not None and number % BLOCKS_A_REST == 0:
            on_disk.rest()


def _bucket_pairs(keys: NDArray[np.uint64]) -> Iterator[tuple[IntArray, IntArray]]:
    """Yield pairs i < j of rows with equal keys (R,): all of a small bucket, the first with each other of a crowd."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    begins = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(keys) else np.empty(0, int)
    sizes = np.diff(np.append(begins, len(keys)))
    begin_of, size_of = np.repeat(begins, sizes), np.repeat(sizes, sizes)
    crowded = np.flatnonzero((size_of > CROWD_ROWS) & (np.arange(len(keys)) > begin_of))
    for at in np.array_split(crowded, len(crowded) // 100_000 + 1):
        yield order[begin_of[at]], order[at]
        yield order[at - 1], order[at]
    small = np.flatnonzero((size_of > 1) & (size_of <= CROWD_ROWS))
    for offset in range(1, CROWD_ROWS):
        small = small[small + offset < (begin_of + size_of)[small]]
        for at in np.array_split(small, len(small) // 100_000 + 1):
            yield order[at], order[at + offset]


def _jaccard(texts: Texts, i: IntArray, j: IntArray) -> NDArray[np.float64]:
    """Return the true Jaccard similarity of each pair; ``i`` is sorted. Shingles are made anew, chunk by chunk."""
    rows, local = np.unique(np.concatenate([i, j]), return_inverse=True)
    lengths = np.fromiter((len(texts[row]) for row in rows.tolist()), np.int64, len(rows))[local]
    chunk_of = np.cumsum(lengths[: len(i)] + lengths[len(i) :]) // VERIFY_CHARS
    cuts = np.flatnonzero(np.diff(chunk_of)) + 1
    parts = [_chunk_jaccard(texts, a, b) for a, b in zip(np.split(i, cuts), np.split(j, cuts), strict=True) if len(a)]
    return np.concatenate([np.empty(0), *parts])


def _chunk_jaccard(texts: Texts, i: IntArray, j: IntArray) -> NDArray[np.float64]:
    """Mark the shingles of one ``i`` in a table, and count the marks that each of its partners meets."""
    rows, local = np.unique(np.concatenate([i, j]), return_inverse=True)
    shingles, starts = _shingles([texts[row] for row in rows.tolist()])
    vocabulary, ids = np.unique(shingles, return_inverse=True)
    sizes = np.diff(starts)
    a, b = local[: len(i)], local[len(i) :]
    common = np.empty(len(i), np.int64)
    marked = np.zeros(len(vocabulary), bool)
    begins = np.flatnonzero(np.concatenate([[True], a[1:] != a[:-1]]))
    for begin, end in zip(begins, np.append(begins[1:], len(a)), strict=True):
        mine = ids[starts[a[begin]] : starts[a[begin] + 1]]
        marked[mine] = True
        for pair in range(begin, end):
            common[pair] = np.count_nonzero(marked[ids[starts[b[pair]] : starts[b[pair] + 1]]])
        marked[mine] = False
    return common / (sizes[a] + sizes[b] - common)
