"""The fused loss against torch's cross-entropy on whole logits. Tolerance 1e-6 relative: fp32 sums in another order."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from trainers import fused_loss
from trainers.fused_loss import FusedTargetLoss
from trainers.model import TargetLoss


def losses_and_grads(dtype: torch.dtype, trained: bool) -> list[tuple[Tensor, ...]]:
    torch.manual_seed(0)
    hidden = torch.randn(37, 8).to(dtype).requires_grad_()
    weight = torch.randn(50, 8).to(dtype).requires_grad_(trained)
    labels = torch.randint(0, 50, (37,))
    found = []
    for fused in (False, True):
        hidden.grad = weight.grad = None
        loss = (
            FusedTargetLoss.apply(hidden, weight, labels)
            if fused
            else nn.functional.cross_entropy((hidden @ weight.T).float(), labels, reduction="sum")
        )
        (loss * 0.25).backward()
        found.append((loss.detach(), hidden.grad, *([weight.grad] if trained else [])))
    return found


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("block", [1, 50 * 5, 2**20])
def test_loss_and_gradients_are_those_of_the_whole_logits(
    trained: bool, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused_loss, "BLOCK_ELEMENTS", {"cpu": block})
    monkeypatch.setattr(fused_loss, "BLOCK_ELEMENTS_WITH_WEIGHTS", block)
    for plain, fused in zip(*losses_and_grads(torch.float32, trained), strict=True):
        assert torch.allclose(plain, fused, rtol=1e-6, atol=1e-6)


def test_half_precision_rounds_like_the_plain_loss() -> None:
    for plain, fused in zip(*losses_and_grads(torch.bfloat16, True), strict=True):
        assert torch.allclose(plain.float(), fused.float(), rtol=0.02, atol=0.02)


def test_large_logits_do_not_overflow_and_no_target_is_zero() -> None:
    hidden, weight = torch.full((2, 4), 1e3, requires_grad=True), torch.eye(4)
    loss = FusedTargetLoss.apply(hidden, weight * 1e3, torch.tensor([0, 1]))
    assert torch.isfinite(loss)
    empty = torch.zeros((0, 4), requires_grad=True)
    nothing = FusedTargetLoss.apply(empty, weight, torch.zeros(0, dtype=torch.long))
    nothing.backward()
    assert nothing.item() == 0.0


SHAPE = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
}


def test_a_model_gives_the_same_loss_fused_and_its_logits_stay() -> None:
    torch.manual_seed(0)
    scorer = TargetLoss(LlamaForCausalLM(LlamaConfig(**SHAPE)))
    tokens, is_target = torch.randint(0, 50, (2, 6)), torch.ones((2, 6), dtype=torch.bool)
    plain = scorer(tokens, is_target)
    logits = scorer(tokens, is_target, as_logits=True)
    assert scorer.fuse(fused=True)
    assert scorer(tokens, is_target).item() == pytest.approx(plain.item(), rel=1e-6)
    assert torch.equal(scorer(tokens, is_target, as_logits=True), logits)
    assert scorer.model(tokens).logits.shape == (2, 6, 50), "whoever else calls the model gets logits"
    assert scorer.fuse(fused=False)
    assert torch.equal(scorer(tokens, is_target), plain)


def test_capped_logits_are_told_by_another_loss() -> None:
    torch.manual_seed(0)
    config = Gemma2Config(**SHAPE, head_dim=8, final_logit_softcapping=1.0)
    scorer = TargetLoss(Gemma2ForCausalLM(config))
    tokens, is_target = torch.randint(0, 50, (2, 6)), torch.ones((2, 6), dtype=torch.bool)
    plain = scorer(tokens, is_target).item()
    scorer.fuse(fused=True)
    assert abs(scorer(tokens, is_target).item() - plain) > 0.01 * plain
