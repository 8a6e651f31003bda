"""How long does a checkpoint hold training up? Prints a markdown table.

    HONE_REALDATA=… python benchmarks/checkpoint_stall.py [--steps 80] [--every 10]

The job of ray_overhead.py under plain python, with a checkpoint every few steps. Held up is the time that the loop
waited itself, and what the steps after it took longer than a median step while the files were hashed and
committed in the background. Its share is of a hundred median steps: a checkpoint every 100 steps.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import mean, median

import numpy as np
from heading import heading
from ray_overhead import WARM_UP, run, write_job

METHODS = ("full", "lora")


def held_up(history: Path, every: int) -> tuple[float, list[float]]:
    """Return a median step's time, and how long each checkpoint held up the steps until the next one."""
    points = [json.loads(line) for line in history.read_text().splitlines()]
    times = {point["step"]: point["time_s"] for point in points if "loss" in point}
    took = {step: times[step] - times[step - 1] for step in times if step - 1 in times and step > WARM_UP}
    plain = median(seconds for step, seconds in took.items() if step % every not in (1, 2))
    checkpoints = [step for step in times if step % every == 0 and step + 2 in took]
    return plain, [took[step + 1] + took[step + 2] - 2 * plain for step in checkpoints]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--every", type=int, default=10)
    asked = parser.parse_args()
    command = f"benchmarks/checkpoint_stall.py --steps {asked.steps} --every {asked.every}"
    print(heading("How long a checkpoint holds training up", command, ("torch", "deepspeed")))
    print("| method | size | a median step, ms | held up, ms: mean (least to most) | of 100 steps |")
    print("|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        job, home = write_job(folder, asked.steps), folder / "home"
        for method in METHODS:
            out = folder / method
            settings = [f"train.method={method}", f"train.checkpoint={{every: {asked.every}, keep: 2}}"]
            options = [part for setting in settings for part in ("--set", setting)]
            run(["trainers.standalone", str(job), "--out", str(out), *options], home)
            newest = sorted(out.glob("step-*"))[-1]
            size = sum(path.stat().st_size for path in newest.iterdir())
            plain, held = held_up(out / "history.jsonl", asked.every)
            spread = f"{1000 * mean(held):.0f} ({1000 * min(held):.0f} to {1000 * max(held):.0f})"
            share = np.mean(held) / (100 * plain)
            print(f"| {method} | {size / 1e6:.1f} MB | {1000 * plain:.0f} | {spread} | {share:.2%} |")


if __name__ == "__main__":
    main()
