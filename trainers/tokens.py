"""Rows → token ids and loss mask, in a memory-mapped file that many workers share.

Tokenisation happens once, before training, never in the loop. Equal pieces (an instruction repeated in every row) are
tokenised once a batch. What ``max_length`` cuts is cut on the right; every row says how much it lost, and whoever
writes the file leaves out those that kept no target token. The file is an Arrow IPC stream
(``datasets.Dataset.from_file`` opens it), read through the page cache without a copy.

Shape legend: N examples, T tokens of one example.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cluster.errors import DataError, StoreError
from trainers.rows import SourceProblem

if TYPE_CHECKING:
    from trainers.rows import Row
    from trainers.templates import LossOn, Segment, Template

Example = tuple[NDArray[np.int32], NDArray[np.bool_]]

ROWS_A_BATCH = 1000
Item = TypeVar("Item")
_SCHEMA = pa.schema([("input_ids", pa.list_(pa.int32())), ("is_target", pa.list_(pa.uint8()))])


@dataclass(frozen=True, slots=True)
class Encoded:
    """One row as ids_T and is_target_T (true: this token is predicted and carries loss), cut at ``max_length``.

    ``length`` and ``targets`` count the whole row before the cut.
    """

    ids_T: NDArray[np.int32]
    is_target_T: NDArray[np.bool_]
    length: int
    targets: int

    @property
    def kept_targets(self) -> int:
        """Target tokens that the cut left."""
        return int(self.is_target_T.sum())


def encode_rows(
    rows: Iterable[Row],
    template: Template,
    loss_on: LossOn,
    max_length: int,
    problems: list[SourceProblem] | None = None,
) -> Iterator[Encoded]:
    """Yield every row's tokens, in order.

    A row that the template cannot render goes into ``problems`` and yields no tokens; without ``problems``, or where
    that is every row, it raises DataError.
    """
    num_rows, refused = 0, list[DataError]()
    for batch in _batches(rows):
        num_rows += len(batch)
        made: dict[tuple[tuple[str, str], ...], list[Segment]] = {}
        pieces: list[list[Segment]] = []
        for row in batch:
            said = tuple(item for message in row.messages for item in message.items())
            segments = made.get(said) or _segments(row, template, loss_on, None if problems is None else refused)
            made[said] = segments
            pieces.append(segments)
        distinct = list(dict.fromkeys(segment.text for segments in pieces for segment in segments))
        ids_of = dict(zip(distinct, _ids(template, distinct), strict=True))
        for segments in pieces:
            parts = [ids_of[segment.text] for segment in segments]
            ids = np.concatenate([np.empty(0, np.int32), *parts])
            mask = np.repeat([segment.is_target for segment in segments], [len(part) for part in parts])
            mask = mask.astype(np.bool_)
            mask[:1] = False
            yield Encoded(ids[:max_length], mask[:max_length], len(ids), int(mask.sum()))
    if refused and len(refused) == num_rows:
        raise refused[0]
    if problems is not None:
        problems += [SourceProblem("roles_broken", error.where, error.what) for error in refused]


def _ids(template: Template, texts: list[str]) -> list[NDArray[np.int32]]:
    """Return the token ids of every text."""
    if not texts:
        return []
    encoded = template.tokenizer(
        texts, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False, verbose=False
    )
    return [np.asarray(ids, dtype=np.int32) for ids in encoded["input_ids"]]


def _segments(row: Row, template: Template, loss_on: LossOn, refused: list[DataError] | None) -> list[Segment]:
    """Return a row's pieces; none where the template cannot render it, which is then in ``refused``."""
    try:
        return template.segments(row.messages, loss_on)
    except DataError as error:
        named = DataError(error.what, error.remedy, row.where)
        if refused is None:
            raise named from error
        refused.append(named)
        return []


class TokenSet:
    """A file of examples: lengths and target counts in memory, tokens mapped from disk.

    ``lengths`` and ``target_counts`` are int32 arrays of shape (N,).
    """

    def __init__(self, batches: Sequence[pa.RecordBatch]) -> None:
        self._offsets = [batch.column(0).offsets.to_numpy() for batch in batches]
        self._ids = [batch.column(0).values.to_numpy() for batch in batches]
        self._masks = [batch.column(1).values.to_numpy().view(np.bool_) for batch in batches]
        self._first = np.cumsum([0, *(len(batch) for batch in batches)])
        self.lengths = _joined([np.diff(offsets) for offsets in self._offsets])
        self.target_counts = _joined(
            [_sums(mask, offsets) for mask, offsets in zip(self._masks, self._offsets, strict=True)]
        )

    def __len__(self) -> int:
        """N, the number of examples."""
        return int(self._first[-1])

    def example(self, index: int) -> Example:
        """Return (ids_T int32, is_target_T bool) of one example, views of the mapped file."""
        batch = int(np.searchsorted(self._first, index, side="right")) - 1
        row = index - int(self._first[batch])
        here = slice(*self._offsets[batch][row : row + 2])
        return self._ids[batch][here], self._masks[batch][here]

    @staticmethod
    def write(path: Path, examples: Iterable[Example]) -> int:
        """Write examples in order and return how many there were."""
        path.parent.mkdir(parents=True, exist_ok=True)
        count = 0
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, _SCHEMA) as writer:
            for batch in _batches(examples):
                columns = [_column([ids for ids, _ in batch], np.int32), _column([mask for _, mask in batch], np.uint8)]
                writer.write_batch(pa.record_batch(columns, schema=_SCHEMA))
                count += len(batch)
        return count

    @classmethod
    def load(cls, path: Path) -> TokenSet:
        """Map a file. Raises StoreError where it is missing or damaged."""
        try:
            return cls(list(pa.ipc.open_stream(pa.memory_map(str(path)))))
        except (OSError, pa.ArrowInvalid) as error:
            raise StoreError(
                f"{path} is no token file: {error}", "remove the prepared data set; it is made again"
            ) from error


def _column(parts: Sequence[NDArray[np.generic]], dtype: type[np.generic]) -> pa.ListArray:
    offsets = np.cumsum([0, *(len(part) for part in parts)], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(parts).astype(dtype, copy=False)))


def _sums(mask: NDArray[np.bool_], offsets: NDArray[np.int32]) -> NDArray[np.int64]:
    running = np.concatenate([[0], np.cumsum(mask, dtype=np.int64)])
    return np.diff(running[offsets])


def _batches(items: Iterable[Item], size: int = ROWS_A_BATCH) -> Iterator[list[Item]]:
    """Yield items in lists of ``size``, the last one shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _joined(parts: Sequence[NDArray[np.generic]]) -> NDArray[np.int32]:
    return np.concatenate(parts).astype(np.int32) if parts else np.zeros(0, np.int32)
