from __future__ import annotations

from math import cos, pi

import pytest
import torch
from torch import nn

from cluster.spec import TrainSpec
from trainers.optimizer import build_optimizer, learning_rate_frac, set_learning_rate


def test_warm_up_rises_and_the_peak_is_reached_once_it_ends() -> None:
    rates = [learning_rate_frac(step, 100, "cosine", 0.1) for step in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 11 for i in range(10)])
    assert rates[10] == 1.0
    assert rates[11:] == sorted(rates[11:], reverse=True)


def test_cosine_and_linear_follow_their_formulas() -> None:
    assert learning_rate_frac(25, 100, "cosine", 0.0) == pytest.approx((1 + cos(pi / 4)) / 2)
    assert learning_rate_frac(25, 100, "linear", 0.0) == pytest.approx(0.75)
    assert learning_rate_frac(99, 100, "constant", 0.0) == 1.0


def test_weight_decay_acts_on_matrices_only() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    optimizer = build_optimizer(model.named_parameters(), TrainSpec(method="full", weight_decay=0.1))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {decay[id(p)] for p in model.parameters() if p.ndim == 2} == {0.1}
    assert {decay[id(p)] for p in model.parameters() if p.ndim == 1} == {0.0}


def test_lora_plus_makes_the_b_matrices_learn_faster_by_its_ratio() -> None:
    named = [(f"layer.lora_{side}.weight", nn.Parameter(torch.zeros(2, 2))) for side in "AB"]
    optimizer = build_optimizer(named, TrainSpec.model_validate({"lora": {"lora_plus_ratio": 16.0}}))
    set_learning_rate(optimizer, 1e-3)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rate[id(named[1][1])] == pytest.approx(16 * rate[id(named[0][1])])
