"""What a forward pass is said to keep, against closed forms; and parameters, against real models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, GPT2Config, Qwen3MoeConfig

from cluster.errors import BaseModelError
from cluster.spec import TrainSpec
from tests.llamas import NARROW, WIDE, facts, llama
from trainers.outline import model_facts, outline
from trainers.plan import Sharding, model_states


@pytest.mark.parametrize(("precision", "size"), [("fp32", 4), ("bf16", 2)])
def test_llama_activations_agree_with_a_closed_form(precision: str, size: int) -> None:
    """Korthikanti et al. 2022, eq. 1, recounted for grouped queries, SwiGLU and RMSNorm, without the T·T matrix.

    Per layer and token: both norms keep their input and their scale in fp32, and (input × scale) and the output in the
    model's precision; attention q, k, v, its output and a fp32 number a head; the MLP gate, its SiLU, up and product.
    In fp32 a norm's input is the residual itself. One norm follows the last layer, whose output goes to the head.
    """
    hidden, intermediate, layers, _ = WIDE
    keys, heads = hidden // 2, 8
    norm = hidden * 4 + 4 + 2 * hidden * size
    per_layer = 2 * norm + (2 * hidden + 2 * keys) * size + 4 * heads + 4 * intermediate * size
    per_token = layers * per_layer + norm - hidden * size
    kept = facts(WIDE, precision).activations.kept
    assert kept.per_token == pytest.approx(per_token, rel=1e-3)
    assert kept.per_pair == 0


def test_dropout_keeps_attention_matrices_on_a_cpu_only() -> None:
    assert facts(NARROW, dropout=0.1).activations.kept.per_pair > 0
    assert facts(NARROW, device="cuda", dropout=0.1).activations.kept.per_pair == 0


def test_a_gpu_keeps_a_byte_for_a_dropped_value() -> None:
    """LoRA drops the inputs of seven matrices a layer; a CPU keeps a 4-byte factor where a GPU keeps one byte.

    Neither keeps one for the first layer's queries, keys and values: nothing below them is trained.
    """
    hidden, intermediate, layers, _ = NARROW
    dropped = layers * (6 * hidden + intermediate)
    on_cpu = facts(NARROW, method="lora").activations.kept.per_token
    on_gpu = facts(NARROW, device="cuda", method="lora").activations.kept.per_token
    assert on_cpu - on_gpu == pytest.approx(3 * (dropped - 3 * hidden), rel=1e-3)


def test_recomputing_keeps_layer_inputs_and_one_layer() -> None:
    hidden, _, layers, _ = NARROW
    plain, saving = facts(NARROW).activations, facts(NARROW, gradient_checkpointing=True).activations
    assert plain.recomputed.of(4, 32) == 0
    outside = saving.kept.per_token - layers * hidden * 4
    assert plain.kept.per_token == pytest.approx(outside + layers * saving.recomputed.per_token, rel=0.01)


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(n_embd=64, n_layer=2, n_head=2, vocab_size=100, bos_token_id=0, eos_token_id=0),
        Qwen3MoeConfig(
            hidden_size=64,
            intermediate_size=64,
            moe_intermediate_size=32,
            num_experts=4,
            num_experts_per_tok=2,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            vocab_size=100,
        ),
    ],
    ids=["gpt2", "qwen3_moe"],
)
def test_other_kinds_of_models_are_outlined_with_every_parameter(config: Any) -> None:
    real = AutoModelForCausalLM.from_config(config)
    for precision in ("fp32", "bf16"):
        model = outline(config, TrainSpec(method="full"), precision=precision, device="cuda")
        assert model.num_parameters == model.num_trainable == sum(p.numel() for p in real.parameters())
        assert model.activations.kept.per_token > 0


def test_lora_trains_rank_times_in_and_out_features_of_every_linear_layer() -> None:
    hidden, intermediate, layers, _ = NARROW
    in_and_out = 2 * (2 * hidden) + 2 * (hidden + hidden // 2) + 3 * (hidden + intermediate)
    model = facts(NARROW, method="lora")
    assert model.num_trainable == 16 * layers * in_and_out
    assert model.num_parameters == facts(NARROW).num_parameters + model.num_trainable


def test_qlora_keeps_linear_layers_in_four_bits_and_scales() -> None:
    train = TrainSpec.model_validate({"method": "qlora"})
    model = outline(llama(NARROW), train, precision="bf16", device="cuda")
    linear = sum(p.elements for p in model.parameters if p.is_quantised)
    hidden, intermediate, layers, _ = NARROW
    assert linear == layers * hidden * (3 * hidden + 3 * intermediate)
    weights, _, _ = model_states(model, Sharding(0, 1, "bf16", "cuda"))
    bits = 4 + 8 / 64 + 32 / (64 * 256)  # a value, its share of a scale, and that one's of the scales' scale
    assert weights == pytest.approx(linear * bits / 8 + 2 * (model.num_parameters - linear), rel=1e-6)


def test_a_base_that_cannot_be_read_is_an_error_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="cannot be read"):
        model_facts(str(tmp_path), TrainSpec(method="full"), precision="fp32", device="cpu")
