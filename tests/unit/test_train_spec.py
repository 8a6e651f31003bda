"""The training block: defaults that follow other keys, and combinations that cannot work."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from pydantic import ValidationError

from cluster.spec import JobSpec, TrainSpec


def job(train: dict[str, Any] | None = None) -> JobSpec:
    return JobSpec.model_validate({"name": "a", "base": "b", "data": "c.jsonl", "train": train})


def test_the_learning_rate_follows_the_method_unless_given():
    rates = {method: TrainSpec(method=method).learning_rate for method in ("full", "lora", "qlora")}
    assert rates == {"full": 2e-5, "lora": 2e-4, "qlora": 2e-4}
    assert TrainSpec(method="full", learning_rate=3e-4).learning_rate == 3e-4


def test_a_resolved_job_shows_its_learning_rate():
    assert job(train={"method": "full"}).model_dump()["train"]["learning_rate"] == 2e-5


@pytest.mark.parametrize("train", [{}, {"max_length": 1024}, {"max_length": 64}])
def test_whether_a_length_was_asked_for_survives_dumping_and_pickling(train: dict[str, Any]):
    spec = job(train=train)
    assert spec.train.max_length_given == bool(train)
    assert JobSpec.model_validate(spec.model_dump()).train.max_length_given == bool(train)
    assert JobSpec.model_validate_json(spec.model_dump_json()).train.max_length_given == bool(train)
    assert pickle.loads(pickle.dumps(spec)).train.max_length_given == bool(train)


def test_lowering_the_length_makes_it_asked_for():
    shorter = job().train.model_copy(update={"max_length": 512})
    assert shorter.max_length_given
    assert shorter.model_dump()["max_length"] == 512


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_every_method_reads_back_from_its_own_dump(method: str):
    spec = job(train={"method": method})
    assert JobSpec.model_validate(spec.model_dump()) == spec
    assert ("lora" in spec.model_dump()["train"]) == (method != "full")


@pytest.mark.parametrize("lora", [{}, {"rank": 4}])
def test_an_adapter_is_refused_under_full_tuning(lora: dict[str, Any]):
    with pytest.raises(ValidationError, match="no adapter under method full"):
        job(train={"method": "full", "lora": lora})


@pytest.mark.parametrize(("zero_stage", "offload"), [(3, "none"), (3, "optimizer"), ("auto", "all"), (3, "all")])
def test_a_4_bit_base_is_refused_with_zero_3(zero_stage: Any, offload: str):
    with pytest.raises(ValidationError, match="4-bit base"):
        job(train={"method": "qlora", "zero_stage": zero_stage, "offload": offload})


@pytest.mark.parametrize("zero_stage", ["auto", 0, 1, 2, 3])
@pytest.mark.parametrize(("offload", "allowed"), [("none", {0, 1, 2, 3}), ("optimizer", {1, 2, 3}), ("all", {3})])
def test_offload_needs_a_stage_that_shards_what_it_moves(zero_stage: Any, offload: str, allowed: set[int]):
    settings = {"zero_stage": zero_stage, "offload": offload}
    if zero_stage == "auto" or zero_stage in allowed:
        assert job(train=settings).train.offload == offload
    else:
        with pytest.raises(ValidationError, match="needs ZeRO stage"):
            job(train=settings)


def test_steps_and_epochs_between_evaluations_keep_their_type():
    assert type(job(train={"eval_every": 5}).train.eval_every) is int
    assert type(job(train={"eval_every": 5.0}).train.eval_every) is float
