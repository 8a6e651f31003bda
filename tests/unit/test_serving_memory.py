"""How much memory a cache may take decides how many tokens it may hold."""

from __future__ import annotations

from types import SimpleNamespace

import psutil
import pytest
import torch

from serving.memory import CPU_SHARE, cache_tokens, token_bytes
from tests.served import small_model

LAYERS, BOTH, HEAD_SIZE = 2, 2, 8


@pytest.mark.parametrize(("name", "heads"), [("llama", 2), ("gpt2", 4), ("gpt-neox", 4)])
@pytest.mark.parametrize(("dtype", "number_bytes"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_a_token_takes_keys_and_values_in_each_layer(name: str, heads: int, dtype: torch.dtype, number_bytes: int):
    model = small_model(name).to(dtype)
    assert token_bytes(model) == LAYERS * BOTH * heads * HEAD_SIZE * number_bytes


def test_a_share_of_what_is_free_goes_to_the_cache(monkeypatch: pytest.MonkeyPatch):
    model = small_model()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1_000_000))
    assert cache_tokens(model) == int(1_000_000 * CPU_SHARE / token_bytes(model))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1))
    assert cache_tokens(model) == 1
