"""Rows of token ids over one causal language model of transformers → the logits of each row's next token.

Prompts are read in padded batches of like lengths into a ``RowCache``, which all rows share from then on. Rows come and
go between steps.

The model is used as ``generate`` uses it: input ids, a mask of columns, position ids where it takes them. A model whose
cache is something else (recurrent states, compressed or shared keys) is refused when the engine starts: it must give
the logits of a plain forward pass for two rows of different length.

Shape legend: R rows, B prompts in a batch, T tokens, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from cluster.errors import BaseModelError
from serving.kv_cache import RowCache

CALL_TOKENS = 32
"""Prompt tokens that cost as much as one more call of the model, by a small one, where calls weigh most."""

PROBE_TOLERANCE = {torch.float32: 1e-3}
PROBE_TOLERANCE_16_BIT = 0.1
"""Largest accepted difference of a probe's logits, relative to the largest logit."""


class Decoder:
    """The rows in flight over one model. Every method runs in the engine's thread."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._cache = RowCache()
        accepted = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in accepted
        self._last_only: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._model.device

    @property
    def num_rows(self) -> int:
        """Rows in flight."""
        return len(self._cache.lengths)

    def join(self, prompts: Sequence[Sequence[int]], copies: Sequence[int]) -> Tensor:
        """Read prompts, each into ``copies`` new rows behind those in flight; return their logits_RV, fp32."""
        lengths = [len(prompt) for prompt, count in zip(prompts, copies, strict=True) for _ in range(count)]
        row = self._cache.open(lengths)
        rows: list[range] = []
        for count in copies:
            rows.append(range(row, row + count))
            row += count
        logits: list[Tensor | None] = [None] * len(prompts)
        for batch in padded_batches([len(prompt) for prompt in prompts]):
            logits_BV, read = self._read([prompts[i] for i in batch])
            for place, i in enumerate(batch):
                logits[i] = logits_BV[place : place + 1].expand(copies[i], -1)
                self._keep(read, place, len(prompts[i]), rows[i])
        return torch.cat([part for part in logits if part is not None])

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Append a token to every row; return logits_RV of what follows, fp32."""
        cache, device = self._cache, self.device
        cache.prepare_step()
        positions_RT = torch.tensor(cache.lengths)[:, None]
        logits_RV = self._forward(torch.tensor(tokens)[:, None].to(device), cache.mask(), positions_RT, cache)
        cache.end_step()
        return logits_RV

    def leave(self, row: int, *, wipe: bool = False) -> None:
        """Take a row out; the last row gets its number. ``wipe`` where its values may not be finite."""
        self._cache.drop(row, wipe=wipe)

    def clear(self) -> None:
        """Forget all rows and give their memory back."""
        self._cache = RowCache()

    def _read(self, prompts: list[Sequence[int]]) -> tuple[Tensor, DynamicCache]:
        """Return the logits behind each prompt, shape (B, V), and the cache of the batch, padded on the left."""
        longest = max(len(prompt) for prompt in prompts)
        tokens_BT = torch.zeros((len(prompts), longest), dtype=torch.long)
        mask_BT = torch.zeros_like(tokens_BT)
        for place, prompt in enumerate(prompts):
            tokens_BT[place, longest - len(prompt) :] = torch.tensor(prompt)
            mask_BT[place, longest - len(prompt) :] = 1
        positions_BT = (mask_BT.cumsum(-1) - 1).clamp(min=0)
        read = DynamicCache()
        return self._forward(tokens_BT.to(self.device), mask_BT, positions_BT, read), read

    def _keep(self, read: DynamicCache, place: int, length: int, rows: range) -> None:
        for number, layer in enumerate(cast("list[DynamicLayer]", read.layers)):
            keys_BHTD, values_BHTD = cast("Tensor", layer.keys), cast("Tensor", layer.values)
            for row in rows:
                self._cache.fill(number, row, keys_BHTD[place, :, -length:], values_BHTD[place, :, -length:])

    def _forward(self, tokens_BT: Tensor, mask: Tensor, positions_BT: Tensor, cache: Any) -> Tensor:
        positions = {"position_ids": positions_BT.to(self.device)} if self._takes_positions else {}
        out = self._model(
            input_ids=tokens_BT,
            attention_mask=mask.to(self.device),
            past_key_values=cache,
            use_cache=True,
            **positions,
            **self._last_only,
        )
        return out.logits[:, -1].float()


def padded_batches(lengths: Sequence[int]) -> list[list[int]]:
    """Return prompt numbers, longest first, in the batches whose padded tokens and calls cost the least together."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    costs, begins = [0], [0]  # by how many prompts are read: the least cost, and where its last batch begins
    for end in range(1, len(order) + 1):
        ways = [(costs[begin] + CALL_TOKENS + (end - begin) * lengths[order[begin]], begin) for begin in range(end)]
        cost, begin = min(ways)
        costs.append(cost)
        begins.append(begin)
    batches: list[list[int]] = []
    end = len(order)
    while end:
        batches.append(order[begins[end] : end])
        end = begins[end]
    return batches[::-1]


@torch.inference_mode()
def refuse_unfit(model: Any, vocabulary: int) -> None:
    """Raise BaseModelError unless two rows of different length get the logits of a plain forward pass."""
    draw = torch.Generator().manual_seed(0)
    rows = [torch.randint(0, vocabulary, (length,), generator=draw).tolist() for length in (5, 3)]
    try:
        decoder = Decoder(model)
        decoder.join([row[:-2] for row in rows], [1, 1])
        decoder.step([row[-2] for row in rows])
        found_RV = decoder.step([row[-1] for row in rows])
        plain = [model(input_ids=torch.tensor([row], device=model.device), use_cache=False) for row in rows]
        expected_RV = torch.cat([out.logits[:, -1].float() for out in plain])
    except (TypeError, ValueError, AttributeError, IndexError, NotImplementedError, RuntimeError) as error:
        raise _unfit(model, f"{type(error).__name__}: {error}") from error
    difference = float((found_RV - expected_RV).abs().max() / expected_RV.abs().max().clamp(min=1))
    if not difference <= PROBE_TOLERANCE.get(model.dtype, PROBE_TOLERANCE_16_BIT):
        raise _unfit(model, f"logits of rows in one batch are off by {difference:.2g}")


def _unfit(model: Any, why: str) -> BaseModelError:
    return BaseModelError(
        f"{model.config.model_type} models cannot be served by the engine over transformers: {why}",
        "Serve it with the vllm engine, or give a model with plain attention.",
        "base",
    )
