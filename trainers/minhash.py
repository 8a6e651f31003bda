"""Texts → the pairs of them that are nearly the same.

Near means that the Jaccard similarity of the sets of character 5-grams, without the case, is at least a threshold.
Pairs are found by MinHash (Broder 1997) with banding (Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets",
ch. 3.4): rows that share a band of their signature are candidates, most of which the whole signature refuses; the rest
are verified by the true Jaccard similarity. Everything is numpy over blocks of texts, with about 600 bytes a row: no
library object per row, no Python step per shingle, and never all texts at once. Identical texts are compared once, and
a bucket that is crowded is chained to its first row, so thousands of copies cost no more than thousands of rows. The
price: not every pair of a crowd is returned, but every row of it is in some pair.

Left out: similarity of meaning (paraphrases), and sampling of very long texts (the time grows with the characters).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from trainers.duplicates import IntArray, first_occurrences
from trainers.folded_text import folded, text_hashes

SHINGLE_CHARS = 5
BLOCK_CHARS = 100_000  # a block's shingles stay in the processor's cache
VERIFY_CHARS = 4_000_000
CROWD_ROWS = 24


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


def near_duplicate_pairs(texts: Texts, threshold: float = 0.8, num_hashes: int = 128, seed: int = 0) -> NearPairs:
    """Return the pairs of texts whose 5-gram sets have a Jaccard similarity of at least ``threshold`` (above 0 to 1).

    A pair at the threshold is found with a probability of about 0.99, one above it with a higher one. A copy is paired
    with its first occurrence only, at similarity 1.
    """
    hashes = text_hashes(folded(text) for text in texts)
    first, copies = first_occurrences(hashes)
    distinct = np.flatnonzero(first == np.arange(len(first)))
    i, j = _likely_pairs((texts[row] for row in distinct.tolist()), len(distinct), threshold, num_hashes, seed)
    i, j = distinct[i], distinct[j]
    jaccard = _jaccard(texts, i, j)
    near = jaccard >= threshold
    return NearPairs(
        np.concatenate([first[copies], i[near]]),
        np.concatenate([copies, j[near]]),
        np.concatenate([np.ones(len(copies)), jaccard[near]]),
    )


def _likely_pairs(
    texts: Iterable[str], num_texts: int, threshold: float, num_hashes: int, seed: int
) -> tuple[IntArray, IntArray]:
    """Return the pairs, by place, that are near by their signatures, among texts of which no two are equal."""
    band_rows = _band_rows(threshold, num_hashes)
    short_signatures, bands = _signatures(texts, num_texts, num_hashes, band_rows, seed)
    # Three standard deviations of the estimate below the threshold: one true pair in a thousand is lost here.
    enough = threshold - 3 * np.sqrt(threshold * (1 - threshold) / num_hashes)
    found: list[NDArray[np.uint64]] = []
    for keys in bands:
        for i, j in _bucket_pairs(keys):
            alike = (short_signatures[i] == short_signatures[j]).mean(axis=1, dtype=np.float32) >= enough
            found.append(i[alike].astype(np.uint64) << np.uint64(32) | j[alike].astype(np.uint64))
    pairs = np.unique(np.concatenate([np.empty(0, np.uint64), *found]))
    return (pairs >> np.uint64(32)).astype(np.int64), (pairs & np.uint64(0xFFFFFFFF)).astype(np.int64)


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
    padded = [folded(text).ljust(SHINGLE_CHARS, "\0") for text in texts]
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


def _signatures(
    texts: Iterable[str], num_texts: int, num_hashes: int, band_rows: int, seed: int
) -> tuple[NDArray[np.uint16], list[NDArray[np.uint64]]]:
    """Return 16 bits of every minimum, shape (R, hashes), and one key per row (R,) for each band."""
    rng = np.random.default_rng(seed)
    factors = rng.integers(0, 2**31, num_hashes, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    shifts = rng.integers(0, 2**32, num_hashes, dtype=np.uint32)
    short = np.empty((num_texts, num_hashes), np.uint16)
    bands = [np.empty(num_texts, np.uint64) for _ in range(num_hashes // band_rows)]
    stop = 0
    for block in _blocks(texts):
        start, stop = stop, stop + len(block)
        shingles, starts = _shingles(block)
        minima = np.empty((num_hashes, len(block)), np.uint32)
        for k in range(num_hashes):
            np.minimum.reduceat(shingles * factors[k] + shifts[k], starts[:-1], out=minima[k])
        short[start:stop] = minima.T.astype(np.uint16)
        for band, keys in enumerate(bands):
            key = np.zeros(len(block), np.uint64)
            for row in minima[band * band_rows : (band + 1) * band_rows]:
                key = (key ^ row) * np.uint64(0x9E3779B97F4A7C15)
                key ^= key >> np.uint64(32)
            keys[start:stop] = key
    return short, bands


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
