"""`hone loop-demo`: makes the data, the base and the job of a world that changes, nothing else.

The embedded task again (``trainers.demo``), but the job knows 12 of the 16 packages only; the other 4 come later, as
traffic. Every row has one use, and near-duplicates share it, since the data stage's own division deals them out:

- ``job``: what the first release is trained, validated and tested on (old packages only),
- ``live``: asked by users who correct wrong answers, and so what a child is trained on,
- ``trial``: asked by users of the experiment between champion and child,
- ``score``: asked for the table and for drift, and never shown as feedback.

The base is made without any row that is held out, or of a package that comes later.
"""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.errors import UsageError
from cluster.jobfile import load_job
from cluster.spec import DataSpec, SplitSpec
from trainers.demo import held_out_texts, made_base
from trainers.demo_data import DocstringRow, docstring_rows, sources
from trainers.division import divide
from trainers.duplicates import NearTexts, row_hashes
from trainers.minhash import near_duplicate_pairs
from trainers.prepared import TRAIN
from trainers.quiet import quiet_libraries
from trainers.sources import read_rows

if TYPE_CHECKING:
    from cluster.progress import Progress
    from cluster.session import Settings

EVERY_NEW = 4
"""Of the packages in alphabetical order, the first and every fourth one after it comes later."""
JOB = """\
# Made by `hone loop-demo`: which package does a docstring's first sentence document? 12 packages, for now.
name: {name}
base: {base}
data: {{train: job.jsonl, split: {{validation: 0.1, test: 0.12}}}}
train:
  method: full
  zero_stage: 2
  epochs: 6
  learning_rate: 2.0e-3
  batch_size: 32
  max_length: 128
  eval_every: 1.0
  best_by: accuracy
cluster: {{workers: 2}}
evaluate: {{base: false, max_new_tokens: 8, batch_size: 64}}
gate: ["accuracy >= 0.5"]
"""
SHARES = (("job", 0.62), ("live", 0.12), ("trial", 0.10), ("score", 0.16))
"""Of the rows of old packages. Of new ones the job's share is asked live, but for a part that is asked for scores."""
NEW_SCORED = 0.3


def write_loop_demo(name: str, settings: Settings, progress: Progress) -> Path:
    """Make what the demo of the model ``name`` needs and return its folder.

    Raises UsageError for a home that is no local directory.
    """
    if not settings.is_local:
        raise UsageError(f"HONE_HOME is {settings.home}", "the demo needs a local directory: unset HONE_HOME")
    quiet_libraries()
    folder = Path(settings.home) / "loop-demo"
    folder.mkdir(parents=True, exist_ok=True)
    library = sources(Path(sysconfig.get_path("stdlib")))
    rows = docstring_rows(library)
    labels = sorted({row.label for row in rows})
    new = labels[::EVERY_NEW]
    pools = _dealt(rows, set(new), folder)
    for use, pool in pools.items():
        _write(folder / f"{use}.jsonl", pool, set(new))
    sizes = ", ".join(f"{len(pool):,} {use}" for use, pool in pools.items())
    progress.say(f"loop-demo: {len(rows):,} rows ({sizes}); {', '.join(new)} come later")
    job = folder / "job.yaml"
    job.write_text(JOB.format(name=name, base="./base"), encoding="utf-8")
    later = [row.text for use, pool in pools.items() for row in pool if use != "job"]
    held_out = [*held_out_texts(load_job(job).data), *dict.fromkeys(later)]
    base = made_base(folder, library, set(labels), held_out, progress)
    job.write_text(JOB.format(name=name, base=f"./{base.name}"), encoding="utf-8")
    return folder


def _dealt(rows: list[DocstringRow], new: set[str], folder: Path) -> dict[str, list[DocstringRow]]:
    """Deal every row to one use, with its near-duplicates: halves of halves, each divided as the data stage does."""
    pools: dict[str, list[DocstringRow]] = {}
    left, share_left = rows, 1.0
    for name, share in SHARES[:0:-1]:
        pools[name], left = _split_off(left, share / share_left, folder)
        share_left -= share
    pools["job"] = [row for row in left if row.label not in new]
    scored, live = _split_off([row for row in left if row.label in new], NEW_SCORED, folder)
    pools["live"] += live
    pools["score"] += scored
    return {name: pools[name] for name, _ in SHARES}


def _split_off(rows: list[DocstringRow], share: float, folder: Path) -> tuple[list[DocstringRow], list[DocstringRow]]:
    """Return a share of the rows, and the others, as the data stage would divide them into test and training."""
    file = folder / "dealing.jsonl"
    _write(file, rows, set())
    data = DataSpec(train=[str(file)], split=SplitSpec(validation=0.0, test=share))
    read = list(read_rows(data.train, data))
    near = near_duplicate_pairs(NearTexts(read), data.audit.near_similarity)
    split_of = divide(data, read, row_hashes(read), near, [TRAIN] * len(read)).tolist()
    file.unlink()
    off = [row for row, split in zip(rows, split_of, strict=True) if split]
    return off, [row for row, split in zip(rows, split_of, strict=True) if not split]


def _write(path: Path, rows: list[DocstringRow], new: set[str]) -> None:
    lines = [json.dumps({"text": row.text, "label": row.label, "is_new": row.label in new}) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
