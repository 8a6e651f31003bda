"""Text → what of it counts when texts are compared, and a hash of it that is the same on every machine."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


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
