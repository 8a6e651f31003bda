"""Over which range do the demo's scores lie? Runs `hone demo` with several seeds and prints a table.

    python benchmarks/demo_seeds.py [--method full|lora] [--seeds 5]

The base is made once and cached under HONE_HOME; the seed decides the order of the examples and new weights. The gate
is set from the table's last line: the mean less three standard deviations.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean, stdev

from heading import heading

HONE = Path(sys.executable).parent / "hone"
METRICS = ("accuracy", "macro_f1")


def run(method: str, seed: int) -> dict[str, float]:
    began = time.monotonic()
    done = subprocess.run(
        [HONE, "demo", "--method", method, "--set", f"train.seed={seed}", "--json"], stdout=subprocess.PIPE, text=True
    )
    result = json.loads(done.stdout.splitlines()[-1])
    scores = {name: result["metrics"]["test"][name] for name in METRICS}
    rate = result["throughput"]["examples_per_s"]
    return scores | {"exit code": done.returncode, "examples/s": rate, "seconds": time.monotonic() - began}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--method", choices=("full", "lora"), default="full")
    parser.add_argument("--seeds", type=int, default=5)
    asked = parser.parse_args()
    command = f"benchmarks/demo_seeds.py --method {asked.method} --seeds {asked.seeds}"
    print(heading("The demo over seeds", command, ("torch", "transformers", "deepspeed", "ray", "peft")))
    rows = [run(asked.method, seed) for seed in range(asked.seeds)]
    print("| seed | " + " | ".join(rows[0]) + " |")
    print("|---|" + "---:|" * len(rows[0]))
    for seed, row in enumerate(rows):
        print(f"| {seed} | " + " | ".join(f"{value:.3f}" for value in row.values()) + " |")
    for name in METRICS:
        values = [row[name] for row in rows]
        low = mean(values) - 3 * stdev(values)
        print(f"\n{name}: mean {mean(values):.3f}, sd {stdev(values):.3f}, mean − 3 sd {low:.3f}")


if __name__ == "__main__":
    main()
