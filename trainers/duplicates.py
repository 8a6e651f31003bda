"""Rows → which of them are the same, and which are nearly the same.

Three notions, from strict to loose. *Exact*: input and answer are equal after NFKC and collapsed white space (the
case is kept: it may be the answer). *Same input*: equal also without the case. *Near*: the Jaccard similarity of the
sets of character 5-grams, without the case, is at least a threshold.

Near pairs are found by MinHash (Broder 1997) with banding (Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets",
ch. 3.4): rows that share a band of their signature are candidates, most of which the whole signature refuses; the rest
are verified by the true Jaccard similarity. Everything is numpy over blocks of rows, with about 600 bytes a row beside
the texts: no library object per row, no Python step per shingle. Identical texts are compared once, and a bucket that
is crowded is chained to its first row, so thousands of copies cost no more than thousands of rows. The price: not every
pair of a crowd is returned, but every row of it is in some pair.

Left out: similarity of meaning (paraphrases), and sampling of very long texts (the time grows with the characters).
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from trainers.rows import Row

IntArray = NDArray[np.int64]
SHINGLE_CHARS = 5
BLOCK_CHARS = 100_000  # a block's shingles stay in the processor's cache
VERIFY_CHARS = 4_000_000
CROWD_ROWS = 24
BOILERPLATE_CHARS = 40


class RowHashes(NamedTuple):
    """64-bit hashes of every row, each of shape (N,): the row as it stands, and its input without the case."""

    exact: NDArray[np.uint64]
    input: NDArray[np.uint64]


class NearPairs(NamedTuple):
    """Pairs of near-duplicates with i < j and their true Jaccard similarity, each array of shape (pairs,)."""

    i: IntArray
    j: IntArray
    jaccard: NDArray[np.float64]


def collapsed(text: str) -> str:
    """Return the text in NFKC with every run of white space as one space."""
    return " ".join((text if text.isascii() else unicodedata.normalize("NFKC", text)).split())


def folded(text: str) -> str:
    """Return the collapsed text without the case."""
    return collapsed(text).lower()


def text_hashes(texts: Iterable[str]) -> NDArray[np.uint64]:
    """Return a 64-bit hash of every text as it stands, the same on every machine."""
    digests = (hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in texts)
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def row_hashes(rows: Sequence[Row]) -> RowHashes:
    """Return the hashes that decide which rows are exact duplicates and which share their input."""
    inputs = [
        "\x1e".join(f"{m['role']}\x1f{collapsed(m['content'])}{m.get('tool_calls', '')}" for m in row.prompt)
        for row in rows
    ]
    exact = text_hashes(f"{text}\x1d{collapsed(row.completion)}" for text, row in zip(inputs, rows, strict=True))
    # Plain text has no input that two rows could share: the text itself stands for it.
    shared = (
        text.lower() if row.prompt else "\x1d" + folded(row.completion) for text, row in zip(inputs, rows, strict=True)
    )
    return RowHashes(exact, text_hashes(shared))


def near_texts(rows: Sequence[Row]) -> list[str]:
    """Return the text of every row that near-duplicates are looked for in.

    Input and answer, or the input alone where the answer is a label. System turns and a long beginning or end that
    nine in ten rows share are left out: an instruction repeated in every row would make all of them look alike.
    """
    texts: list[str] = []
    for row in rows:
        turns = [m["content"] for m in row.prompt if m["role"] != "system"]
        answer = [] if row.label is not None and turns else [row.completion]
        texts.append(folded("\n".join(turns + answer)))
    return _without_boilerplate(texts)


def _without_boilerplate(texts: list[str]) -> list[str]:
    """Cut the prefix and suffix that at least nine in ten texts share, if they are long."""
    step = max(1, len(texts) // 2000)
    sample = texts[::step]
    head = _shared_prefix(sample)
    tail = _shared_prefix([text[::-1] for text in sample])[::-1]
    if len(head) >= BOILERPLATE_CHARS:
        texts = [text.removeprefix(head) for text in texts]
    if len(tail) >= BOILERPLATE_CHARS:
        texts = [text.removesuffix(tail) for text in texts]
    return texts


def _shared_prefix(texts: list[str]) -> str:
    """Return the longest prefix of the middle 90 % of the texts in sorted order."""
    ordered = sorted(texts)
    if len(ordered) < 2:
        return ""
    edge = len(ordered) // 20
    low, high = ordered[edge], ordered[-1 - edge]
    same = next((at for at, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    return low[:same]


def near_duplicate_pairs(
    texts: Sequence[str], threshold: float = 0.8, num_hashes: int = 128, seed: int = 0
) -> NearPairs:
    """Return the pairs of texts whose 5-gram sets have a Jaccard similarity of at least ``threshold`` (above 0 to 1).

    A pair at the threshold is found with a probability of about 0.99, one above it with a higher one. A copy is paired
    with its first occurrence only, at similarity 1.
    """
    hashes = text_hashes(folded(text) for text in texts)
    first, copies = _first_occurrences(hashes)
    distinct = np.flatnonzero(first == np.arange(len(first)))
    i, j, jaccard = _distinct_pairs([texts[row] for row in distinct.tolist()], threshold, num_hashes, seed)
    return NearPairs(
        np.concatenate([first[copies], distinct[i]]),
        np.concatenate([copies, distinct[j]]),
        np.concatenate([np.ones(len(copies)), jaccard]),
    )


def same_key_pairs(keys: NDArray[np.uint64]) -> tuple[IntArray, IntArray]:
    """Return, for every row whose key (N,) was seen before, the first row with that key and the row itself."""
    first, copies = _first_occurrences(keys)
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


def _first_occurrences(keys: NDArray[np.uint64]) -> tuple[IntArray, IntArray]:
    """Return the first row with each row's key, shape (N,), and the rows that are not the first."""
    _, first_of, inverse = np.unique(keys, return_index=True, return_inverse=True)
    first = first_of[inverse].astype(np.int64)
    return first, np.flatnonzero(first != np.arange(len(first)))


def _distinct_pairs(
    texts: list[str], threshold: float, num_hashes: int, seed: int
) -> tuple[IntArray, IntArray, NDArray[np.float64]]:
    """Return the near pairs among texts of which no two are equal."""
    band_rows = _band_rows(threshold, num_hashes)
    short_signatures, bands = _signatures(texts, num_hashes, band_rows, seed)
    # Three standard deviations of the estimate below the threshold: one true pair in a thousand is lost here.
    enough = threshold - 3 * np.sqrt(threshold * (1 - threshold) / num_hashes)
    found: list[NDArray[np.uint64]] = []
    for keys in bands:
        for i, j in _bucket_pairs(keys):
            alike = (short_signatures[i] == short_signatures[j]).mean(axis=1, dtype=np.float32) >= enough
            found.append(i[alike].astype(np.uint64) << np.uint64(32) | j[alike].astype(np.uint64))
    pairs = np.unique(np.concatenate([np.empty(0, np.uint64), *found]))
    i, j = (pairs >> np.uint64(32)).astype(np.int64), (pairs & np.uint64(0xFFFFFFFF)).astype(np.int64)
    jaccard = _jaccard(texts, i, j)
    near = jaccard >= threshold
    return i[near], j[near], jaccard[near]


def _band_rows(threshold: float, num_hashes: int) -> int:
    """Return the most hashes per band with which a pair at the threshold shares a band with probability 0.99."""
    for rows in range(num_hashes, 1, -1):
        if 1 - (1 - threshold**rows) ** (num_hashes // rows) >= 0.99:
            return rows
    return 1


def _blocks(texts: Sequence[str], chars: int = BLOCK_CHARS) -> Iterator[tuple[int, int]]:
    """Yield ranges of texts that hold about ``chars`` characters, at least one text each."""
    start = total = 0
    for row, text in enumerate(texts):
        if row > start and total + len(text) > chars:
            yield start, row
            start, total = row, 0
        total += len(text)
    if start < len(texts):
        yield start, len(texts)


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
    texts: list[str], num_hashes: int, band_rows: int, seed: int
) -> tuple[NDArray[np.uint16], list[NDArray[np.uint64]]]:
    """Return 16 bits of every minimum, shape (R, hashes), and one key per row (R,) for each band."""
    rng = np.random.default_rng(seed)
    factors = rng.integers(0, 2**31, num_hashes, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    shifts = rng.integers(0, 2**32, num_hashes, dtype=np.uint32)
    short = np.empty((len(texts), num_hashes), np.uint16)
    bands = [np.empty(len(texts), np.uint64) for _ in range(num_hashes // band_rows)]
    for start, stop in _blocks(texts):
        shingles, starts = _shingles(texts[start:stop])
        minima = np.empty((num_hashes, stop - start), np.uint32)
        for k in range(num_hashes):
            np.minimum.reduceat(shingles * factors[k] + shifts[k], starts[:-1], out=minima[k])
        short[start:stop] = minima.T.astype(np.uint16)
        for band, keys in enumerate(bands):
            key = np.zeros(stop - start, np.uint64)
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


def _jaccard(texts: list[str], i: IntArray, j: IntArray) -> NDArray[np.float64]:
    """Return the true Jaccard similarity of each pair; ``i`` is sorted. Shingles are made anew, chunk by chunk."""
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    chunk_of = np.cumsum(lengths[i] + lengths[j]) // VERIFY_CHARS
    cuts = np.flatnonzero(np.diff(chunk_of)) + 1
    parts = [_chunk_jaccard(texts, a, b) for a, b in zip(np.split(i, cuts), np.split(j, cuts), strict=True) if len(a)]
    return np.concatenate([np.empty(0), *parts])


def _chunk_jaccard(texts: list[str], i: IntArray, j: IntArray) -> NDArray[np.float64]:
    """Mark the shingles of one ``i`` in a table, and count the marks that each of its partners meets."""
    rows, local = np.unique(np.concatenate([i, j]), return_inverse=True)
    shingles, starts = _shingles([texts[row] for row in rows])
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
