from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.errors import CapacityError, RunFailed, StoreError
from cluster.records import Plan
from cluster.spec import TrainSpec
from tests.integration.test_parity import plan
from trainers.tokens import TokenSet
from trainers.train_worker import (
    OUTCOME,
    Outcome,
    ask_for_smaller_micro_batches,
    is_out_of_memory,
    leave,
    with_smaller_micro_batches,
)
from trainers.worker import LoopInputs

ROW_TOKENS = 30


@pytest.fixture
def inputs(tmp_path: Path) -> LoopInputs:
    rows = [(np.arange(length, dtype=np.int32), np.ones(length, np.bool_)) for length in (5, ROW_TOKENS)]
    TokenSet.write(tmp_path / "train.arrow", rows)
    return LoopInputs("base", TrainSpec(), plan(0, 1, 100), TokenSet.load(tmp_path / "train.arrow"), None, tmp_path)


@pytest.mark.parametrize("error", [RunFailed("a", "b", "c"), StoreError("full"), CapacityError("x", "y")])
def test_a_failure_comes_back_as_the_error_that_it_was(error: RunFailed, tmp_path: Path) -> None:
    leave(Outcome.failed(error), tmp_path)
    again = Outcome.model_validate_json((tmp_path / OUTCOME).read_text()).error()
    assert type(again) is type(error)
    assert again.args == error.args


def test_running_out_of_memory_halves_the_micro_batches_until_one_row_is_left(
    inputs: LoopInputs, tmp_path: Path
) -> None:
    now: Plan = inputs.plan
    seen = [now.micro_batch_tokens]
    for _ in range(2):
        ask_for_smaller_micro_batches(now, inputs, tmp_path)
        now, notes = with_smaller_micro_batches(inputs.plan, tmp_path)
        seen.append(now.micro_batch_tokens)
        assert f"{now.micro_batch_tokens:,} from here" in notes[0]
    assert seen == [100, 50, ROW_TOKENS]
    assert not (tmp_path / OUTCOME).exists()
    ask_for_smaller_micro_batches(now, inputs, tmp_path)
    error = Outcome.model_validate_json((tmp_path / OUTCOME).read_text()).error()
    assert isinstance(error, CapacityError)
    assert f"{ROW_TOKENS} tokens" in error.what


def test_a_first_attempt_keeps_its_plan(inputs: LoopInputs, tmp_path: Path) -> None:
    assert with_smaller_micro_batches(inputs.plan, tmp_path) == (inputs.plan, ())


def test_a_failed_allocation_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**50)
    assert is_out_of_memory(raised.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
