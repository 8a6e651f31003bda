from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from cluster.errors import BaseModelError, JobFileError
from cluster.spec import TrainSpec
from trainers.model import (
    TargetLoss,
    check_base,
    load_base,
    prepare_model,
    set_dropout,
    target_cost,
    trainable_parameters,
)


def tiny_llama(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=61,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=64,
        )
    )


def tiny_gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=16, n_layer=2, n_head=2, n_positions=64))


def padded_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, targets and attention mask of three rows of 11, 7 and 4 tokens."""
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(1, 61, (3, 11), generator=generator)
    mask = torch.arange(11) < torch.tensor([[11], [7], [4]])
    is_target = mask & (torch.arange(11) >= 3)
    return tokens * mask, is_target, mask.long()


@pytest.mark.parametrize("model", [tiny_llama(), tiny_gpt2()], ids=["llama", "gpt2"])
def test_loss_and_gradients_equal_those_of_the_plain_model_on_the_same_padded_batch(model: nn.Module) -> None:
    """The oracle is transformers' own forward with mask and labels; fp32 sums in another order differ by 1e-6."""
    model.eval()
    tokens, is_target, mask = padded_batch()
    labels = tokens.masked_fill(~is_target, -100)
    oracle = model(input_ids=tokens, attention_mask=mask, labels=labels).loss
    oracle.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    ours = TargetLoss(model)(tokens, is_target) / is_target.sum()
    ours.backward()
    assert ours.item() == pytest.approx(oracle.item(), abs=1e-6)
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad, expected[name], atol=1e-6), name


def test_a_target_costs_what_the_vocabulary_weighs_against_the_layers() -> None:
    attention, mlp, norms = 2 * 16 * 16 + 2 * 16 * 8, 3 * 16 * 32, 2 * 16
    assert target_cost(tiny_llama()) == pytest.approx(61 * 16 / (2 * (attention + mlp + norms) + 16))


def test_only_target_tokens_meet_the_vocabulary() -> None:
    model = tiny_llama()
    seen: list[tuple[int, ...]] = []
    model.lm_head.register_forward_hook(lambda _m, _i, out: seen.append(tuple(out.shape)))
    tokens, is_target, _ = padded_batch()
    TargetLoss(model)(tokens, is_target)
    assert seen == [(int(is_target.sum()), 61)]


def test_a_batch_without_targets_gives_a_zero_loss_with_a_graph() -> None:
    loss = TargetLoss(tiny_llama())(torch.zeros((1, 2), dtype=torch.long), torch.zeros((1, 2), dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0.0


def test_a_hooked_model_still_generates() -> None:
    model = tiny_llama()
    TargetLoss(model)
    out = model.generate(torch.tensor([[1, 2, 3]]), attention_mask=torch.ones(1, 3), max_new_tokens=4, do_sample=False)
    assert out.shape == (1, 7)


def test_lora_trains_adapters_on_every_linear_layer_and_nothing_else(tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path)
    model = prepare_model(str(tmp_path), TrainSpec(method="lora"), torch.float32)
    names = [name for name, _ in trainable_parameters(model)]
    assert all("lora_" in name for name in names)
    assert len(names) == 2 * 7 * 2


def test_lora_targets_that_match_nothing_are_refused_with_what_there_is(tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path)
    train = TrainSpec.model_validate({"lora": {"targets": ["qv_proj"]}})
    with pytest.raises(JobFileError, match="q_proj"):
        prepare_model(str(tmp_path), train, torch.float32)


def test_dropout_reaches_the_model_and_is_refused_where_there_is_none(tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path)
    assert load_base(str(tmp_path), torch.float32, dropout=0.25).config.attention_dropout == 0.25
    tiny_gpt2().save_pretrained(tmp_path / "gpt2")
    assert load_base(str(tmp_path / "gpt2"), torch.float32, dropout=0.0).config.resid_pdrop == 0.0

    class Bare:
        model_type = "bare"

    with pytest.raises(JobFileError, match="no dropout"):
        set_dropout(Bare(), 0.1)


def test_a_missing_base_and_pickled_weights_are_refused_before_loading(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="does not exist"):
        check_base(str(tmp_path / "none"))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(BaseModelError, match=r"pytorch_model\.bin"):
        check_base(str(tmp_path))
    (tmp_path / "model.safetensors").touch()
    check_base(str(tmp_path))
