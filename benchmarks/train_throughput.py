"""How many examples a second do our loop, TRL's SFTTrainer and Hugging Face's Trainer train? Prints markdown tables.

    HONE_REALDATA=… python benchmarks/train_throughput.py [--repeats 3] [--steps 40]

The real E2E rows, two models: 6 layers × 256 with GPT-2's vocabulary (random weights) and the real 260K model; LoRA on
all linear layers and full tuning. Every contestant runs in a process of its own, the repeats interleaved, with the same
token ids, global batch, threads, AdamW and steps. Also: the floating point operations a second that ours achieves (6 a
weight and token for full tuning, 4 for LoRA, target tokens only in the output layer) over the peak of this machine's
matrix product, measured in between.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from heading import heading, spread
from llama_shapes import Shape, llama_config, write_llama

from cluster.spec import DataSpec
from trainers.sources import read_rows
from trainers.templates import load_tokenizer, template_of
from trainers.tokens import TokenSet, encode_rows

REALDATA = Path(os.environ.get("HONE_REALDATA", ""))
CONTESTANTS = ("ours", "trl", "hf")
BATCH = 16
ROWS, HELD_OUT = 4000, 200
MAX_LENGTH = 256


def small_model(folder: Path) -> None:
    """Write 6 layers × 256 with GPT-2's vocabulary, random weights."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(REALDATA / "gpt2_tokenizer" / "tokenizer.json"),
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
    )
    shape = Shape(256, 1024, layers=6, heads=4, keys=4, vocabulary=len(tokenizer), context=512, tied=True)
    eos = tokenizer.eos_token_id
    write_llama(folder, llama_config(shape, bos_token_id=None, eos_token_id=eos, pad_token_id=eos))
    tokenizer.save_pretrained(folder)


def real_model(folder: Path) -> None:
    """Copy the real 260K model."""
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(REALDATA / "stories260K").save_pretrained(folder)
    load_tokenizer(str(REALDATA / "stories260K")).save_pretrained(folder)


MODELS = {"6 layers × 256, GPT-2's vocabulary": small_model, "stories260K": real_model}


def write_tokens(folder: Path) -> None:
    """Write the token ids and masks that every contestant trains on."""
    path = str(REALDATA / "e2e" / "trainset.csv")
    data = DataSpec.model_validate({"train": path, "columns": {"prompt": "mr", "completion": "ref"}})
    rows = [row for _, row in zip(range(ROWS + HELD_OUT), read_rows(data.train, data), strict=False)]
    template = template_of(load_tokenizer(str(folder)), None)
    encoded = list(encode_rows(rows, template, "completion", MAX_LENGTH))
    for name, part in (("train", encoded[:ROWS]), ("held_out", encoded[ROWS:])):
        TokenSet.write(folder / f"{name}.arrow", ((one.ids_T, one.is_target_T) for one in part if one.kept_targets))


def run(contestant: str, folder: Path, method: str, steps: int, threads: int) -> dict[str, float]:
    command = [sys.executable, str(Path(__file__).with_name("throughput_contestants.py")), contestant]
    command += ["--folder", str(folder), "--method", method, "--steps", str(steps)]
    command += ["--batch", str(BATCH), "--threads", str(threads)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{contestant} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def peak_flops(threads: int, size: int = 2048, repeats: int = 5) -> float:
    """Return the most operations a second that a square fp32 matrix product reaches here."""
    torch.set_num_threads(threads)
    a, b = torch.randn(size, size), torch.randn(size, size)
    best = 0.0
    for _ in range(repeats):
        began = time.perf_counter()
        a @ b
        best = max(best, 2 * size**3 / (time.perf_counter() - began))
    return best


def flops_per_example(folder: Path, method: str) -> float:
    """Return the operations of one mean example's forward and backward pass, attention's products left out."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    body = sum(p.numel() for name, p in model.named_parameters() if "layers" in name)
    head = model.get_output_embeddings().weight.numel()
    data = TokenSet.load(folder / "train.arrow")
    each = 6 if method == "full" else 4
    return each * (body * float(data.lengths.mean()) + head * float(data.target_counts.mean()))


def compare(name: str, folder: Path, method: str, asked: argparse.Namespace) -> None:
    found: dict[str, list[dict[str, float]]] = {contestant: [] for contestant in CONTESTANTS}
    peaks: list[float] = []
    for _ in range(asked.repeats):
        peaks.append(peak_flops(asked.threads))
        for contestant in CONTESTANTS:
            found[contestant].append(run(contestant, folder, method, asked.steps, asked.threads))
    print(f"\n## {name}, {method}\n")
    print("| contestant | examples/s: median (least to most) | ours over it: median (least to most) | held-out loss |")
    print("|---|---:|---:|---:|")
    for contestant, runs in found.items():
        rates = [one["examples_per_s"] for one in runs]
        ratios = [mine["examples_per_s"] / rate for mine, rate in zip(found["ours"], rates, strict=True)]
        losses = ", ".join(sorted({f"{one['held_out_loss']:.3f}" for one in runs}))
        print(f"| {contestant} | {spread(rates)} | {spread(ratios)} | {losses} |")
    rate = median(one["examples_per_s"] for one in found["ours"])
    achieved, peak = rate * flops_per_example(folder, method), median(peaks)
    print(f"\nours: {achieved / 1e9:.1f} GFLOP/s of {peak / 1e9:.1f} (measured matrix product): {achieved / peak:.0%}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--model", choices=[*MODELS], action="append")
    asked = parser.parse_args()
    command = f"benchmarks/train_throughput.py --repeats {asked.repeats} --steps {asked.steps}"
    print(heading("Training throughput", command, ("torch", "transformers", "trl", "peft", "deepspeed")))
    print(
        f"E2E, {ROWS:,} rows, global batch {BATCH}, {asked.threads} threads, fp32, learning rate 1e-3 constant, AdamW"
    )
    print("fused. TRL: train_sampling_strategy group_by_length, loss_type nll (chunked since 1.16), no gradient")
    print("checkpointing, completion_only_loss; Hugging Face: group_by_length, DataCollatorForSeq2Seq.")
    for name in asked.model or MODELS:
        with tempfile.TemporaryDirectory() as directory:
            folder = Path(directory)
            MODELS[name](folder)
            write_tokens(folder)
            for method in ("lora", "full"):
                compare(name, folder, method, asked)


if __name__ == "__main__":
    main()
