"""Keys and values of the rows in flight, in one block a layer that grows in steps.

Rows end at the same column: a row of 5 tokens in a cache 9 columns wide lies in the last 5. So a step writes one column
of every row at once, and a model sees what left padding in ``generate`` would show it, whatever it builds from that
(masks of sliding windows, ALiBi). transformers' ``DynamicCache`` copies everything it holds for each token it adds;
here a block is copied once in ``SLACK`` columns, when it is full. A row that leaves is replaced by the last one, and
the columns that only the longest row needed go with it.

Columns before a row's beginning hold leftovers. Attention gives them weight 0, which only holds while they are finite:
blocks begin as zeros, and whoever drops a row whose values are not finite wipes it.

Shape legend: R rows, H heads of keys, C columns, T tokens, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

SLACK = 64
"""Columns added when a block is full: a step reads the whole block for attention, so copying it once in 64 steps costs
a thirtieth of that."""


class RowCache(Cache):
    """The cache that a model's forward is given for one token of every row.

    A row's tokens are filled in after its prompt has been read elsewhere; ``lengths`` counts them, row by row.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.lengths: list[int] = []
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._num_rows = 0
        self._num_columns = 0
        self._end = 0

    @property
    def width(self) -> int:
        """Columns that some row needs."""
        return max(self.lengths, default=0)

    def mask(self) -> Tensor:
        """Return 1 for columns that a row reads in the next step, its new token included; shape (R, C)."""
        begins_R = torch.tensor([self.width - length for length in self.lengths])
        return (torch.arange(self.width + 1) >= begins_R[:, None]).long()

    def open(self, lengths: Sequence[int]) -> int:
        """Make place for new rows and return the first one's number; their tokens must be filled in next."""
        first = len(self.lengths)
        needed = max(self.width, *lengths)
        if first + len(lengths) > self._num_rows or needed > self._end:
            self._lay_out(first + len(lengths), needed)
        self.lengths += lengths
        return first

    def fill(self, layer: int, row: int, keys_HTD: Tensor, values_HTD: Tensor) -> None:
        """Write a new row's keys and values of one layer."""
        if layer == len(self._keys):
            self._keys.append(self._block(keys_HTD))
            self._values.append(self._block(values_HTD))
        begin = self._end - self.lengths[row]
        self._keys[layer][row, :, begin : self._end] = keys_HTD
        self._values[layer][row, :, begin : self._end] = values_HTD

    def drop(self, row: int, *, wipe: bool = False) -> None:
        """Take a row out; the last one gets its number. ``wipe`` where its values may not be finite."""
        last = len(self.lengths) - 1
        begin = self._end - self.lengths[last]
        for block in (*self._keys, *self._values):
            if wipe:
                block[row] = 0
            if row != last:
                block[row, :, begin : self._end] = block[last, :, begin : self._end]
        self.lengths[row] = self.lengths[last]
        self.lengths.pop()

    def prepare_step(self) -> None:
        """Make sure that the next token of every row has a column."""
        if self._end == self._num_columns:
            self._lay_out(len(self.lengths), self.width)

    def end_step(self) -> None:
        """Count the column that a step has written."""
        self._end += 1
        self.lengths = [length + 1 for length in self.lengths]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write one token of every row, shape (R, H, 1, D), and return all columns in use (called by the model)."""
        rows, end = key_states.shape[0], self._end
        keys, values = self._keys[layer_idx], self._values[layer_idx]
        keys[:rows, :, end] = key_states[:, :, 0]
        values[:rows, :, end] = value_states[:, :, 0]
        columns = slice(end - self.width, end + 1)
        return keys[:rows, :, columns], values[:rows, :, columns]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return how many columns precede the new token (called by the model)."""
        return self.width

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Return how many columns a mask covers, and the first one (called by the model)."""
        return self.width + query_length, 0

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """Return transformers' sign for no bound (called by the model)."""
        return -1

    def _block(self, like_HTD: Tensor) -> Tensor:
        heads, _, size = like_HTD.shape
        return like_HTD.new_zeros((self._num_rows, heads, self._num_columns, size))

    def _lay_out(self, num_rows: int, needed: int) -> None:
        """Move all rows to new blocks in which they end at column ``needed``, layer by layer to spare memory.

        Places for rows are made by powers of two, so that rows joining one by one seldom move the others.
        """
        rows, width, end = len(self.lengths), self.width, self._end
        self._num_rows, self._num_columns, self._end = 1 << (num_rows - 1).bit_length(), needed + SLACK, needed
        for blocks in (self._keys, self._values):
            for layer, old in enumerate(blocks):
                new = self._block(old[0])
                new[:rows, :, needed - width : needed] = old[:rows, :, end - width : end]
                blocks[layer] = new
