"""What a model's own generation settings do to logits, as ``generate`` does it.

Some models come with a penalty on repetition in their ``generation_config.json``; evaluation, which uses ``generate``,
applied it, so answers must too. The commonest settings are applied here, row by row, by transformers' own processors.
The others that would change greedy answers are refused by name. Temperature, top_p and top_k are the request's.

Shape legend: T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

from cluster.errors import BaseModelError

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "sequence_bias": (None,),
    "bad_words_ids": (None,),
    "guidance_scale": (None, 1),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "exponential_decay_length_penalty": (None,),
    "begin_suppress_tokens": (None,),
}
"""Settings that change greedy answers and are not applied here, with the values that change nothing."""


class Penalties:
    """A model's settings; raises BaseModelError for one that is not known here."""

    def __init__(self, settings: Any, device: torch.device) -> None:
        for name, neutral in NEUTRAL.items():
            value = getattr(settings, name, None)
            if value not in neutral:
                raise BaseModelError(
                    f"the model's generation settings have {name} {value!r}, which the engine does not apply",
                    f"Remove {name} from its generation_config.json.",
                )
        self._processors: list[Any] = []
        if (penalty := settings.repetition_penalty) not in (None, 1):
            self._processors.append(RepetitionPenaltyLogitsProcessor(penalty))
        if size := settings.no_repeat_ngram_size:
            self._processors.append(NoRepeatNGramLogitsProcessor(size))
        if suppressed := settings.suppress_tokens:
            self._processors.append(SuppressTokensLogitsProcessor(suppressed, device=str(device)))

    def __bool__(self) -> bool:
        return bool(self._processors)

    def apply(self, logits_V: Tensor, ids: Sequence[int]) -> Tensor:
        """Return a row's logits, changed for what it has read and written."""
        read_1T = torch.tensor([ids], device=logits_V.device)
        changed_1V = logits_V[None]
        for processor in self._processors:
            changed_1V = processor(read_1T, changed_1V)
        return changed_1V[0]
