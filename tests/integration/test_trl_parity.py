"""The loss of our steps is that of TRL's SFTTrainer on the same data for the same batches.

Tolerance 1e-5: the same fp32 sums in another order, over five steps of AdamW (test_parity.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.spec import TrainSpec
from tests.integration.ranks import on_ranks
from tests.integration.test_parity import plan, tokens_path
from tests.tiny import write_base
from trainers.batches import Schedule
from trainers.ranks import Ranks
from trainers.tokens import TokenSet
from trainers.worker import LoopInputs, Worker

__all__ = ["tokens_path"]

BATCH, STEPS = 8, 5
TRAIN: dict[str, Any] = {
    "method": "full",
    "learning_rate": 1e-3,
    "schedule": "constant",
    "warmup": 0.0,
    "batch_size": BATCH,
    "epochs": 1.0,
}


def ours(ranks: Ranks, base: Path, tokens: Path) -> list[float]:
    train = TrainSpec.model_validate(TRAIN)
    inputs = LoopInputs(str(base), train, plan(0, 1, 10_000), TokenSet.load(tokens), None, tokens.parent)
    return [record.loss for record in Worker(inputs, ranks).steps()][:STEPS]


def trl_losses(base: Path, tokens: Path, folder: Path) -> list[float]:
    """Train on the rows in the order of our steps."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    data = TokenSet.load(tokens)
    schedule = Schedule(len(data), BATCH, 1.0, TrainSpec.model_validate(TRAIN).seed)
    rows = [data.example(int(row)) for step in range(STEPS) for row in schedule.examples(step)]
    seen: list[float] = []

    class Losses(TrainerCallback):
        def on_log(self, _args: Any, _state: Any, _control: Any, logs: dict[str, float], **_: Any) -> None:
            if "loss" in logs:
                seen.append(float(logs["loss"]))

    SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(base),
        args=SFTConfig(
            output_dir=str(folder),
            per_device_train_batch_size=BATCH,
            max_steps=STEPS,
            learning_rate=TRAIN["learning_rate"],
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_grad_norm=1.0,
            optim="adamw_torch_fused",
            train_sampling_strategy="sequential",
            completion_only_loss=True,
            max_length=None,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to=[],
            logging_steps=1,
            logging_first_step=True,
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(
            [{"input_ids": ids.tolist(), "completion_mask": target.astype(int).tolist()} for ids, target in rows]
        ),
        callbacks=[Losses()],
    ).train()
    return seen


@pytest.mark.filterwarnings("ignore")
def test_our_losses_are_those_of_trl_for_the_same_batches(tokens_path: Path, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    theirs = trl_losses(base, tokens_path, tmp_path / "trl")
    assert len(theirs) == STEPS
    assert on_ranks(ours, 1, base, tokens_path) == pytest.approx(theirs, abs=1e-5)
