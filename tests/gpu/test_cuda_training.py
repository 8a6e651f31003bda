"""The same loop on a GPU: bf16 compute under ZeRO with NCCL follows the fp32 curve of the CPU."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from cluster.ports import free_port
from cluster.spec import JobSpec, TrainSpec
from tests.llamas import llama
from tests.plans import a_plan
from tests.tiny import write_base
from trainers.checkpoint import best_directory
from trainers.export import LOGIT_TOLERANCE, logit_difference, write_model
from trainers.loop import Silent, run_loop
from trainers.model import TargetLoss, load_base
from trainers.packed_attention import register, use_packed
from trainers.ranks import Ranks, on_device, world
from trainers.tokens import TokenSet
from trainers.worker import LoopInputs, Worker

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: CUDA training cannot run here"),
]
BF16_TOLERANCE = 0.05
"""bf16 keeps 8 bits: a loss of 6 is known to 0.02, and ten steps let it drift by a little more."""


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_bf16_on_a_gpu_follows_fp32(tmp_path: Path, stage: int) -> None:
    base = write_base(tmp_path / "base")
    rng = np.random.default_rng(0)
    examples = [(rng.integers(1, 300, 20).astype(np.int32), np.arange(20) >= 10) for _ in range(80)]
    TokenSet.write(tmp_path / "train.arrow", examples)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "RANK": "0", "WORLD_SIZE": "1"}
    os.environ["LOCAL_RANK"] = "0"
    dist.init_process_group("nccl", rank=0, world_size=1)
    try:
        curves = [losses(base, tmp_path / "train.arrow", stage, precision) for precision in ("fp32", "bf16")]
    finally:
        dist.destroy_process_group()
    assert curves[1] == pytest.approx(curves[0], abs=BF16_TOLERANCE)


def test_a_micro_batch_never_waits_for_the_gpu(tmp_path: Path) -> None:
    """Every wait would empty the queue of kernels; a step may wait once, for its loss."""
    AutoModelForCausalLM.from_config(llama((64, 96, 2, 300), num_attention_heads=4)).save_pretrained(tmp_path)
    model = load_base(str(tmp_path), torch.bfloat16).cuda()
    keep = TargetLoss(model)
    register()
    use_packed(model, packed=True)
    assert keep.fuse(fused=True)
    lengths = (40, 24)
    ids = torch.randint(1, 300, (1, sum(lengths)))
    is_target = torch.arange(sum(lengths))[None] % 3 > 0
    for mode in ("default", "error"):  # the first pass loads kernels
        torch.cuda.set_sync_debug_mode(mode)
        try:
            keep(on_device(ids, torch.device("cuda")), is_target, lengths).backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_an_adapter_over_four_bits_learns_and_its_release_reproduces_the_logits(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    rng = np.random.default_rng(0)
    TokenSet.write(
        tmp_path / "train.arrow",
        [(rng.integers(1, 300, 20).astype(np.int32), np.arange(20) >= 10) for _ in range(80)],
    )
    train = TrainSpec.model_validate({"method": "qlora", "learning_rate": 1e-2, "batch_size": 8, "epochs": 3.0})
    plan = a_plan(gpus_per_worker=1, device="cuda", precision="bf16", zero_stage=0, steps=30)
    tokens = TokenSet.load(tmp_path / "train.arrow")
    with world() as ranks:
        trained = run_loop(LoopInputs(str(base), train, plan, tokens, tokens, tmp_path / "run"), ranks, Silent())
    assert trained is not None
    assert trained.validation["loss"] < 5.5, "below that of random guesses over 300 tokens, ln 300 = 5.7"
    job = JobSpec.model_validate({"name": "a", "base": str(base), "data": "unused", "train": train})
    weights = best_directory(tmp_path / "run", trained.best_step)
    write_model(job, weights, tmp_path / "release")
    assert logit_difference(job, weights, tmp_path / "release") <= LOGIT_TOLERANCE["bf16"]


def losses(base: Path, tokens: Path, stage: int, precision: str) -> list[float]:
    train = TrainSpec.model_validate({"method": "full", "learning_rate": 1e-3, "batch_size": 8, "epochs": 1.0})
    plan = a_plan(gpus_per_worker=1, device="cuda", precision=precision, zero_stage=stage)
    inputs = LoopInputs(str(base), train, plan, TokenSet.load(tokens), None, tokens.parent)
    worker = Worker(inputs, Ranks(0, 1, torch.device("cuda", 0)))
    return [record.loss for record in worker.steps()]
