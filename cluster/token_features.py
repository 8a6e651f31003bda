"""A prompt and a release → what the release's own tokenizer and input embeddings say of it.

Two numbers and a vector: how many tokens a prompt has, how many of them hardly any training row holds (or the
tokenizer does not know), and the mean of its tokens' input embeddings. The embedding table is projected once, when the
release is made, onto 24 random directions (Johnson–Lindenstrauss) and kept as bytes: 1.2 MB for 50,000 tokens. So
whoever has the sketch and ``tokenizer.json`` computes the vector in microseconds, without the model or torch: the
gateway for every prompt, also of arms on GPUs elsewhere.

Left out: hidden states of later layers, which tell contexts apart better and would cost a pass of the model for every
prompt at the gateway.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cluster.prompt_features import packed, read_part, unpacked

DIMENSIONS = 24
SEED = 20260301
TABLES = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight", "tok_embeddings.weight")
"""How the input embeddings' names end in the families of models that there are."""
UNKNOWN = ("<unk>", "[UNK]", "<|unk|>")
WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}
ROWS_A_READ = 8192


@dataclass(frozen=True)
class TokenFeatures:
    """A prompt's tokens, those of them that training hardly knew, and its mean embedding."""

    tokens: int
    unknown: int
    embedding: NDArray[np.float32]

    def kept(self, sketch: str) -> dict[str, Any]:
        """Return them as a row of the ledger holds them, with the sketch that they belong to."""
        vector = packed(self.embedding.astype(np.float16))
        return {"sketch": sketch, "tokens": self.tokens, "unknown": self.unknown, "embedding": vector}

    @classmethod
    def from_kept(cls, kept: Any) -> Self:
        """Return the features of a row. Raises KeyError, TypeError or ValueError for what is none."""
        vector = unpacked(kept["embedding"], np.float16).astype(np.float32)
        if vector.shape != (DIMENSIONS,):
            raise ValueError(f"an embedding of {vector.shape} numbers")
        return cls(int(kept["tokens"]), int(kept["unknown"]), vector)


class Tokens:
    """The tokenizer of a release's directory, without transformers."""

    def __init__(self, directory: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer: Any = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        unknown = (self._tokenizer.token_to_id(word) for word in UNKNOWN)
        self.unknown = frozenset(found for found in unknown if found is not None)

    @classmethod
    def find(cls, directory: Path) -> Self | None:
        """Return the tokenizer; None where the release has none in this form."""
        return cls(directory) if (directory / "tokenizer.json").is_file() else None

    def ids(self, prompt: str) -> NDArray[np.int64]:
        """Return the ids of the part of a prompt that is looked at."""
        return np.array(self._tokenizer.encode(read_part(prompt), add_special_tokens=False).ids, np.int64)


@dataclass(frozen=True)
class TokenTable:
    """What a sketch keeps of its release: projected embeddings VE as bytes, and in how many rows a token occurs.

    Legend: V tokens of the vocabulary, E directions.
    """

    embedding_VE: NDArray[np.int8]
    scale: float
    rows_V: NDArray[np.uint8]
    """Of the sketched rows: 0, 1, or 2 for more."""

    def features(self, ids: NDArray[np.int64], unknown: frozenset[int], own_rows: int = 0) -> TokenFeatures:
        """Return a prompt's features. A token counts as unknown where no *other* row holds it.

        ``own_rows`` is 1 for a sketched row itself, so that training and live prompts are measured alike.
        """
        ids = ids[ids < len(self.embedding_VE)]
        if not len(ids):
            return TokenFeatures(0, 0, np.zeros(DIMENSIONS, np.float32))
        mean_E = self.embedding_VE[ids].mean(axis=0, dtype=np.float32) * np.float32(self.scale)
        is_unknown = (self.rows_V[ids] <= own_rows) | np.isin(ids, list(unknown))
        return TokenFeatures(len(ids), int(is_unknown.sum()), mean_E.astype(np.float32))


def token_table(model: Path, rows: list[NDArray[np.int64]]) -> TokenTable | None:
    """Return the table of a model's directory for its sketched rows' ids; None where no embeddings are found there."""
    projected_VE = projected_embeddings(model)
    if projected_VE is None:
        return None
    counts_V = np.zeros(len(projected_VE), np.int64)
    for ids in rows:
        counts_V[np.unique(ids[ids < len(counts_V)])] += 1
    scale = float(np.abs(projected_VE).max()) / 127 or 1.0
    rounded_VE = np.round(projected_VE / scale).astype(np.int8)
    return TokenTable(rounded_VE, scale, np.minimum(counts_V, 2).astype(np.uint8))


def projected_embeddings(model: Path) -> NDArray[np.float32] | None:
    """Return a model's input embeddings (VE) on random directions, centred, each token of about length 1."""
    found = _find_table(model)
    if found is None:
        return None
    file, entry, begins = found
    vocabulary, width = entry["shape"]
    directions = np.random.default_rng(SEED).choice(np.array([-1.0, 1.0], np.float32), (width, DIMENSIONS))
    parts: list[NDArray[np.float32]] = []
    with file.open("rb") as opened:
        opened.seek(begins + entry["data_offsets"][0])
        for start in range(0, vocabulary, ROWS_A_READ):
            rows = min(ROWS_A_READ, vocabulary - start)
            raw = opened.read(rows * width * WIDTHS[entry["dtype"]])
            parts.append(_as_floats(raw, entry["dtype"]).reshape(rows, width) @ directions)
    table_VE = np.concatenate(parts)
    table_VE = table_VE - table_VE.mean(axis=0)
    return table_VE / max(float(np.sqrt((table_VE**2).sum(axis=1).mean())), 1e-12)


def _find_table(model: Path) -> tuple[Path, dict[str, Any], int] | None:
    """Return the file that holds the input embeddings, their entry in its header, and where its tensors begin.

    The header is read as it is laid down in safetensors' format: eight bytes of length, then JSON. The library's own
    reader for numpy does not know bfloat16.
    """
    for file in sorted(model.glob("*.safetensors")):
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header: dict[str, Any] = json.loads(opened.read(length))
        for name, entry in header.items():
            if name.endswith(TABLES) and entry["dtype"] in WIDTHS and len(entry["shape"]) == 2:
                return file, entry, 8 + length
    return None


def _as_floats(raw: bytes, kind: str) -> NDArray[np.float32]:
    if kind == "BF16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(raw, "<f4" if kind == "F32" else "<f2").astype(np.float32)
