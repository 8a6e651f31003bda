"""What does Ray cost a training, and how well do two workers scale? Prints markdown tables.

    HONE_REALDATA=… python benchmarks/ray_overhead.py [--repeats 3] [--steps 40]

The real E2E rows, 6 layers × 256 with GPT-2's vocabulary (random weights), full tuning. The same job is trained by
`hone train` and by the same loop under plain python (`python -m trainers.standalone`), and by `hone train` with one
worker and with two workers of one thread each, at ZeRO stages 0 and 2; the repeats are interleaved. A step's time is
from the end of the step before to its own end, so it includes whatever goes on between steps; the first steps are left
out. Tokenisation is done once before. Of each repeat the ratio of median step times counts; the interval is the 95 %
bootstrap interval of the mean over repeats.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
from heading import heading, mean_with_interval
from train_throughput import REALDATA, small_model

BATCH, ROWS = 16, 4000
WARM_UP = 5
OVERHEAD_BAR, SCALING_BAR = 1.02, 0.85
JOB = """name: overhead
base: {base}
data: {{train: {data}, columns: {{prompt: mr, completion: ref}}, split: {{validation: 0.0, test: 0.0}},
       audit: {{allow: ["*"]}}}}
train: {{method: full, epochs: {epochs}, learning_rate: 1.0e-3, batch_size: {batch}, max_length: 256,
        early_stopping: null, checkpoint: null}}
evaluate: {{base: false}}
"""


def write_job(folder: Path, steps: int) -> Path:
    small_model(folder / "base")
    lines = (REALDATA / "e2e" / "trainset.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "rows.csv").write_text("".join(lines[: ROWS + 1]), encoding="utf-8")
    job = folder / "job.yaml"
    epochs = steps * BATCH / ROWS
    job.write_text(JOB.format(base=folder / "base", data=folder / "rows.csv", epochs=epochs, batch=BATCH))
    return job


def step_seconds(history: Path) -> float:
    """Return the median time of a step."""
    points = [json.loads(line) for line in history.read_text().splitlines()]
    times = [point["time_s"] for point in points if "loss" in point]
    return median(np.diff(times[WARM_UP:]).tolist())


def run(command: list[str], home: Path) -> None:
    environment = os.environ | {"HONE_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")


def under_ray(job: Path, home: Path, *settings: str) -> float:
    before = set((home / "runs").glob("*"))
    run(["cluster.cli", "train", str(job), *(part for setting in settings for part in ("--set", setting))], home)
    (fresh,) = set((home / "runs").glob("*")) - before
    return step_seconds(fresh / "train" / "history.jsonl")


def under_python(job: Path, home: Path, *settings: str) -> float:
    with tempfile.TemporaryDirectory() as out:
        options = [part for setting in settings for part in ("--set", setting)]
        run(["trainers.standalone", str(job), "--out", out, *options], home)
        return step_seconds(Path(out) / "history.jsonl")


def row(name: str, first: list[float], second: list[float], ratios: list[float]) -> str:
    times = [f"{1000 * median(one):.0f} ({1000 * min(one):.0f} to {1000 * max(one):.0f})" for one in (first, second)]
    return f"| {name} | {' | '.join(times)} | {mean_with_interval(ratios, 3)} |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    asked = parser.parse_args()
    plain: list[float] = []
    ray: list[float] = []
    one: dict[int, list[float]] = {0: [], 2: []}
    two: dict[int, list[float]] = {0: [], 2: []}
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        job, home = write_job(folder, asked.steps), folder / "home"
        run(["cluster.cli", "check", str(job)], home)  # prepares the data
        for _ in range(asked.repeats):
            plain.append(under_python(job, home))
            ray.append(under_ray(job, home))
            for stage in one:
                chosen = (f"train.zero_stage={stage}", "cluster.cpus_per_worker=1")
                one[stage].append(under_ray(job, home, *chosen))
                two[stage].append(under_ray(job, home, *chosen, "cluster.workers=2"))
    command = f"benchmarks/ray_overhead.py --repeats {asked.repeats} --steps {asked.steps}"
    print(heading("Ray's cost, and two workers", command, ("torch", "ray", "deepspeed")))
    print(f"E2E, global batch {BATCH}, 6 layers × 256 with GPT-2's vocabulary, full tuning, fp32.\n")
    print("| all cores, ZeRO-0 | plain python, ms a step | `hone train`, ms a step | `hone train` over plain python |")
    print("|---|---:|---:|---:|")
    print(row("one worker", plain, ray, [b / a for a, b in zip(plain, ray, strict=True)]))
    print(f"\nAsked: the interval's upper bound at most {OVERHEAD_BAR}.\n")
    print(
        "| one thread a worker | one worker, ms a step | two workers, ms a step | rate of two over twice that of one |"
    )
    print("|---|---:|---:|---:|")
    for stage in one:
        gains = [a / b / 2 for a, b in zip(one[stage], two[stage], strict=True)]
        print(row(f"ZeRO-{stage}", one[stage], two[stage], gains))
    print(f"\nAsked: the interval's lower bound at least {SCALING_BAR}.")


if __name__ == "__main__":
    main()
