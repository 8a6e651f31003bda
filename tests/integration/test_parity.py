"""Ours against the plain Hugging Face model under torch's own AdamW, over ZeRO stages, ranks and layouts.

Tolerance 1e-5 on losses of about 4: the same fp32 sums in another order differ by up to 1e-6 a step, and ten steps of
AdamW let that grow by less than a digit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from cluster.records import Plan
from cluster.spec import TrainSpec
from tests.integration.ranks import on_ranks
from tests.llamas import llama
from tests.plans import a_plan
from trainers.batches import Schedule
from trainers.loop import Silent, run_loop
from trainers.optimizer import learning_rate_frac
from trainers.ranks import Ranks
from trainers.tokens import TokenSet
from trainers.worker import LoopInputs, Worker

TOLERANCE = 1e-5
STEPS = 10
BATCH = 8


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    config = llama((32, 48, 2, 67), num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64)
    LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def tokens_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokens") / "train.arrow"
    rng = np.random.default_rng(0)

    def examples() -> Any:
        for _ in range(BATCH * STEPS // 2):
            length = int(rng.integers(4, 30))
            ids = rng.integers(1, 67, size=length).astype(np.int32)
            yield ids, np.arange(length) >= rng.integers(1, length)

    TokenSet.write(path, examples())
    return path


def plan(zero_stage: int, workers: int, micro_batch_tokens: int, precision: str = "fp32") -> Plan:
    return a_plan(
        workers=workers,
        precision=precision,
        zero_stage=zero_stage,
        steps=STEPS,
        steps_per_epoch=STEPS // 2,
        micro_batch_tokens=micro_batch_tokens,
    )


def spec(method: str) -> TrainSpec:
    lora = {"lora": {"rank": 4, "dropout": 0.0}} if method == "lora" else {}
    return TrainSpec.model_validate(
        {"method": method, "learning_rate": 1e-2, "batch_size": BATCH, "epochs": 2.0, "weight_decay": 0.1, **lora}
    )


def losses(ranks: Ranks, base: Path, tokens: Path, method: str, stage: int, micro: int) -> list[float]:
    inputs = LoopInputs(
        str(base), spec(method), plan(stage, ranks.world_size, micro), TokenSet.load(tokens), None, tokens.parent
    )
    return [record.loss for record in Worker(inputs, ranks).steps()]


def reference_losses(base: Path, tokens_path: Path) -> list[float]:
    """Full tuning as a textbook would write it: one padded batch, transformers' loss, torch's AdamW and clipping."""
    train, tokens = spec("full"), TokenSet.load(tokens_path)
    model = LlamaForCausalLM.from_pretrained(base).train()
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    spared = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": train.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    )
    schedule = Schedule(len(tokens), BATCH, train.epochs, train.seed)
    seen = []
    for step in range(schedule.num_steps):
        rows = [tokens.example(int(i)) for i in schedule.examples(step)]
        longest = max(len(ids) for ids, _ in rows)
        ids = torch.tensor([np.pad(ids, (0, longest - len(ids))).tolist() for ids, _ in rows])
        labels = torch.tensor(
            [
                np.pad(np.where(target, ids, -100), (0, longest - len(ids)), constant_values=-100).tolist()
                for ids, target in rows
            ]
        )
        mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in rows])
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), train.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = train.learning_rate * learning_rate_frac(
                step, schedule.num_steps, train.schedule, train.warmup
            )
        optimizer.step()
        seen.append(loss.item())
    return seen


@pytest.mark.parametrize(
    ("world_size", "stage", "micro"),
    [(1, 0, 10_000), (1, 2, 40), (2, 0, 40), (2, 1, 10_000), (2, 2, 40), (2, 3, 40)],
)
def test_full_tuning_follows_the_textbook_loop_at_every_stage_and_layout(
    base: Path, tokens_path: Path, world_size: int, stage: int, micro: int
) -> None:
    ours = on_ranks(losses, world_size, base, tokens_path, "full", stage, micro)
    assert ours == pytest.approx(reference_losses(base, tokens_path), abs=TOLERANCE)


def test_lora_gives_one_loss_curve_at_every_stage_and_number_of_ranks(base: Path, tokens_path: Path) -> None:
    curves = [
        on_ranks(losses, world_size, base, tokens_path, "lora", stage, micro)
        for world_size, stage, micro in [(1, 0, 10_000), (2, 0, 40), (2, 1, 40), (2, 2, 10_000), (2, 3, 40)]
    ]
    epochs = [sum(curves[0][: STEPS // 2]), sum(curves[0][STEPS // 2 :])]
    assert abs(epochs[0] - epochs[1]) > 100 * TOLERANCE, "the adapter learned something to compare"
    for curve in curves[1:]:
        assert curve == pytest.approx(curves[0], abs=TOLERANCE)


def first_gradients(ranks: Ranks, base: Path, tokens_path: Path, stage: int) -> dict[str, Any]:
    """Read the first step's gradient off AdamW: its first moment is then (1 - 0.9) times the unclipped gradient."""
    from deepspeed.utils import safe_get_full_optimizer_state

    tokens, train = TokenSet.load(tokens_path), spec("full").model_copy(update={"max_grad_norm": 0.0})
    worker = Worker(
        LoopInputs(str(base), train, plan(stage, ranks.world_size, 40), tokens, None, tokens_path.parent), ranks
    )
    next(worker.steps())
    if stage < 3:  # DeepSpeed 0.19.8 links the optimizer's state to its parameters at the first step, before it exists
        worker.engine.optimizer._hp_optimizer_states_linked = False
        worker.engine.optimizer._lazy_init_hp_params_optimizer_state()
    named = worker.module.model.named_parameters()
    return {name: safe_get_full_optimizer_state(p, "exp_avg").float().cpu().numpy() / 0.1 for name, p in named}


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_first_step_gradients_equal_those_of_the_plain_model(base: Path, tokens_path: Path, stage: int) -> None:
    ours = on_ranks(first_gradients, 2, base, tokens_path, stage)
    tokens = TokenSet.load(tokens_path)
    model = LlamaForCausalLM.from_pretrained(base)
    nll, targets = torch.zeros(()), 0
    for row in Schedule(len(tokens), BATCH, 2.0, 0).examples(0):
        ids, target = tokens.example(int(row))
        labels = torch.from_numpy(np.where(target, ids, -100).astype(np.int64))[None]
        count = int(target[1:].sum())
        nll = nll + model(input_ids=torch.from_numpy(ids.astype(np.int64))[None], labels=labels).loss * count
        targets += count
    (nll / targets).backward()
    for name, parameter in model.named_parameters():
        assert np.allclose(ours[name], parameter.grad.numpy(), atol=1e-6), name


def kept_best(ranks: Ranks, base: Path, tokens: Path, best: Path, stage: int) -> tuple[int, float]:
    train = spec("full").model_copy(update={"eval_every": 2})
    inputs = LoopInputs(
        str(base), train, plan(stage, ranks.world_size, 40), TokenSet.load(tokens), TokenSet.load(tokens), best
    )
    trained = run_loop(inputs, ranks, Silent())
    assert trained is not None
    return trained.best_step, trained.best_value


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_saved_weights_reproduce_the_best_validation_loss_in_a_plain_model(
    base: Path, tokens_path: Path, tmp_path: Path, stage: int
) -> None:
    from trainers.checkpoint import best_directory, load_weights, read_weights
    from trainers.likelihood import negative_log_likelihoods
    from trainers.model import TargetLoss

    best_step, best_value = on_ranks(kept_best, 2, base, tokens_path, tmp_path, stage)
    model = LlamaForCausalLM.from_pretrained(base)
    load_weights(model, read_weights(best_directory(tmp_path, best_step)))
    tokens = TokenSet.load(tokens_path)
    nll = negative_log_likelihoods(TargetLoss(model), [tokens.example(i) for i in range(len(tokens))])
    assert nll.sum() / tokens.target_counts.sum() == pytest.approx(best_value, abs=TOLERANCE)
