"""The GPU benchmark's own code, run on a CPU with a tiny model where nothing but the engines it names is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOT_THERE = """
import sys
from importlib.machinery import PathFinder

ABSENT = {"ray", "datasets", "pyarrow", "mlflow", "evaluate", "optuna", "sklearn", "rouge_score", "sacrebleu", "trl"}


class WithoutThem(PathFinder):
    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        return None if fullname.partition(".")[0] in ABSENT else super().find_spec(fullname, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutThem
"""


def run(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "sitecustomize.py").write_text(NOT_THERE)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "benchmarks/gpu_mfu.py", *arguments]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_it_needs_torch_transformers_peft_and_deepspeed_alone(tmp_path: Path) -> None:
    done = run(tmp_path, "--tiny", "--steps", "2", "--batch", "4", "--length", "32")
    assert done.returncode == 0, done.stderr
    lines = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith(("| lora", "| full"))]
    assert [line[0].split(":")[0] for line in lines] == ["| lora-tiny", "| full-tiny"]
    for line in lines:
        assert "packed, fused" in line[2], "it is our loop at its fastest"
        assert float(line[4].split()[0].replace(",", "")) > 0


def test_without_a_gpu_it_measures_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/gpu_mfu.py"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert "no GPU" in done.stderr
    assert done.stdout == ""
