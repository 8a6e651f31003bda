"""What share of a GPU's arithmetic does our training loop use? Prints a markdown table.

    python benchmarks/gpu_mfu.py [--case lora-8b] [--steps 6] [--batch 16] [--length 4096]
    python benchmarks/gpu_mfu.py --tiny        # the same code on a CPU in seconds; says nothing about speed

Models of known shapes with random weights, written to disk and loaded as any base is; rows of ``--length`` random
tokens, every one a target; LoRA (rank 16, all linear layers) and full tuning of the largest shape that fits. The loop
is ``trainers.worker`` and the layout ``hone train``'s own plan (micro-batch, ZeRO stage), with gradient checkpointing
only where nothing fits without it. One GPU, no Ray: torch, transformers, peft and deepspeed are enough.

MFU counts 4 operations a weight and token for LoRA (forward, and backward to the activations), 6 for full tuning, over
the weights that are multiplied with: the input embedding, attention's own products, the adapter and what is recomputed
count nothing. It is taken over the data sheet's dense bf16 rate and over the best square product measured here.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from chosen_plan import chosen_plan
from llama_shapes import Shape, llama_config, write_llama

from cluster.errors import CapacityError
from cluster.records import Plan
from cluster.spec import TrainSpec
from trainers.machine import this_machine
from trainers.ranks import device_name, world
from trainers.worker import LoopInputs, Worker

WARM_UP = 2
SHAPES = {
    "8b": Shape(4096, 14336, layers=32, heads=32, keys=8, vocabulary=128_256),
    "7b": Shape(4096, 11008, layers=32, heads=32, keys=32, vocabulary=32_000),
    "3b": Shape(3072, 8192, layers=28, heads=24, keys=8, vocabulary=128_256, tied=True),
    "1b": Shape(2048, 8192, layers=16, heads=32, keys=8, vocabulary=128_256, tied=True),
    "tiny": Shape(64, 128, layers=2, heads=4, keys=2, vocabulary=512),
}
"""The shapes of Llama 3.1 8B, Llama 2 7B, Llama 3.2 3B and 1B."""
CASES = {"lora-8b": ("lora", ["8b"]), "lora-7b": ("lora", ["7b"]), "full": ("full", ["8b", "7b", "3b", "1b"])}
TINY = {"lora-tiny": ("lora", ["tiny"]), "full-tiny": ("full", ["tiny"])}
DENSE_BF16_TFLOPS = {
    "H200 NVL": 835.0,
    "H200": 989.4,
    "GH200": 989.4,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.4,
    "B200": 2250.0,
    "A100": 311.8,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "A10G": 70.0,
    "A10": 125.0,
    "RTX A6000": 154.8,
}
"""NVIDIA's data sheets, without sparsity; the first name that a device's contains counts."""


class RandomRows:
    """As many rows as asked, all of one length, every token but the first a target."""

    def __init__(self, count: int, length: int, vocabulary: int) -> None:
        self._ids = np.random.default_rng(0).integers(0, vocabulary, (count, length), dtype=np.int32)
        self._is_target = np.arange(length) > 0
        self.lengths = np.full(count, length, np.int32)
        self.target_counts = np.full(count, length - 1, np.int32)

    def __len__(self) -> int:
        return len(self._ids)

    def example(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (ids_T, is_target_T) of one row."""
        return self._ids[index], self._is_target


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tiny", action="store_true", help="a tiny model, also without a GPU")
    parser.add_argument("--case", choices=[*CASES, *TINY], action="append")
    parser.add_argument("--steps", type=int, default=6, help="measured steps, after two that are not")
    parser.add_argument("--batch", type=int, default=16, help="rows a step")
    parser.add_argument("--length", type=int, default=4096, help="tokens a row")
    parser.add_argument("--folder", type=Path, help="where weights are written (17 GB for 8b); else a temporary one")
    parser.add_argument("--measure", metavar="CASE", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        print(json.dumps(measured(asked.measure, asked)))
        return
    if not torch.cuda.is_available() and not asked.tiny:
        raise SystemExit("no GPU was found, so nothing can be measured; --tiny runs the same code on a CPU")
    head(asked)
    for case in asked.case or (TINY if asked.tiny else CASES):
        print(row(case, in_own_process(case)), flush=True)


def in_own_process(case: str) -> dict[str, Any]:
    """Measure a case in a process of its own, which begins with an empty GPU."""
    command = [sys.executable, __file__, *sys.argv[1:], "--measure", case]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{case} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measured(case: str, asked: argparse.Namespace) -> dict[str, Any]:
    """Train a case for a few steps and return what it took."""
    method, shapes = (CASES | TINY)[case]
    refused = None
    for name in shapes:
        shape = SHAPES[name]
        data = RandomRows((WARM_UP + asked.steps) * asked.batch, asked.length, shape.vocabulary)
        with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
            try:
                return timed(shape, method, data, asked, Path(folder)) | {"shape": name, "method": method}
            except CapacityError as error:
                refused = error
    raise SystemExit(f"none of {', '.join(shapes)} fits: {refused}")


def timed(shape: Shape, method: str, data: RandomRows, asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Choose the layout, write the base, and take the steps. Raises CapacityError where the shape does not fit."""
    base = folder / "base"
    config = llama_config(shape._replace(context=max(shape.context, asked.length)))
    config.save_pretrained(base)
    train, plan = layout(str(base), method, data, asked.batch)
    write_llama(base, config, torch.bfloat16 if plan.precision == "bf16" else torch.float32)
    with world() as ranks:
        if ranks.device.type == "cuda":
            torch.cuda.empty_cache()
        peak = matrix_product_rate(ranks.device)
        worker = Worker(LoopInputs(str(base), train, plan, data, None, folder / "run"), ranks)
        seconds = [record.seconds for record in worker.steps()][WARM_UP:]
        weights = sum(p.numel() for n, p in worker.module.model.named_parameters() if "lora_" not in n)
        held = torch.cuda.max_memory_allocated() if ranks.device.type == "cuda" else 0
        name = device_name(ranks.device)
    tokens = asked.batch * asked.length
    multiplied = weights - (0 if shape.tied else shape.vocabulary * shape.hidden)
    return {
        "device": name,
        "weights": weights,
        "packed": worker.packed,
        "fused": worker.fused,
        "checkpointing": train.gradient_checkpointing,
        "micro_batch_tokens": plan.micro_batch_tokens,
        "zero_stage": plan.zero_stage,
        "predicted_bytes": sum(plan.memory_bytes.values()),
        "peak_bytes": held,
        "tokens_per_s": [tokens / step for step in seconds],
        "flops_per_token": (4 if method == "lora" else 6) * multiplied,
        "matrix_product_flops": peak,
    }


def layout(base: str, method: str, data: RandomRows, batch: int) -> tuple[TrainSpec, Plan]:
    """Return the training block and its plan, with gradient checkpointing only where nothing fits without it."""
    block: dict[str, Any] = {"method": method, "batch_size": batch, "epochs": 1.0, "max_length": int(data.lengths[0])}
    if method == "lora":
        block["lora"] = {"rank": 16, "alpha": 32, "dropout": 0.0, "targets": "all-linear"}
    plain, saving = (TrainSpec.model_validate(block | {"gradient_checkpointing": saves}) for saves in (False, True))
    capacity = this_machine()
    try:
        return plain, chosen_plan(base, plain, data, capacity)
    except CapacityError:
        return saving, chosen_plan(base, saving, data, capacity)


def matrix_product_rate(device: torch.device, repeats: int = 10) -> float:
    """Return the most operations a second that a square product reaches here: bf16 on a GPU, fp32 on a CPU."""
    on_gpu = device.type == "cuda"
    size = 8192 if on_gpu else 512
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16 if on_gpu else torch.float32) for _ in "ab")
    best = 0.0
    for _ in range(repeats):
        began = time.perf_counter()
        for _ in range(10):
            a @ b
        if on_gpu:
            torch.cuda.synchronize(device)
        best = max(best, 10 * 2 * size**3 / (time.perf_counter() - began))
    return best


def data_sheet_flops(device: str) -> float | None:
    """Return a GPU's dense bf16 rate by its name."""
    return next((1e12 * rate for name, rate in DENSE_BF16_TFLOPS.items() if name in device), None)


def head(asked: argparse.Namespace) -> None:
    """Print what was asked, on what, and the table's head."""
    root = Path(__file__).parent
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=root).stdout
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "deepspeed"))
    print(f"# Use of a GPU's arithmetic\n\nPython {platform.python_version()}, {libraries}; commit {commit.strip()}\n")
    print(f"    python benchmarks/gpu_mfu.py {' '.join(sys.argv[1:])}".rstrip() + "\n")
    print(f"{asked.batch} rows of {asked.length:,} tokens a step, all targets; {asked.steps} steps after {WARM_UP}.\n")
    columns = ["model, method", "device", "layout", "memory: predicted, measured", "tokens/s: median (least to most)"]
    columns += ["MFU of the data sheet", "of the product measured here"]
    print("| " + " | ".join(columns) + " |\n|---|---|---|---|---:|---:|---:|")


def row(case: str, found: dict[str, Any]) -> str:
    """Return a case's line of the table."""
    rates = found["tokens_per_s"]
    flops = found["flops_per_token"] * median(rates)
    sheet = data_sheet_flops(found["device"])
    layout = [f"micro-batches of {found['micro_batch_tokens']:,} tokens", f"ZeRO-{found['zero_stage']}"]
    layout += [name for name in ("packed", "fused", "checkpointing") if found[name]]
    cells = [
        f"{case}: {found['shape']} ({found['weights'] / 1e6:,.4g} M weights), {found['method']}",
        found["device"],
        ", ".join(layout),
        f"{found['predicted_bytes'] / 1e9:.3g} GB, " + (f"{found['peak_bytes'] / 1e9:.3g} GB" if sheet else "—"),
        f"{median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})",
        f"{flops / sheet:.1%} of {sheet / 1e12:,.0f} TFLOP/s" if sheet else "—",
        f"{flops / found['matrix_product_flops']:.1%} of {found['matrix_product_flops'] / 1e12:,.3g} TFLOP/s",
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
