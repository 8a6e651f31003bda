"""Is what a sweep finds better than the job's own values? Prints markdown tables.

    python benchmarks/sweep_gain.py [--trials 12] [--seeds 3] [--untuned]

The demo's task: `hone sweep` of full tuning over learning rate, batch size and dropout, every trial at the full budget
(proxy 1.0), no finalists. Then both settings, the job's own and the winner's, are trained with other seeds by
`hone train`, interleaved; the best validation accuracy of each pair is compared, and the interval is Student's of the
mean difference. Asked: the interval lies above zero, at least a third of the trials are pruned, and the sweep takes
less than 12 minutes on 2 processors. With ``--untuned`` the job names no learning rate and no batch size, as that of
someone who begins; its own values are then the job file's defaults.
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
from statistics import mean, stdev
from typing import Any

from heading import heading
from scipy.stats import t as student

from cluster.progress import Progress
from cluster.session import Settings
from trainers.demo import write_demo
from trainers.quiet import quiet_libraries

HONE = Path(sys.executable).parent / "hone"
MINUTES_BAR, PRUNED_BAR = 12.0, 1 / 3


def hone(home: str, *arguments: str) -> tuple[dict[str, Any], float]:
    """Run a command; return its result and its seconds. The gate may say no."""
    began = time.monotonic()
    environment = os.environ | {"HONE_HOME": home}
    command = [HONE, *arguments, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment)
    if done.returncode not in (0, 3):
        raise SystemExit(f"hone {' '.join(arguments)} ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1]), time.monotonic() - began


def main() -> None:
    quiet_libraries()
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--untuned", action="store_true")
    asked = parser.parse_args()
    command = f"benchmarks/sweep_gain.py --trials {asked.trials} --seeds {asked.seeds}{' --untuned' * asked.untuned}"
    with tempfile.TemporaryDirectory() as home:
        settings = Settings.from_env({"HONE_HOME": home}, Path.cwd())
        job = str(write_demo(settings, Progress(sys.stderr), method="full"))
        if asked.untuned:
            leave_out(Path(job), ("learning_rate", "batch_size"))
        search = [f"sweep.trials={asked.trials}", "sweep.proxy=1.0"]
        found, took_s = hone(home, "sweep", job, *(part for one in search for part in ("--set", one)))
        print(heading("What a sweep gains", command, ("torch", "ray", "optuna", "deepspeed")))
        pruned = f"{found['pruned']} of {found['trials']} trials pruned (asked: at least {PRUNED_BAR:.0%})"
        minutes = f"{took_s / 60:.1f} minutes (asked: at most {MINUTES_BAR:g})"
        print(f"`hone sweep`: {minutes}, {pruned}, {found['failed']} failed.")
        best = ", ".join(f"{key} {value:.4g}" for key, value in found["best"]["params"].items())
        print(f"Winner: {best}; validation accuracy {found['best']['value']:.4f}.\n", flush=True)
        compare(home, job, found["best"]["params"], asked.seeds)


def leave_out(job: Path, keys: tuple[str, ...]) -> None:
    """Take keys out of the job's train block."""
    before, found, after = job.read_text(encoding="utf-8").partition("train:\n")
    block, cluster, rest = after.partition("cluster:")
    kept = [line for line in block.splitlines(keepends=True) if line.strip().partition(":")[0] not in keys]
    job.write_text(before + found + "".join(kept) + cluster + rest, encoding="utf-8")


def compare(home: str, job: str, winner: dict[str, Any], seeds: int) -> None:
    settings = {"own": [], "tuned": [f"{key}={value}" for key, value in winner.items()]}
    print("| seed | the job's own values | the winner's | difference |\n|---|---:|---:|---:|")
    differences: list[float] = []
    for seed in range(1, seeds + 1):
        value: dict[str, float] = {}
        for name, values in settings.items():
            chosen = (f"train.seed={seed}", "evaluate.base=false", *values)
            done, _ = hone(home, "train", job, *(part for one in chosen for part in ("--set", one)))
            value[name] = done["metrics"]["validation"]["accuracy"]
        differences.append(value["tuned"] - value["own"])
        shown = " | ".join(f"{value[name]:.4f}" for name in settings)
        print(f"| {seed} | {shown} | {differences[-1]:+.4f} |", flush=True)
    half = float(student.ppf(0.975, seeds - 1)) * stdev(differences) / seeds**0.5
    low, high = mean(differences) - half, mean(differences) + half
    print(f"\nMean difference {mean(differences):+.4f} (95 %: {low:+.4f} to {high:+.4f}). Asked: above zero.")


if __name__ == "__main__":
    main()
