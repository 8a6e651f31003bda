"""How good is what a sweep finds, for what it costs? Replays searches over a recorded grid; prints a markdown table.

    python benchmarks/sweep_quality.py [--seeds 200]
    HONE_REALDATA=… python benchmarks/sweep_quality.py --record FOLDER    # trains the grid, or goes on with it there

The grid: the real 260K model on E2E rows with LoRA, 6 learning rates × 3 batch sizes × 2 dropouts × 2 ranks = 72 whole
trainings by `hone sweep` (search: grid, prune: none), every curve kept in results/e2e_grid.jsonl with the commit. The
job's own values are the product's defaults, and the product's prior is told the base's family and width, as in a sweep.
A contestant's regret is the final loss of the point that it believes in after a budget, less the grid's lowest one.
Budgets are shares of the whole grid's compute; two trials train at once.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import optuna
from heading import heading
from numpy.typing import NDArray
from sweep_replay import Chance, Oracle, Ours, PlainOptuna, Search, our_judge, regrets, shipped_asha

from tuning.judge import REDUCTION, grace_frac

GRID = Path(__file__).parent / "results" / "e2e_grid.jsonl"
BUDGETS = (0.05, 0.10, 0.125, 0.15, 0.25)
CLAIMED = (0.10, 0.125, 0.15)
ROWS = 960
SPACE = {
    "train.learning_rate": [2e-4, 5e-4, 1.25e-3, 3e-3, 8e-3, 2e-2],
    "train.batch_size": [8, 16, 32],
    "train.lora.dropout": [0.05, 0.2],
    "train.lora.rank": [4, 16],
}


def record(folder: Path) -> None:
    """Train the whole grid in a folder, or go on with it there, and write its curves down."""
    folder.mkdir(parents=True, exist_ok=True)
    home = folder / "home"
    job = write_job(folder)
    begun = sorted((home / "runs").glob("*"))
    command = ["resume", begun[0].name] if begun else ["sweep", str(folder / "job.yaml")]
    environment = os.environ | {"HONE_HOME": str(home)}
    subprocess.run([sys.executable, "-m", "cluster.cli", *command], env=environment, check=True)
    (run,) = (home / "runs").iterdir()
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    head = {"job": job | {"base": "stories260K"}, "commit": commit}
    lines = [head, *(trial_row(path.parent) for path in sorted(run.glob("trials/*/trial.json")))]
    GRID.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def write_job(folder: Path) -> dict[str, Any]:
    """Write the grid's rows and its job file, and return the job."""
    real = Path(os.environ["HONE_REALDATA"])
    with (real / "e2e" / "trainset.csv").open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    with (folder / "rows.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([head, *random.Random(0).sample(rows, ROWS)])
    job = {
        "name": "e2e-grid",
        "base": str(real / "stories260K"),
        "data": {"train": "rows.csv", "columns": {"prompt": "mr", "completion": "ref"}}
        | {"split": {"validation": 0.2, "test": 0.0}, "audit": {"allow": ["*"]}},
        "train": {"epochs": 2, "eval_every": 0.25, "max_length": 256, "early_stopping": None},
        "evaluate": {"base": False},
        "sweep": {"space": SPACE, "search": "grid", "prune": "none", "trials": 10_000, "finalists": 1},
    }
    (folder / "job.yaml").write_text(json.dumps(job))
    return job


def trial_row(directory: Path) -> dict[str, Any]:
    """Return a trial's values, its lowest loss so far by progress, and its seconds."""
    trial = json.loads((directory / "trial.json").read_text())
    assert trial["state"] == "complete", trial
    points = [json.loads(line) for line in (directory / "history.jsonl").read_text().splitlines()]
    scored = [(point["step"], point["validation_loss"]) for point in points if "validation_loss" in point]
    lowest = np.minimum.accumulate([loss for _, loss in scored]).tolist()
    progress = [round(1000 * step / trial["steps"]) for step, _ in scored]
    return {"values": trial["values"], "curve": list(zip(progress, lowest, strict=True)), "seconds": trial["seconds"]}


def contestants(oracle: Oracle) -> dict[str, Callable[[int], Search]]:
    """Return how each contestant begins with a seed."""
    job = oracle.job
    assert job.sweep is not None, "a grid's job has a sweep block"
    sweep = job.sweep.model_copy(update={"search": "tpe", "prune": "asha"})
    judge = our_judge(grace_frac(sweep, job.train), REDUCTION)
    return {
        "hone": lambda seed: Ours(job, seed, judge=judge),
        "Optuna as shipped": lambda seed: PlainOptuna(job, seed),
        "random search": lambda seed: Chance(oracle, seed),
        "ASHA as shipped": lambda seed: Chance(oracle, seed, shipped_asha()),
    }


def interval(ours: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of how much higher the other's median is, seeds drawn in pairs."""
    drawn = np.random.default_rng(0).integers(0, len(ours), (4000, len(ours)))
    low, high = np.percentile(np.median(other[drawn], axis=1) - np.median(ours[drawn], axis=1), [2.5, 97.5])
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--record", type=Path, metavar="FOLDER")
    asked = parser.parse_args()
    if asked.record:
        record(asked.record)
        return
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    oracle = Oracle.read(GRID)
    budgets = [share * len(oracle.curves) for share in BUDGETS]
    found: dict[str, NDArray[np.float64]] = {}
    for name, begin in contestants(oracle).items():
        np.random.seed(0)  # Ray's successive halving draws its bracket from here
        found[name] = np.array([regrets(oracle, begin(seed), budgets) for seed in range(asked.seeds)])
    print(heading("What a sweep finds", f"benchmarks/sweep_quality.py --seeds {asked.seeds}", ("ray", "optuna")))
    finals = sorted(curve[-1][1] for curve in oracle.curves.values())
    print(f"{len(finals)} points; final losses {finals[0]:.4f} to {finals[-1]:.4f}, median {median(finals):.4f}.\n")
    print("Regret: median over seeds (quartiles), by the share of the grid's compute that was used.\n")
    print("| contestant | " + " | ".join(f"{share:.1%}" for share in BUDGETS) + " |")
    print("|---|" + "---:|" * len(BUDGETS))
    for name, regret in found.items():
        cells = (f"{b:.4f} ({a:.4f} to {c:.4f})" for a, b, c in np.percentile(regret, [25, 50, 75], axis=0).T)
        print(f"| {name} | {' | '.join(cells)} |")
    print("\n| other's median regret less hone's, 95 % interval (seeds lower, equal, higher) |", end=" ")
    print(" | ".join(f"{share:.1%}" for share in CLAIMED) + " |\n|---|" + "---:|" * len(CLAIMED))
    for name, regret in list(found.items())[1:]:
        print(f"| {name} | {' | '.join(compared(found['hone'], regret, BUDGETS.index(s)) for s in CLAIMED)} |")


def compared(ours: NDArray[np.float64], other: NDArray[np.float64], place: int) -> str:
    """Return the interval at one budget, and for how many seeds ours was lower, equal and higher."""
    a, b = ours[:, place], other[:, place]
    low, high = interval(a, b)
    return f"{low:+.4f} to {high:+.4f} ({int((a < b).sum())}, {int((a == b).sum())}, {int((a > b).sum())})"


if __name__ == "__main__":
    main()
