"""One contestant of train_throughput.py in a process of its own: the same work by our loop, TRL or transformers.

Each trains the same model on the same token ids and masks with the same AdamW, learning rate, global batch and number
of steps, in fp32 on the same threads; the order of the examples is each tool's own. Prints one JSON object: examples a
second after the warm-up steps, and the loss on the same held-out rows after the last step.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from chosen_plan import chosen_plan

from cluster.capacity import Capacity, NodeCapacity
from cluster.spec import TrainSpec
from trainers.likelihood import negative_log_likelihoods
from trainers.model import TargetLoss, causal_lm
from trainers.packed_attention import use_packed
from trainers.ranks import world
from trainers.tokens import TokenSet
from trainers.worker import LoopInputs, Worker

WARM_UP = 5
LEARNING_RATE = 1e-3
LORA = {"rank": 16, "alpha": 32, "dropout": 0.0}
IGNORED = -100


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("contestant", choices=("ours", "trl", "hf"))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--method", choices=("lora", "full"), required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model, times = {"ours": ours, "trl": trl, "hf": hugging_face}[asked.contestant](asked)
    seconds = times[-1] - times[WARM_UP]
    print(
        json.dumps(
            {
                "examples_per_s": asked.batch * (len(times) - 1 - WARM_UP) / seconds,
                "held_out_loss": held_out_loss(model, asked.folder),
            }
        )
    )


def ours(asked: argparse.Namespace) -> tuple[Any, list[float]]:
    """Take the steps as `hone train` does, on one rank without Ray."""
    data = TokenSet.load(asked.folder / "train.arrow")
    train: dict[str, Any] = {"method": asked.method, "learning_rate": LEARNING_RATE, "schedule": "constant"}
    train |= {"warmup": 0.0, "batch_size": asked.batch, "epochs": asked.steps * asked.batch / len(data)}
    if asked.method == "lora":
        train["lora"] = LORA
    spec, base = TrainSpec.model_validate(train), str(asked.folder)
    machine = NodeCapacity("plenty of memory", cpus=asked.threads, gpus=0, memory_bytes=2**40)
    plan = chosen_plan(base, spec, data, Capacity((machine,)))
    with world() as ranks, tempfile.TemporaryDirectory() as directory:
        worker = Worker(LoopInputs(base, spec, plan, data, None, Path(directory)), ranks)
        began = time.perf_counter()
        times = [began, *(time.perf_counter() for _ in worker.steps())]
        use_packed(causal_lm(worker.module.model), packed=False)
        return worker.module.model, times


def rows_of(folder: Path, *, masked: bool) -> Any:
    """Return the training rows as a data set: labels with ignored prompts, or a completion mask."""
    from datasets import Dataset

    data = TokenSet.load(folder / "train.arrow")
    rows: list[dict[str, list[int]]] = []
    for index in range(len(data)):
        ids, target = data.example(index)
        labels = [int(i) if t else IGNORED for i, t in zip(ids, target, strict=True)]
        rows.append(
            {"input_ids": ids.tolist(), "completion_mask": target.astype(int).tolist()}
            if masked
            else {"input_ids": ids.tolist(), "labels": labels}
        )
    return Dataset.from_list(rows)


def shared_arguments(asked: argparse.Namespace, folder: str) -> dict[str, Any]:
    """What both trainers are told: the same work, their best settings for it on a CPU."""
    return {
        "output_dir": folder,
        "per_device_train_batch_size": asked.batch,
        "gradient_accumulation_steps": 1,
        "max_steps": asked.steps,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "optim": "adamw_torch_fused",
        "train_sampling_strategy": "group_by_length",
        "gradient_checkpointing": False,
        "bf16": False,
        "fp16": False,
        "use_cpu": True,
        "dataloader_num_workers": 0,
        "report_to": [],
        "logging_strategy": "no",
        "save_strategy": "no",
        "disable_tqdm": True,
        "seed": 0,
    }


def clock() -> Any:
    """Return a callback that notes when training begins and when every step ends."""

    class Clock(transformers.TrainerCallback):
        def __init__(self) -> None:
            self.times: list[float] = []

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.times.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.times.append(time.perf_counter())

    return Clock()


def lora_config() -> Any:
    """The adapter that ours trains."""
    from peft import LoraConfig

    return LoraConfig(
        r=LORA["rank"],
        lora_alpha=LORA["alpha"],
        lora_dropout=LORA["dropout"],
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def trl(asked: argparse.Namespace) -> tuple[Any, list[float]]:
    """TRL's SFTTrainer: length grouping and its chunked loss (the default `nll` of 1.16)."""
    from trl import SFTConfig, SFTTrainer

    model = transformers.AutoModelForCausalLM.from_pretrained(asked.folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(asked.folder)
    ticks = clock()
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            **shared_arguments(asked, folder), completion_only_loss=True, max_length=None, loss_type="nll"
        )
        trainer = SFTTrainer(
            model=model,
            args=config,
            train_dataset=rows_of(asked.folder, masked=True),
            processing_class=tokenizer,
            peft_config=lora_config() if asked.method == "lora" else None,
            callbacks=[ticks],
        )
        trainer.train()
    return trainer.model, ticks.times


def hugging_face(asked: argparse.Namespace) -> tuple[Any, list[float]]:
    """The Trainer of transformers with a padding collator."""
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    model: Any = transformers.AutoModelForCausalLM.from_pretrained(asked.folder, dtype=torch.float32)
    if asked.method == "lora":
        from peft import get_peft_model

        model = get_peft_model(model, lora_config())
    tokenizer = transformers.AutoTokenizer.from_pretrained(asked.folder)
    ticks = clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(**shared_arguments(asked, folder)),
            train_dataset=rows_of(asked.folder, masked=False),
            data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED),
            callbacks=[ticks],
        )
        trainer.train()
    return trainer.model, ticks.times


def held_out_loss(model: Any, folder: Path) -> float:
    """Return the loss a target token on the held-out rows."""
    data = TokenSet.load(folder / "held_out.arrow")
    nll = negative_log_likelihoods(TargetLoss(model.eval()), [data.example(i) for i in range(len(data))])
    return float(nll.sum() / data.target_counts.sum())


if __name__ == "__main__":
    main()
