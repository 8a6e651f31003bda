"""Packed examples against each of them alone. Tolerance 1e-5 on logits of size 1: fp32 sums in another order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from trainers.batches import pack, pad
from trainers.model import TargetLoss, causal_lm
from trainers.packed_attention import keeps_examples_apart, kernel_takes, plain_attention

TOLERANCE = 1e-5
SHAPE: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SHAPE),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE, head_dim=4),
    "mistral": MistralConfig(**SHAPE, sliding_window=None),
    "gpt2": GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=4, n_positions=64),
    "gpt-neox": GPTNeoXConfig(**{k: v for k, v in SHAPE.items() if k != "num_key_value_heads"}),
}


def scorer(config: PretrainedConfig) -> TargetLoss:
    torch.manual_seed(0)
    return TargetLoss(AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")).eval()


def logits(model: TargetLoss, examples: list[Tensor], packed: bool) -> Tensor:
    micro = (pack if packed else pad)([(ids.numpy(), np.ones(len(ids), np.bool_)) for ids in examples])
    tokens, is_target = torch.from_numpy(micro.tokens_BT), torch.from_numpy(micro.is_target_BT)
    return model(tokens, is_target, micro.segment_lengths, as_logits=True)


def apart(model: TargetLoss) -> bool:
    return keeps_examples_apart(lambda examples, packed: logits(model, examples, packed), causal_lm(model.model))


def examples(seed: int = 0) -> list[Tensor]:
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(rng.integers(0, 50, size=n).astype(np.int32)) for n in (7, 3, 12, 2)]


@pytest.mark.parametrize("name", [*CONFIGS])
def test_packed_examples_have_the_logits_that_each_has_alone(name: str) -> None:
    model = scorer(CONFIGS[name])
    alone = torch.cat([logits(model, [one], False) for one in examples()])
    assert apart(model)
    assert (logits(model, examples(), True) - alone).abs().max() <= TOLERANCE


@pytest.mark.parametrize("name", [*CONFIGS])
def test_perturbing_one_packed_example_changes_no_logit_of_another(name: str) -> None:
    model = scorer(CONFIGS[name])
    assert apart(model)
    before, changed = examples(), examples()
    changed[2] = (changed[2] + 1) % 50
    ours, theirs = logits(model, before, True), logits(model, changed, True)
    first = sum(len(one) - 1 for one in before[:2])
    last = first + len(before[2]) - 1
    assert torch.equal(ours[:first], theirs[:first])
    assert torch.equal(ours[last:], theirs[last:])
    assert not torch.allclose(ours[first:last], theirs[first:last])


def test_a_model_that_cannot_be_packed_is_left_as_it_was() -> None:
    model = scorer(MistralConfig(**SHAPE, sliding_window=4))
    before = logits(model, examples(), False)
    assert not apart(model)
    assert torch.equal(logits(model, examples(), False), before)


def test_generation_in_between_attends_as_usual() -> None:
    model = scorer(CONFIGS["llama"])
    padded = logits(model, examples(), False)
    assert apart(model)
    with plain_attention(causal_lm(model.model)):
        assert torch.equal(logits(model, examples(), False), padded)
    assert (logits(model, examples(), True) - padded).abs().max() <= TOLERANCE


def test_recomputed_activations_give_the_same_gradients() -> None:
    grads = []
    for checkpointed in (False, True):
        model = scorer(CONFIGS["llama"])
        if checkpointed:
            causal_lm(model.model).activation_checkpointing_enable(
                activation_checkpointing_kwargs={"use_reentrant": False}
            )
        assert apart(model)
        model.train()
        micro = pack([(ids.numpy(), np.ones(len(ids), np.bool_)) for ids in examples()])
        tokens, is_target = torch.from_numpy(micro.tokens_BT), torch.from_numpy(micro.is_target_BT)
        model(tokens, is_target, micro.segment_lengths).backward()
        grads.append([p.grad for p in model.parameters()])
    for plain, again in zip(*grads, strict=True):
        assert torch.allclose(plain, again, atol=1e-6)


@pytest.mark.parametrize(
    ("device", "dtype", "key_size", "value_size", "takes"),
    [
        ("cuda", torch.bfloat16, 128, 128, True),
        ("cuda", torch.float32, 128, 128, False),
        ("cpu", torch.bfloat16, 128, 128, False),
        ("cuda", torch.bfloat16, 12, 12, False),
        ("cuda", torch.bfloat16, 192, 128, False),
        ("cuda", torch.bfloat16, 512, 512, False),
    ],
)
def test_a_shape_that_the_gpu_kernel_cannot_take_is_attended_one_by_one(
    device: str, dtype: torch.dtype, key_size: int, value_size: int, takes: bool
) -> None:
    assert kernel_takes(device, dtype, key_size, value_size) == takes
