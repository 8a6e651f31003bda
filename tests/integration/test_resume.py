"""A run stopped at any step and gone on with is the run that was never stopped.

On the same ranks and stage bit for bit (fp32 on CPU, dropout included): the same sums in the same order. On others to
1e-5 of the weights, as two runs on different layouts differ anyway (test_parity.py).
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cluster.spec import TrainSpec
from tests.integration.ranks import on_ranks
from tests.integration.test_parity import base, plan, tokens_path
from trainers.checkpoint import best_directory, read_weights
from trainers.loop import Silent, run_loop
from trainers.loop_state import LoopState, StepRecord
from trainers.ranks import Ranks
from trainers.tokens import TokenSet
from trainers.worker import LoopInputs

__all__ = ["base", "tokens_path"]

LAYOUT_TOLERANCE = 1e-5
METHODS: dict[str, dict[str, Any]] = {
    "full": {"method": "full", "dropout": 0.0},
    "lora": {"method": "lora", "lora": {"rank": 4, "alpha": 8, "dropout": 0.2}},
}


class StopAfter(Silent):
    """Asks for a stop after a step, and remembers where the run began and its losses."""

    def __init__(self, step: int | None) -> None:
        self.stop_at = step
        self.began = -1
        self.losses: dict[int, float] = {}

    def on_start(self, state: LoopState, warnings: list[str]) -> None:
        assert warnings == []
        self.began = state.step

    def on_step(self, record: StepRecord) -> None:
        self.losses[record.step] = record.loss

    def wants_stop(self) -> bool:
        return self.stop_at is not None and len(self.losses) + 1 == self.stop_at


@dataclass(frozen=True)
class Part:
    """One call of the loop: which checkpoint directory, how it trains, and where it is told to stop."""

    directory: Path
    method: str
    stage: int
    stop_at: int | None = None
    precision: str = "fp32"


def trained(ranks: Ranks, base: Path, tokens: Path, parts: list[Part]) -> list[tuple[int, dict[int, float], bool]]:
    """Run the parts one after another, and say of each where it began, its losses, and whether it finished."""
    return [one(ranks, base, tokens, part) for part in parts]


def one(ranks: Ranks, base: Path, tokens: Path, part: Part) -> tuple[int, dict[int, float], bool]:
    train = TrainSpec.model_validate(
        METHODS[part.method]
        | {"batch_size": 8, "epochs": 2.0, "learning_rate": 1e-3, "weight_decay": 0.01, "eval_every": 3}
    )
    data = TokenSet.load(tokens)
    chosen = plan(part.stage, ranks.world_size, 60, part.precision)
    inputs = LoopInputs(str(base), train, chosen, data, data, part.directory)
    hooks = StopAfter(part.stop_at)
    finished = run_loop(inputs, ranks, hooks)
    return hooks.began, hooks.losses, finished is not None


def final_weights(directory: Path) -> dict[str, Tensor]:
    """The last evaluation is the best one on a falling loss."""
    return read_weights(best_directory(directory, 10))


SAME = [(method, stage, stop_at) for method in METHODS for stage, stop_at in ((0, 1), (1, 6), (2, 5), (3, 9))]


@pytest.fixture(scope="module")
def folder(base: Path, tokens_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def on_two(base: Path, tokens_path: Path, folder: Path) -> dict[Path, list[tuple[int, dict[int, float], bool]]]:
    """Every case unbroken, and stopped and gone on with, on two ranks."""
    parts = [
        part
        for method, stage, stop_at in SAME
        for part in (
            Part(folder / f"{method}-{stage}", method, stage),
            Part(folder / f"{method}-{stage}-stopped", method, stage, stop_at),
            Part(folder / f"{method}-{stage}-stopped", method, stage),
        )
    ]
    parts.append(Part(folder / "half", "full", 2, 5))
    outcomes = on_ranks(trained, 2, base, tokens_path, parts)
    found: dict[Path, list[tuple[int, dict[int, float], bool]]] = {}
    for part, outcome in zip(parts, outcomes, strict=True):
        found.setdefault(part.directory, []).append(outcome)
    return found


@pytest.mark.parametrize(("method", "stage", "stop_at"), SAME)
def test_resumed_on_the_same_workers_it_is_bit_for_bit_the_unbroken_run(
    on_two: dict[Path, list[tuple[int, dict[int, float], bool]]], folder: Path, method: str, stage: int, stop_at: int
) -> None:
    (unbroken,) = on_two[folder / f"{method}-{stage}"]
    first, rest = on_two[folder / f"{method}-{stage}-stopped"]
    assert (first[0], max(first[1]), first[2]) == (0, stop_at, False)
    assert (rest[0], min(rest[1]), rest[2]) == (stop_at, stop_at + 1, True)
    assert first[1] | rest[1] == unbroken[1]
    weights = final_weights(folder / f"{method}-{stage}")
    for name, value in final_weights(folder / f"{method}-{stage}-stopped").items():
        assert torch.equal(value, weights[name]), name


def test_bf16_keeps_fp32_masters_at_every_stage_and_goes_on_exactly(
    base: Path, tokens_path: Path, tmp_path: Path
) -> None:
    """One rank, on a CPU: the same sums in the same order, so the curves are equal to the bit."""
    whole = [Part(tmp_path / str(stage), "full", stage, precision="bf16") for stage in (0, 1, 2, 3)]
    broken = [Part(tmp_path / "stopped", "full", 0, stop_at, "bf16") for stop_at in (4, None)]
    outcomes = on_ranks(trained, 1, base, tokens_path, whole + broken)
    curves = [losses for _, losses, _ in outcomes]
    assert curves[0] == curves[1] == curves[2] == curves[3] == curves[4] | curves[5]
    assert outcomes[5][0] == 4
    weights = final_weights(tmp_path / "0")
    for name, value in final_weights(tmp_path / "stopped").items():
        assert torch.equal(value, weights[name]), name
        assert not torch.equal(value, value.bfloat16().float()), "an fp32 master holds more than bf16 can"


@pytest.mark.parametrize(("ranks", "stages"), [(1, [0, 2]), (2, [3]), (3, [1, 2])])
@pytest.mark.usefixtures("on_two")
def test_a_run_begun_on_two_workers_at_stage_2_goes_on_with_others(
    base: Path, tokens_path: Path, folder: Path, tmp_path: Path, ranks: int, stages: list[int]
) -> None:
    parts = [Part(tmp_path / str(stage), "full", stage) for stage in stages]
    for part in parts:
        shutil.copytree(folder / "half", part.directory)
    outcomes = on_ranks(trained, ranks, base, tokens_path, parts)
    assert [(began, done) for began, _, done in outcomes] == [(5, True)] * len(parts)
    weights = final_weights(folder / "full-2")
    for part in parts:
        for name, value in final_weights(part.directory).items():
            assert (value - weights[name]).abs().max() <= LAYOUT_TOLERANCE, name
