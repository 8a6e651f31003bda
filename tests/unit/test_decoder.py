"""Rows that share a batch get the logits that each would get alone, whoever joins and leaves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, MambaConfig

from cluster.errors import BaseModelError
from serving import kv_cache
from serving.decoder import CALL_TOKENS, Decoder, padded_batches, refuse_unfit
from tests.served import CONFIGS, VOCABULARY, prompts, small_model

TOLERANCE = 2e-5
"""Sums of 32 to 64 fp32 products in another order, relative to logits of size 10."""
LLAMA = small_model()


def alone(model: Any, ids: list[int]) -> torch.Tensor:
    """The logits behind a row of tokens, from a forward pass without cache or padding."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]


@dataclass
class Rows:
    """A decoder and the ids that each of its rows has read."""

    model: Any
    decoder: Decoder = field(init=False)
    ids: list[list[int]] = field(default_factory=list)

    def __post_init__(self):
        self.decoder = Decoder(self.model)

    @torch.inference_mode()
    def join(self, new: list[tuple[int, ...]]) -> None:
        logits = self.decoder.join(new, [1] * len(new))
        self.ids += [list(prompt) for prompt in new]
        self.compare(logits, self.ids[len(self.ids) - len(new) :])

    @torch.inference_mode()
    def step(self, tokens: tuple[int, ...]) -> None:
        logits = self.decoder.step(tokens)
        self.ids = [[*ids, token] for ids, token in zip(self.ids, tokens, strict=True)]
        self.compare(logits, self.ids)

    @torch.inference_mode()
    def leave(self, row: int) -> None:
        self.decoder.leave(row)
        self.ids[row] = self.ids[-1]
        self.ids.pop()

    def compare(self, logits: torch.Tensor, rows: list[list[int]]) -> None:
        expected = torch.stack([alone(self.model, ids) for ids in rows])
        scale = expected.abs().max()
        assert (logits - expected).abs().max() / scale < TOLERANCE


@pytest.mark.parametrize("name", CONFIGS)
def test_rows_of_any_architecture_get_the_logits_they_get_alone(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kv_cache, "SLACK", 3)
    rows = Rows(small_model(name))
    rows.join(prompts([4, 9]))
    for count in range(4):
        rows.step(prompts([2], seed=count)[0])
    rows.join(prompts([17], seed=9))
    for count in range(4):
        rows.step(prompts([3], seed=count)[0])
    rows.leave(0)
    rows.join(prompts([2], seed=8))
    rows.step(prompts([3], seed=7)[0])


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.lists(st.integers(1, 12), min_size=1, max_size=3)),
        st.tuples(st.just("step"), st.integers(1, 3)),
        st.tuples(st.just("leave"), st.integers(0, 5)),
    ),
    min_size=2,
    max_size=10,
)


@settings(deadline=None, max_examples=25)
@given(OPERATIONS, st.integers(1, 5))
def test_no_order_of_joining_and_leaving_changes_a_row(operations: list[tuple[str, Any]], slack: int):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kv_cache, "SLACK", slack)
        rows = Rows(LLAMA)
        for seed, (name, value) in enumerate(operations):
            if name == "join":
                rows.join(prompts(value, seed))
            elif name == "leave" and rows.ids:
                rows.leave(value % len(rows.ids))
            elif name == "step" and rows.ids:
                for again in range(value):
                    rows.step(prompts([len(rows.ids)], 100 * seed + again)[0])


def test_copies_of_a_prompt_go_separate_ways():
    decoder = Decoder(LLAMA)
    (prompt,) = prompts([5])
    with torch.inference_mode():
        first = decoder.join([prompt], [2])
        second = decoder.step([7, 8])
    assert torch.equal(first[0], first[1])
    for row, token in enumerate((7, 8)):
        expected = alone(LLAMA, [*prompt, token])
        assert (second[row] - expected).abs().max() / expected.abs().max() < TOLERANCE


def test_values_that_are_no_numbers_leave_with_their_row():
    model = small_model()
    with torch.no_grad():
        model.get_input_embeddings().weight[200] = torch.nan
    decoder = Decoder(model)
    short, next_one = ([token % 200 for token in prompt] for prompt in prompts([4, 9]))
    with torch.inference_mode():
        broken = decoder.join([[200] * 9, short], [1, 1])[0]
        assert broken.isnan().all()
        decoder.leave(0, wipe=True)
        decoder.join([next_one], [1])
        found = decoder.step([7, 8])
    for row, ids in enumerate(([*short, 7], [*next_one, 8])):
        expected = alone(LLAMA, ids)
        assert (found[row] - expected).abs().max() / expected.abs().max() < TOLERANCE


def test_a_full_cache_is_moved_once_in_a_while_and_not_at_each_token(monkeypatch: pytest.MonkeyPatch):
    moved: list[int] = []
    plain = vars(kv_cache.RowCache)["_lay_out"]

    def counted(self: Any, *args: int) -> None:
        moved.append(1)
        plain(self, *args)

    monkeypatch.setattr(kv_cache.RowCache, "_lay_out", counted)
    decoder = Decoder(LLAMA)
    with torch.inference_mode():
        decoder.join(prompts([5, 3]), [1, 1])
        for _ in range(100):
            decoder.step([7, 8])
    assert len(moved) == 1 + 100 // kv_cache.SLACK


def splits(order: list[int]) -> list[list[list[int]]]:
    """All ways to cut a list into parts."""
    if not order:
        return [[]]
    return [[order[:end], *rest] for end in range(1, len(order) + 1) for rest in splits(order[end:])]


@given(st.lists(st.integers(1, 200), max_size=7))
def test_prompts_are_padded_and_read_in_the_batches_that_cost_least(lengths: list[int]):
    def cost(batches: list[list[int]]) -> int:
        return sum(CALL_TOKENS + len(batch) * max(lengths[i] for i in batch) for batch in batches)

    found = padded_batches(lengths)
    assert sorted(i for batch in found for i in batch) == list(range(len(lengths)))
    assert cost(found) == min(cost(way) for way in splits(sorted(range(len(lengths)), key=lambda i: lengths[i])))


def test_a_model_without_keys_and_values_is_refused():
    config = MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, state_size=4)
    with pytest.raises(BaseModelError, match="mamba models cannot be served"):
        refuse_unfit(AutoModelForCausalLM.from_config(config).eval(), VOCABULARY)


def test_a_model_that_looks_at_padding_is_refused(monkeypatch: pytest.MonkeyPatch):
    model = small_model()
    plain = model.forward

    def forward(*args: Any, attention_mask: Any = None, **more: Any) -> Any:
        return plain(*args, **more)

    refuse_unfit(model, VOCABULARY)
    monkeypatch.setattr(model, "forward", forward)
    with pytest.raises(BaseModelError, match="are off by"):
        refuse_unfit(model, VOCABULARY)
