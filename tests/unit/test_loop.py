from __future__ import annotations

import subprocess
import sys


def test_the_training_loop_imports_neither_ray_nor_mlflow() -> None:
    code = "import sys, trainers.loop; print([m for m in ('ray', 'mlflow') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout.splitlines()[-1] == "[]"
