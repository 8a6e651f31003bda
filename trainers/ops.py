"""DeepSpeed's compiled CPU collective: built once at set-up, found at run time.

DeepSpeed compiles ``deepspeed_shm_comm`` when a CPU job first starts, which takes half a minute to two; ``python -m
trainers.ops`` does it during ``make setup`` instead. Even the built one is looked up through ``ninja``, which pip
puts beside the interpreter and not on everybody's PATH.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

from cluster.errors import HoneError


class ToolchainError(HoneError):
    """The machine lacks what DeepSpeed compiles with."""


def put_tools_on_path() -> None:
    """Let programs installed beside the interpreter (ninja) be found by the libraries that start them."""
    beside = str(Path(sys.executable).parent)
    if beside not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join((beside, os.environ.get("PATH", "")))


def build_cpu_collective() -> float:
    """Compile the shared-memory collective if it is not built yet; return the seconds taken.

    Raises ToolchainError where there is no C++ compiler.
    """
    put_tools_on_path()
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        raise ToolchainError("no C++ compiler was found (g++)", "install one: apt-get install g++, or set CXX")
    began = time.monotonic()
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

    ShareMemCommBuilder().load(verbose=False)
    return time.monotonic() - began


if __name__ == "__main__":
    from trainers.quiet import quiet_libraries

    print("building DeepSpeed's CPU collective (half a minute to two, once per machine) …", flush=True)
    quiet_libraries()
    print(f"built in {build_cpu_collective():.0f} s")
