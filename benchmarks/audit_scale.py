"""How long does `hone check` take on many rows, and how much memory? Prints a markdown table.

    python benchmarks/audit_scale.py [--rows 100000 1000000]

Rows are made of real sentences, the docstrings of the standard library: a question of two to four sentences and an
answer of one to three, drawn at random, with two in a hundred copied whole and two in a hundred copied but for a word.
The check runs as its user runs it, in a process of its own with nothing cached; memory is the largest resident size
of it and its children together, looked at ten times a second (mapped files count).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
from heading import heading

from trainers.demo_base import Piece, Pretraining, build_base, corpus
from trainers.demo_data import docstring_rows, sources

HONE = Path(sys.executable).parent / "hone"
JOB = "name: scale\nbase: {base}\ndata: {data}\ntrain: {{max_length: 256}}\n"
COPIED_FRAC = 0.02
SAMPLE_EVERY_S = 0.1


def rows(sentences: Sequence[str], count: int, seed: int = 0) -> Iterator[dict[str, str]]:
    """Yield rows of prompt and completion."""
    rng = random.Random(seed)
    last: list[dict[str, str]] = []
    for _ in range(count):
        kind = rng.random()
        if last and kind < COPIED_FRAC:
            row = dict(rng.choice(last))
        elif last and kind < 2 * COPIED_FRAC:
            row = dict(rng.choice(last))
            row["completion"] = " ".join([*row["completion"].split()[:-1], f"w{rng.randrange(10**6)}"])
        else:
            row = {
                "prompt": f"[{rng.randrange(10**9)}] " + " ".join(rng.choices(sentences, k=rng.randint(2, 4))),
                "completion": " ".join(rng.choices(sentences, k=rng.randint(1, 3))),
            }
            last = [*last[-999:], row]
        yield row


def checked(folder: Path, base: Path, sentences: Sequence[str], count: int) -> dict[str, float]:
    """Run `hone check` on ``count`` fresh rows and return what it took."""
    data, job = folder / f"{count}.jsonl", folder / f"{count}.yaml"
    with data.open("w") as file:
        for row in rows(sentences, count):
            file.write(json.dumps(row) + "\n")
    job.write_text(JOB.format(base=base, data=data.name))
    began = time.monotonic()
    process = subprocess.Popen(
        [HONE, "check", job, "--json"], stdout=subprocess.PIPE, env=os.environ | {"HONE_HOME": str(folder / "home")}
    )
    peak_bytes = 0
    while process.poll() is None:
        peak_bytes = max(peak_bytes, _tree_bytes(process.pid))
        time.sleep(SAMPLE_EVERY_S)
    seconds = time.monotonic() - began
    assert process.stdout is not None
    report = json.loads(process.stdout.read().splitlines()[-1])
    found = {finding["code"]: finding["count"] for finding in report["findings"]}
    return {
        "rows": count,
        "file MB": data.stat().st_size / 1e6,
        "tokens": sum(split["tokens"] for split in report["splits"].values()),
        "seconds": seconds,
        "peak GB": peak_bytes / 1e9,
        "duplicate_exact": found.get("duplicate_exact", 0),
        "duplicate_near": found.get("duplicate_near", 0),
    }


def _tree_bytes(pid: int) -> int:
    total = 0
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                total += one.memory_info().rss
    return total


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    asked = parser.parse_args()
    command = f"benchmarks/audit_scale.py --rows {' '.join(map(str, asked.rows))}"
    print(heading("Audit at scale", command, ("numpy", "transformers", "pyarrow")))
    library = sources(Path(sysconfig.get_path("stdlib")))
    pieces: list[Piece] = corpus(library, {row.label for row in docstring_rows(library)}, [])
    sentences = sorted({" ".join(piece.text.split()) for piece in pieces if 20 < len(piece.text) < 200})
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        build_base(folder / "base", pieces[:5000], Pretraining(steps=1, hidden=32, layers=1), lambda _: None)
        taken = [checked(folder, folder / "base", sentences, count) for count in asked.rows]
    print("| " + " | ".join(taken[0]) + " |\n|" + "---:|" * len(taken[0]))
    for row in taken:
        cells = (f"{value:,.1f}" if isinstance(value, float) else f"{value:,}" for value in row.values())
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
