"""How many trials an hour does `hone sweep` run, and how many the usual recipe? Prints a markdown table.

    python benchmarks/sweep_throughput.py [--trials 8] [--repeats 2]

The usual recipe: Ray Tune, each trial a nested TorchTrainer of one worker that runs Hugging Face's Trainer (Ray's own
guide to tuning with Ray Train). Both search full tuning of the same small model on the same rows over the same learning
rates and batch sizes at random, nothing pruned, evaluating once an epoch and keeping the best weights, one processor a
trial and as many trials at once as there are processors; the drivers of the recipe's trials take none, or half of the
machine would wait. Each contestant runs in a process of its own with a Ray of its own; the clock runs from the first
trial's request to the last trial's end, so Ray's start is in neither. The rows
are the demo's docstrings.
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
from typing import Any

from heading import heading, spread

CONTESTANTS = ("ours", "recipe")
RATES, BATCHES = (1e-4, 3e-3), (16, 32)
EPOCHS, ROWS, MAX_LENGTH = 2, 1500, 128
IGNORED = -100


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--contestant", choices=CONTESTANTS)
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    if asked.contestant:
        seconds = (ours if asked.contestant == "ours" else recipe)(asked.folder, asked.trials)
        print(json.dumps({"seconds": seconds}))
        return
    with tempfile.TemporaryDirectory() as directory:
        write_task(Path(directory))
        compare(Path(directory), asked)


def write_task(folder: Path) -> None:
    """Write a Llama of about a million parameters (random weights), its tokenizer and the rows."""
    import sysconfig

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from trainers.demo_base import Piece, _tokenizer  # pyright: ignore[reportPrivateUsage]
    from trainers.demo_data import docstring_rows, sources

    rows = docstring_rows(sources(Path(sysconfig.get_path("stdlib"))))[:ROWS]
    lines = [json.dumps({"prompt": row.text, "completion": row.label}) for row in rows]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokenizer = _tokenizer([Piece(row.text, row.label) for row in rows])
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=256, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")


def ours(folder: Path, trials: int) -> float:
    """Run the search stage of a sweep, and return its seconds."""
    from datetime import UTC, datetime

    from cluster import pipeline
    from cluster.jobfile import load_job
    from cluster.phases import read_phases
    from cluster.progress import Progress
    from cluster.session import Settings, ray_session
    from cluster.store import Store

    data = {"train": "rows.jsonl", "split": {"test": 0.0}, "audit": {"allow": ["*"]}}
    train = {"method": "full", "epochs": EPOCHS, "max_length": MAX_LENGTH, "eval_every": 1.0, "early_stopping": None}
    space = {"train.learning_rate": f"loguniform({RATES[0]}, {RATES[1]})", "train.batch_size": list(BATCHES)}
    sweep = {"trials": trials, "finalists": 1, "search": "random", "prune": "none", "space": space}
    job = {"name": "sweep", "base": "./base", "data": data, "train": train, "sweep": sweep}
    (folder / "job.yaml").write_text(json.dumps(job))
    with tempfile.TemporaryDirectory() as home:
        settings = Settings.from_env({"HONE_HOME": home}, Path.cwd())
        with ray_session():
            done = pipeline.train(load_job(folder / "job.yaml"), settings, Progress(sys.stderr), datetime.now(UTC))
        (phase,) = (phase for phase in read_phases(Store(home), done.run) if phase.stage == "search")
        assert phase.took_s is not None
        return phase.took_s


def recipe(folder: Path, trials: int) -> float:
    """Run the usual recipe, and return its seconds."""
    from ray import tune
    from ray.tune.search.basic_variant import BasicVariantGenerator

    from cluster.session import environment, ray_session

    with ray_session(), environment({"RAY_AIR_NEW_OUTPUT": "0"}), tempfile.TemporaryDirectory() as storage:
        began = time.monotonic()
        tune.Tuner(
            tune.with_resources(tune.with_parameters(nested, folder=str(folder), storage=storage), {"memory": 1.0}),
            param_space={"rate": tune.loguniform(*RATES), "batch": tune.choice(list(BATCHES))},
            tune_config=tune.TuneConfig(
                num_samples=trials,
                max_concurrent_trials=os.cpu_count(),
                search_alg=BasicVariantGenerator(random_state=0),
            ),
            run_config=tune.RunConfig(name="recipe", storage_path=storage, verbose=0),
        ).fit()
        return time.monotonic() - began


def nested(config: dict[str, Any], folder: str, storage: str) -> None:
    """One trial: a TorchTrainer of one worker."""
    import uuid

    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    TorchTrainer(
        hugging_face,
        train_loop_config=config | {"folder": folder},
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(name=uuid.uuid4().hex, storage_path=storage, callbacks=[TuneReportCallback()]),
    ).fit()


def hugging_face(config: dict[str, Any]) -> None:
    """The worker: Hugging Face's Trainer on the same rows, evaluated every epoch."""
    import random

    import ray.train
    import transformers
    from datasets import Dataset
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    transformers.utils.logging.set_verbosity_error()
    folder = Path(config["folder"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "base")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "base")
    rows = [encoded(tokenizer, json.loads(line)) for line in (folder / "rows.jsonl").read_text().splitlines()]
    random.Random(0).shuffle(rows)
    cut = len(rows) // 10

    class Report(transformers.TrainerCallback):
        def on_evaluate(self, *_: Any, metrics: dict[str, float], **__: Any) -> None:
            ray.train.report({"loss": metrics["eval_loss"]})

    with tempfile.TemporaryDirectory() as out:
        arguments = TrainingArguments(
            output_dir=out, per_device_train_batch_size=config["batch"], num_train_epochs=EPOCHS,
            learning_rate=config["rate"], lr_scheduler_type="cosine", warmup_steps=0.05, optim="adamw_torch_fused",
            eval_strategy="epoch", save_strategy="epoch", save_total_limit=1, load_best_model_at_end=True,
            train_sampling_strategy="group_by_length", use_cpu=True, report_to=[], disable_tqdm=True,
            logging_strategy="no",
        )  # fmt: skip
        Trainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list(rows[cut:]),
            eval_dataset=Dataset.from_list(rows[:cut]),
            data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED),
            callbacks=[Report()],
        ).train()


def encoded(tokenizer: Any, row: dict[str, str]) -> dict[str, list[int]]:
    """Return a row's tokens, the prompt without loss."""
    turns = [{"role": "user", "content": row["prompt"]}]
    prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    answer = tokenizer(row["completion"] + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
    whole = (ids + answer)[:MAX_LENGTH]
    return {"input_ids": whole, "labels": ([IGNORED] * len(ids) + answer)[:MAX_LENGTH]}


def compare(folder: Path, asked: argparse.Namespace) -> None:
    found: dict[str, list[float]] = {contestant: [] for contestant in CONTESTANTS}
    for _ in range(asked.repeats):
        for contestant in CONTESTANTS:
            command = [sys.executable, __file__, "--contestant", contestant, "--folder", str(folder)]
            done = subprocess.run(
                [*command, "--trials", str(asked.trials)], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise SystemExit(f"{contestant} failed:\n{done.stderr[-3000:]}")
            seconds = json.loads(done.stdout.splitlines()[-1])["seconds"]
            found[contestant].append(3600 * asked.trials / seconds)
            print(f"{contestant}: {asked.trials} trials in {seconds:.1f} s", file=sys.stderr, flush=True)
    command = f"benchmarks/sweep_throughput.py --trials {asked.trials} --repeats {asked.repeats}"
    print(heading("Sweep throughput", command, ("torch", "transformers", "ray", "optuna", "deepspeed")))
    print(f"{ROWS:,} rows, {EPOCHS} epochs, 1.1 million parameters, full tuning, {asked.trials} trials, none pruned.\n")
    print("| contestant | trials an hour: median (least to most) | ours over it: median (least to most) |")
    print("|---|---:|---:|")
    for contestant, rates in found.items():
        ratios = [mine / rate for mine, rate in zip(found["ours"], rates, strict=True)]
        print(f"| {contestant} | {spread(rates)} | {spread(ratios)} |")


if __name__ == "__main__":
    main()
