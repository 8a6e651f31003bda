"""A base in 4 bits, as it is really loaded (bitsandbytes quantises on a CPU too), and why it may be refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from cluster.errors import JobFileError
from cluster.spec import TrainSpec
from tests.llamas import llama
from trainers import quantised
from trainers.model import TargetLoss, load_base, prepare_model, trainable_parameters
from trainers.plan import NF4_BITS
from trainers.prepare import refuse_qlora

QLORA = TrainSpec.model_validate({"method": "qlora", "lora": {"rank": 4, "dropout": 0.0}})


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(llama((256, 704, 2, 67))).save_pretrained(path)
    return path


def four_bit_layers(model: nn.Module) -> dict[str, Any]:
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, bnb.nn.Linear4bit)}


def test_the_settings_are_those_of_the_paper() -> None:
    config = BitsAndBytesConfig(**quantised.nf4_settings(torch.bfloat16))
    assert config.quantization_method() == "nf4"
    assert config.bnb_4bit_use_double_quant
    assert config.bnb_4bit_compute_dtype == torch.bfloat16


def test_all_linear_layers_but_the_output_are_in_four_bits_and_only_the_adapter_is_trained(base: Path) -> None:
    model = prepare_model(str(base), QLORA, torch.float32)
    layers = [name for name, module in model.named_modules() if name.endswith("base_layer")]
    assert sorted(four_bit_layers(model)) == sorted(layers)
    assert len(layers) == 2 * 7
    assert all("lora_" in name for name, _ in trainable_parameters(model))
    head = model.get_output_embeddings()
    assert type(head) is nn.Linear


def test_gradients_are_those_over_a_plain_base_with_the_values_that_four_bits_stand_for(base: Path) -> None:
    """fp32: the same products in the same order but for how they are blocked, 1e-6 of gradients of up to 1."""
    torch.manual_seed(0)
    tokens = torch.randint(1, 67, (2, 12))
    is_target = torch.arange(12).expand(2, 12) >= 5

    def gradients(model: nn.Module) -> tuple[float, dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(0)
        for name, parameter in trainable_parameters(model):
            if "lora_B" in name:
                parameter.data.normal_(0, 0.1, generator=generator)
        loss = TargetLoss(model.train())(tokens, is_target)
        loss.backward()
        return loss.item(), {name: p.grad for name, p in trainable_parameters(model) if p.grad is not None}

    torch.manual_seed(1)
    ours = prepare_model(str(base), QLORA, torch.float32)
    torch.manual_seed(1)
    plain = prepare_model(str(base), QLORA.model_copy(update={"method": "lora"}), torch.float32)
    for name, layer in four_bit_layers(ours).items():
        weight = layer.weight
        plain.get_submodule(name).weight.data.copy_(bnb.functional.dequantize_4bit(weight.data, weight.quant_state))
    loss, found = gradients(ours)
    expected_loss, expected = gradients(plain)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert torch.allclose(gradient, expected[name], atol=1e-5), name


def test_a_weight_takes_the_bytes_that_the_plan_counts(base: Path) -> None:
    """Left out on both sides: two tables of 16 and 256 values a layer."""
    held = elements = 0
    for layer in four_bit_layers(load_base(str(base), torch.bfloat16, in_4_bits=True)).values():
        state = layer.weight.quant_state
        held += layer.weight.nbytes + state.absmax.nbytes + state.state2.absmax.nbytes
        elements += state.shape.numel()
    assert held == pytest.approx(elements * NF4_BITS / 8, rel=1e-3)


@pytest.mark.parametrize(
    ("has_gpu", "has_library", "said"),
    [(False, True, ["no GPU"]), (True, False, ["bitsandbytes"]), (False, False, ["no GPU", "bitsandbytes"])],
)
def test_what_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, has_gpu: bool, has_library: bool, said: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(quantised, "LIBRARY", "bitsandbytes" if has_library else "no_such_library")
    with pytest.raises(JobFileError) as refused:
        refuse_qlora()
    assert [word for word in ("no GPU", "bitsandbytes") if word in refused.value.what] == said
    assert refused.value.where == "train.method"


def test_nothing_is_refused_where_both_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    refuse_qlora()
