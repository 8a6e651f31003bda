"""A prompt → numbers about it: which hashed n-grams it holds, how long it is, which language it is in.

The same in training, where a release's data set is sketched, and at the gateway, which under ``log: features`` keeps
these numbers instead of the prompt. Words and the runs of four letters in them (endings and stems: a new topic shares
them long before it repeats its words) fall into 2,048 buckets with a sign (feature hashing, Weinberger et al. 2009,
arXiv 0902.2206): hundreds of thousands of n-grams share them, so no word can be read from a bucket. That is no
encryption: whoever suspects a certain prompt can hash it and compare, which is why there is ``log: off``. Personal data
is masked first.

A prompt is read up to 8,000 characters, which bounds what the gateway spends on it: about 0.2 ms for a sentence and
5 ms for the longest (one processor of a 2-core machine).

Left out: counts of an n-gram within a prompt (that it occurs says nearly all in short texts), pairs of words (they told
less apart than letters did, and are only used to name differences), and what needs the release, which is
``cluster.token_features``'s.
"""

from __future__ import annotations

import re
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cluster.languages import language_of
from cluster.personal_data import MASK, mask_personal_data

BUCKETS = 2048
LETTERS = 4
NEGATIVE = 1 << 15
"""Set in a bucket's number where its sign is negative."""
MOST_CHARACTERS = 8000
WORD = re.compile(rf"{MASK.pattern}|\w+|[^\w\s]")
Buckets = NDArray[np.uint16]
Sparse = Any
"""A scipy.sparse.csr_matrix, whose own types do not say what slices and stacks of it are."""


def read_part(prompt: str) -> str:
    """Return what of a prompt is looked at: its beginning, personal data masked, halves of surrogate pairs replaced."""
    return mask_personal_data(prompt[:MOST_CHARACTERS].encode("utf-8", "replace").decode())


def words_of(text: str) -> list[str]:
    """Return a text's words and punctuation in lower case; masks stay as they are."""
    return [word if MASK.fullmatch(word) else word.lower() for word in WORD.findall(text)]


def terms_of(text: str) -> list[str]:
    """Return the distinct words and pairs of neighbouring words of a text, by which differences are named."""
    words = words_of(text)
    return list(dict.fromkeys([*words, *(f"{left} {right}" for left, right in pairwise(words))]))


def n_grams_of(text: str) -> set[str]:
    """Return a text's words, and the runs of four letters in them with their ends marked."""
    words = set(words_of(text))
    ended = [f"^{word}$" for word in words if word.isalpha()]
    return words | {word[place : place + LETTERS] for word in ended for place in range(len(word) - LETTERS + 1)}


def buckets_of(n_grams: Iterable[str]) -> Buckets:
    """Return the n-grams' buckets, sorted, each with its sign in the highest bit."""
    hashes = (zlib.crc32(found.encode("utf-8", "surrogatepass")) for found in n_grams)
    return np.array(sorted({found % BUCKETS | (NEGATIVE if found >> 31 else 0) for found in hashes}), np.uint16)


def matrix_of(rows: Sequence[Buckets]) -> Sparse:
    """Return prompts as sparse rows of length 1, one column a bucket."""
    from scipy.sparse import csr_matrix

    flat = np.concatenate([*rows, np.empty(0, np.uint16)])
    lengths = np.array([len(row) for row in rows], np.int64)
    sizes = np.repeat(1 / np.sqrt(np.maximum(lengths, 1)), lengths)
    signed = np.where(flat >= NEGATIVE, -sizes, sizes).astype(np.float32)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return csr_matrix((signed, (flat % NEGATIVE).astype(np.int32), starts), shape=(len(rows), BUCKETS))


@dataclass(frozen=True)
class PromptFeatures:
    """What is known of a prompt without the prompt."""

    buckets: Buckets
    characters: int
    language: str | None

    @classmethod
    def of(cls, prompt: str) -> Self:
        """Return a prompt's features."""
        text = read_part(prompt)
        return cls(buckets_of(n_grams_of(text)), len(prompt), language_of(text))

    @property
    def key(self) -> int:
        """The same for prompts with the same n-grams."""
        return zlib.crc32(self.buckets.tobytes())

    def kept(self) -> dict[str, Any]:
        """Return them as a row of the ledger holds them."""
        return {"n_grams": packed(self.buckets), "characters": self.characters, "language": self.language}

    @classmethod
    def from_kept(cls, kept: Any) -> Self:
        """Return the features of a row. Raises KeyError, TypeError or ValueError for what is none."""
        return cls(unpacked(kept["n_grams"], np.uint16), int(kept["characters"]), kept["language"])


def packed(values: NDArray[Any]) -> str:
    """Return an array's bytes as text."""
    return b64encode(values.astype(values.dtype.newbyteorder("<")).tobytes()).decode("ascii")


def unpacked(text: str, kind: type[np.generic]) -> NDArray[Any]:
    """Return the array that ``packed`` made. Raises ValueError for what it did not make."""
    return np.frombuffer(b64decode(text, validate=True), np.dtype(kind).newbyteorder("<")).astype(kind)
