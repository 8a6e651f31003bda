"""The packed output embedding gives the layer's own logits, and stays away from what it cannot pack."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from serving.packed_output import PackedLinear, pack_output
from tests.served import CONFIGS, small_model


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 1), (2, 5), (0,)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_it_gives_the_layers_own_products(shape: tuple[int, ...], has_bias: bool):
    torch.manual_seed(0)
    layer = nn.Linear(48, 1000, bias=has_bias)
    with torch.inference_mode():
        x = torch.randn(*shape, 48)
        found = PackedLinear(layer)(x)
        assert found.shape == (*shape, 1000)
        torch.testing.assert_close(found, layer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_models_logits_stay_what_they_were(name: str):
    model = small_model(name)
    ids = torch.arange(5, 25).reshape(2, 10)
    with torch.inference_mode():
        before = model(input_ids=ids).logits
        assert pack_output(model)
        torch.testing.assert_close(model(input_ids=ids).logits, before, rtol=1e-5, atol=1e-5)
    assert model.get_output_embeddings().weight.shape == (model.config.vocab_size, 32)


def test_what_is_no_plain_fp32_layer_is_left_alone():
    model = small_model()
    model.lm_head = nn.Sequential(model.lm_head)
    assert not pack_output(model)
    assert isinstance(model.lm_head, nn.Sequential)
    sixteen_bit = small_model().to(torch.bfloat16)
    assert not pack_output(sixteen_bit)
    assert type(sixteen_bit.lm_head) is nn.Linear
