"""The text of a first job file, with every key that a newcomer may want within sight.

Live keys are the three required ones and the few that most jobs change; the rest stand commented out with their
defaults, so that removing ``# `` is all it takes. A test holds every line against the spec: what is shown as a default
is the default, and each commented key loads when it is uncommented. What a key means in full is on the reference page.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from cluster.blocks import NAME_PATTERN
from cluster.errors import UsageError

PLAIN = re.compile(r"[A-Za-z./~_][\w./~+=@-]*")
YAML_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n", "~", ".inf", ".nan"})

STARTER = """\
# A job for hone: one base model, your data, and what the result must reach.
#   hone check job.yaml    audits the data and plans the run; trains nothing
#   hone train job.yaml    trains, scores against the base, gates, registers
# Paths are relative to this file. Lines that begin with "# " and a key show defaults; uncomment to change them.
# Any key can be changed for one run: --set train.epochs=1. `hone schema --reference` explains every key.

name: {name}  # also the model's name in the registry: lower-case letters, digits, hyphens
base: {base}  # a directory or a hub id
data: {data}  # a file, glob, URL or hub id; JSONL, CSV or Parquet

# Instead of the one line above, data can be a block:
# data:
#   train: {data}
#   validation: validation.jsonl         # or split off from train
#   test: {{old: old.jsonl, new: new.jsonl}}  # or one file, or split off from train
#   columns: {{prompt: question, completion: answer}}  # our name: your column
#   split: {{validation: 0.1, test: 0.1, stratify: auto, seed: 0}}
#   audit: {{allow: [duplicate_near], fix: [duplicate_exact]}}  # finding codes

train:
  method: lora  # full: all weights; lora: a small adapter; qlora: an adapter over a 4-bit base (needs a GPU)
  epochs: 3.0
  batch_size: 32  # examples per optimizer step, over all workers
  # learning_rate: 2.0e-4  # this for lora and qlora, 2.0e-5 for full
  # schedule: cosine  # cosine, linear or constant
  # warmup: 0.05  # share of the steps
  # subset: 1.0  # share of the training rows, drawn by the seed
  # max_length: 1024  # tokens; when left out, no more than the base can read
  # lora: {{rank: 16, alpha: 32, dropout: 0.05, targets: all-linear, dora: false, rslora: false}}
  # dropout: 0.0  # the model's own
  # weight_decay: 0.0
  # max_grad_norm: 1.0
  # precision: auto  # auto, fp32 or bf16
  # zero_stage: auto  # DeepSpeed ZeRO 0 to 3; auto is the lowest that fits
  # offload: none  # none, optimizer or all
  # gradient_checkpointing: false  # less memory, more time
  # eval_every: 0.25  # epochs with a point, steps as a whole number
  # checkpoint: {{every: 0.25, keep: 2}}  # what a killed run goes on from; every as in eval_every
  # early_stopping: {{patience: 3}}  # evaluations without improvement; null never stops early
  # best_by: loss  # or a metric of the validation split
  # seed: 0

# cluster:
#   workers: 1  # or {{min: 1, max: 4}}
#   gpus_per_worker: auto
#   price_per_gpu_hour: null  # US dollars
#   max_hours: null
#   max_cost: null  # US dollars; needs the price

# evaluate:
#   metrics: auto  # or a list, as [accuracy, macro_f1]
#   base: true  # score the untuned base too
#   few_shot: 0  # also score the base with this many examples in its prompt
#   max_examples: null  # score at most this many held-out examples
#   max_new_tokens: 64
#   slices: []  # columns whose values are scored apart, as [region, class, length]
#   min_slice_examples: 30  # slices with fewer are undecided
#   robustness: null  # or {{kinds: [typos, case], max_examples: 100, repeats: 3}}
#   general: null  # a source of held-out general rows: what tuning costs elsewhere
#   memorisation: null  # or {{}}: are training answers recited?
#   faithfulness: null  # or {{form: slots}}: values that answers lack or add

# gate:  # what the release must reach; without rules a finished, checked run is accepted
#   - accuracy >= 0.70
#   - accuracy >= base + 0.10

# tracking: [mlflow]  # also tensorboard, wandb (live curves, in the run's directory)

# sweep:  # a search for better values
#   trials: 24
#   space:
#     train.learning_rate: loguniform(1e-5, 1e-3)
#     train.batch_size: choice(16, 32, 64)
"""


def starter_job(name: str, base: str, data: str) -> str:
    """Return the text of a commented job file that loads as it stands.

    Raises UsageError for a name that no job may have, and for an empty or unprintable base or data.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise UsageError(
            f"{name!r} cannot name a job", "Use lower-case letters, digits and hyphens, at most 63, as my-model."
        )
    for key, value in (("base", base), ("data", data)):
        if not value or not value.isprintable():
            raise UsageError(f"{value!r} cannot be {key}", "Name a directory, a file, a URL or a hub id.")
    return STARTER.format(name=_scalar(name), base=_scalar(base), data=_scalar(data))


def write_new(file: Path, text: str) -> None:
    """Write the text to a file that is not there yet. Raises UsageError where it is, or cannot be written."""
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError as error:
        raise UsageError(f"{file} exists already", "name another file, or remove it") from error
    except OSError as error:
        raise UsageError(
            f"{file} cannot be written: {error.strerror}", "name a file in a directory that is there and yours"
        ) from error


def _scalar(value: str) -> str:
    """Return text as a YAML scalar, quoted where it could be read as anything else."""
    plain = PLAIN.fullmatch(value) and value.lower() not in YAML_WORDS
    return value if plain else json.dumps(value, ensure_ascii=False)
