"""`hone demo`: makes the data, the small base model and the job file, nothing else.

What follows is the job of any user. The base is made without the rows that the job will hold out, so the job's own
division of the rows is computed first; another division makes another base. Everything is cached under
``HONE_HOME/demo``.
"""

from __future__ import annotations

import hashlib
import json
import sysconfig
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.errors import UsageError
from cluster.jobfile import load_job
from trainers.demo_base import Pretraining, build_base, corpus
from trainers.demo_data import Source, docstring_rows, sources
from trainers.division import divide
from trainers.duplicates import NearTexts, row_hashes
from trainers.minhash import near_duplicate_pairs
from trainers.prepared import TRAIN
from trainers.quiet import quiet_libraries
from trainers.sources import read_rows

if TYPE_CHECKING:
    from cluster.progress import Progress
    from cluster.session import Settings
    from cluster.spec import DataSpec

BASE_FORM = 1
"""Raised whenever the same corpus would make another base."""

JOB = """\
# Made by `hone demo`: which package of the standard library does a docstring's first sentence document?
name: docstring-router
base: {base}
data: docstrings.jsonl
train:
{train}
cluster: {{workers: 2}}
evaluate: {{max_new_tokens: 8, batch_size: 64}}
gate: {gate}
sweep:
  trials: 4
  finalists: 1
  workers: 1
  proxy: 0.5
  space:
{space}
"""
"""Trials of one worker, two side by side, do more on two processors than two workers on one trial."""
SPACES = {
    "full": (
        "    train.learning_rate: loguniform(5.0e-4, 1.0e-2)\n    train.batch_size: choice(16, 32, 64)\n"
        "    train.dropout: uniform(0.0, 0.3)"
    ),
    "lora": (
        "    train.learning_rate: loguniform(1.0e-3, 3.0e-3)\n    train.batch_size: choice(16, 32)\n"
        "    train.lora.dropout: uniform(0.0, 0.1)"
    ),
}
TRAIN_KEYS = {
    "full": (
        "  method: full\n  zero_stage: 2\n  epochs: 6\n  learning_rate: 2.0e-3\n  batch_size: 32\n"
        "  max_length: 128\n  eval_every: 1.0\n  best_by: accuracy"
    ),
    "lora": (
        "  method: lora\n  lora: {rank: 32, alpha: 32, dropout: 0.0}\n  zero_stage: 2\n  epochs: 8\n"
        "  learning_rate: 2.0e-3\n  batch_size: 32\n  max_length: 128\n  eval_every: 1.0\n  best_by: accuracy"
    ),
}
GATES = {"full": '["accuracy >= 0.69", "macro_f1 >= 0.64"]', "lora": '["accuracy >= 0.60", "macro_f1 >= 0.55"]'}
"""The mean less three standard deviations of five seeds on Python 3.11 (benchmarks/results/demo_seeds.md)."""
WHOLE_LIBRARY_ROWS = 3600
SMALLER_GATES = {"full": '["accuracy >= 0.60", "macro_f1 >= 0.45"]', "lora": '["accuracy >= 0.50", "macro_f1 >= 0.45"]'}
"""Where a distribution leaves parts of the standard library out (Debian: idlelib, tkinter), fewer rows teach less."""


def write_demo(settings: Settings, progress: Progress, *, method: str, overrides: Sequence[str] = ()) -> Path:
    """Make what the demo needs and return its job file. Raises UsageError for a home that is no local directory."""
    if not settings.is_local:
        raise UsageError(f"HONE_HOME is {settings.home}", "the demo needs a local directory: unset HONE_HOME")
    quiet_libraries()
    folder = Path(settings.home) / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    library = sources(Path(sysconfig.get_path("stdlib")))
    rows = docstring_rows(library)
    data = folder / "docstrings.jsonl"
    lines = [json.dumps({"text": row.text, "label": row.label}) for row in rows]
    data.write_text("\n".join(lines) + "\n", encoding="utf-8")
    progress.say(f"demo: {len(rows):,} rows from the docstrings of the standard library")
    job = folder / f"{method}.yaml"
    gate = gate_of(method, len(rows))
    _write_job(job, method, "./base", gate)
    held_out = held_out_texts(load_job(job, overrides).data)
    base = made_base(folder, library, {row.label for row in rows}, held_out, progress)
    _write_job(job, method, f"./{base.name}", gate)
    return job


def gate_of(method: str, num_rows: int) -> str:
    """Return the gate of a demo on that many docstrings."""
    return (GATES if num_rows >= WHOLE_LIBRARY_ROWS else SMALLER_GATES)[method]


def _write_job(path: Path, method: str, base: str, gate: str) -> None:
    keys = {"train": TRAIN_KEYS[method], "gate": gate, "space": SPACES[method]}
    path.write_text(JOB.format(base=base, **keys), encoding="utf-8")


def held_out_texts(data: DataSpec) -> list[str]:
    """Return the inputs that the job will validate and test with, exactly as the data stage divides them."""
    rows = list(read_rows(data.train, data))
    near = near_duplicate_pairs(NearTexts(rows), data.audit.near_similarity)
    split_of = divide(data, rows, row_hashes(rows), near, [TRAIN] * len(rows))
    held = [row.prompt[-1]["content"] for row, split in zip(rows, split_of.tolist(), strict=True) if split]
    return list(dict.fromkeys(held))


def made_base(folder: Path, library: list[Source], labels: set[str], held_out: list[str], progress: Progress) -> Path:
    """Return the base that was made without ``held_out``, made now unless it is cached."""
    recipe = Pretraining()
    shaping = json.dumps([BASE_FORM, sorted(held_out), asdict(recipe), [source.path for source in library]])
    base = folder / f"base-{hashlib.sha256(shaping.encode()).hexdigest()[:12]}"
    if (base / "config.json").is_file():
        progress.say("base: made before")
        return base
    began = time.monotonic()
    fresh = base.with_suffix(".part")
    build_base(fresh, corpus(library, labels, held_out), recipe, progress.say)
    fresh.rename(base)
    progress.say(f"base: made in {time.monotonic() - began:.0f} s")
    return base
