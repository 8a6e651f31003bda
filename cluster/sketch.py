"""A data set's fingerprint: numbers of up to 5,000 of its prompts, and the terms that at least 5 of them hold.

It is made in training, lies in the release as ``sketch.npz``, and is what live prompts are compared with for as long as
the release serves, wherever the data has gone. No text is in it but that of terms (words and pairs of words, personal
data masked) which at least 5 of its prompts share.

Left out: answers, which are not compared; rows without a prompt, which no request resembles.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from cluster.errors import StoreError
from cluster.prompt_features import PromptFeatures, read_part, terms_of
from cluster.token_features import TokenFeatures, Tokens, TokenTable, token_table

NAME = "sketch.npz"
FORM = 1
MOST_ROWS = 5000
LEAST_ROWS_A_TERM = 5
MOST_TERMS = 20_000


@dataclass(frozen=True)
class Sketch:
    """A release's data: one entry a row in ``prompts`` and, where the release's tokens were found, in ``tokens``."""

    release: str
    made_s: float
    data_rows: int
    """How many prompts the data set has; the sketch holds a random part of them."""
    prompts: list[PromptFeatures]
    terms: dict[str, int]
    """Term → in how many of the sketched rows it occurs."""
    classes: list[str] = field(default_factory=list[str])
    tokens: list[TokenFeatures] | None = None
    table: TokenTable | None = None

    @cached_property
    def id(self) -> str:
        """Names what was sketched, and when."""
        said = f"{FORM} {self.release} {self.made_s} {self.data_rows} ".encode()
        return hashlib.sha256(said + b"".join(row.buckets.tobytes() for row in self.prompts)).hexdigest()[:12]

    def features(self, prompt: str, tokens: Tokens | None) -> TokenFeatures | None:
        """Return what the release says of a prompt; None where it says nothing."""
        if self.table is None or tokens is None:
            return None
        return self.table.features(tokens.ids(prompt), tokens.unknown)

    def save(self, directory: Path) -> None:
        """Write ``sketch.npz``."""
        about = {
            "form": FORM, "release": self.release, "made_s": self.made_s, "data_rows": self.data_rows,
            "terms": self.terms, "classes": self.classes, "languages": [row.language for row in self.prompts],
        }  # fmt: skip
        arrays: dict[str, NDArray[Any]] = {
            "about": np.frombuffer(json.dumps(about, ensure_ascii=False).encode(), np.uint8),
            "buckets": np.concatenate([*(row.buckets for row in self.prompts), np.empty(0, np.uint16)]),
            "lengths": np.array([len(row.buckets) for row in self.prompts], np.uint16),
            "characters": np.array([row.characters for row in self.prompts], np.uint32),
        }
        if self.tokens is not None and self.table is not None:
            arrays |= {
                "embedding_NE": np.array([row.embedding for row in self.tokens]).astype(np.float16),
                "tokens": np.array([[row.tokens, row.unknown] for row in self.tokens], np.uint32),
                "embedding_VE": self.table.embedding_VE,
                "scale": np.array(self.table.scale),
                "rows_V": self.table.rows_V,
            }
        np.savez_compressed(directory / NAME, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, directory: Path) -> Self | None:
        """Return the sketch of a release's directory; None where it has none.

        Raises StoreError for one that is damaged or of another form.
        """
        file = directory / NAME
        if not file.is_file():
            return None
        try:
            with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
                return cls._read(dict(arrays))
        except (KeyError, ValueError, TypeError, OSError, BadZipFile) as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise StoreError(f"the sketch is damaged: {reason}", "Train the release again.", str(file)) from error

    @classmethod
    def _read(cls, arrays: dict[str, NDArray[Any]]) -> Self:
        about: dict[str, Any] = json.loads(arrays["about"].tobytes())
        if about.pop("form") != FORM:
            raise ValueError("its form is another one")
        rows = np.split(arrays["buckets"], np.cumsum(arrays["lengths"], dtype=np.int64))[:-1]
        every = zip(rows, arrays["characters"].tolist(), about.pop("languages"), strict=True)
        found = cls(prompts=[PromptFeatures(*row) for row in every], **about)
        if "embedding_VE" not in arrays:
            return found
        table = TokenTable(arrays["embedding_VE"], float(arrays["scale"]), arrays["rows_V"])
        counted = zip(arrays["tokens"].tolist(), arrays["embedding_NE"].astype(np.float32), strict=True)
        tokens = [TokenFeatures(num, unknown, vector) for (num, unknown), vector in counted]
        return replace(found, tokens=tokens, table=table)


def sketch_of(
    prompts: Sequence[str],
    release: str,
    made_s: float,
    *,
    classes: Iterable[str] = (),
    tokens: Tokens | None = None,
    model: Path | None = None,
) -> Sketch:
    """Return the sketch of a data set's prompts, at most ``MOST_ROWS`` of them drawn at random (but always the same).

    ``tokens`` and the directory ``model`` are the release's tokenizer and where its input embeddings lie.
    """
    draw = np.random.default_rng(len(prompts))
    places: list[int] = draw.permutation(len(prompts))[:MOST_ROWS].tolist()
    drawn = [prompts[place] for place in places]
    counts = Counter(term for prompt in drawn for term in terms_of(read_part(prompt)))
    common = [(term, num) for term, num in counts.most_common(MOST_TERMS) if num >= LEAST_ROWS_A_TERM]
    found = Sketch(
        release=release,
        made_s=made_s,
        data_rows=len(prompts),
        prompts=[PromptFeatures.of(prompt) for prompt in drawn],
        terms=dict(common),
        classes=sorted(classes),
    )
    if tokens is None or model is None:
        return found
    ids = [tokens.ids(prompt) for prompt in drawn]
    table = token_table(model, ids)
    if table is None:
        return found
    return replace(found, tokens=[table.features(row, tokens.unknown, own_rows=1) for row in ids], table=table)
