"""The loop without Ray: plain python on one rank and torchrun on two give the same weights as each other.

Tolerance 1e-5: fp32 sums in another order (test_parity.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainers.checkpoint import best_directory, read_weights

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "trainers.standalone"]
WITHOUT_RAY = """
import sys
from trainers.standalone import main
code = main(sys.argv[1:])
assert "ray" not in sys.modules, "Ray was imported"
assert "mlflow" not in sys.modules, "DeepSpeed imported MLflow, which costs every worker seconds"
raise SystemExit(code)
"""


def run(command: list[str], home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        env=os.environ | {"HONE_HOME": str(home), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tickets: Path) -> Path:
    path = tmp_path_factory.mktemp("standalone") / "job.yaml"
    path.write_text(
        f"name: tickets\nbase: {tiny_base}\ndata: {tickets}\n"
        "train: {method: full, epochs: 0.5, learning_rate: 1.0e-3, max_length: 64, zero_stage: 2}\n"
    )
    return path


def test_plain_python_and_torchrun_train_the_same_weights_without_ray(job: Path) -> None:
    home = job.parent / "home"
    outs = [job.parent / name for name in ("alone", "two")]
    for command, out in zip((["-c", WITHOUT_RAY], TORCHRUN), outs, strict=True):
        done = run([*command, str(job), "--out", str(out)], home)
        assert done.returncode == 0, done.stderr
        assert done.stdout == ""
    alone, two = (json.loads((out / "trained.json").read_text()) for out in outs)
    assert (alone["world_size"], two["world_size"]) == (1, 2)
    assert two["validation"]["loss"] == pytest.approx(alone["validation"]["loss"], abs=1e-5)
    weights = [read_weights(best_directory(out, alone["best_step"])) for out in outs]
    for name, value in weights[0].items():
        assert (value - weights[1][name]).abs().max() <= 1e-5, name


def test_a_wrong_job_is_one_error_and_exit_code_2(job: Path) -> None:
    done = run(["-m", "trainers.standalone", str(job), "--out", str(job.parent / "x"), "--set", "train.epoch=1"], job)
    assert done.returncode == 2
    assert "train.epoch" in done.stderr
    assert "Traceback" not in done.stderr


def test_curves_go_where_the_job_asks(job: Path) -> None:
    out = job.parent / "tracked"
    asked = ["--set", "train.epochs=0.1", "--set", "tracking=[tensorboard]"]
    done = run(["-m", "trainers.standalone", str(job), "--out", str(out), *asked], job.parent / "home")
    assert done.returncode == 0, done.stderr
    assert list((out / "tensorboard").glob("events.out.tfevents.*"))
