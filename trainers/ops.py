"""DeepSpeed's compiled CPU collective: built once at set-up, found at run time.

DeepSpeed compiles ``deepspeed_shm_comm`` when a CPU job first starts, which takes half a minute to two; ``python -m
trainers.ops`` does it during ``make setup`` instead. Even the built one is looked up through ``ninja``, which pip
puts beside the interpreter and not on everybody's PATH. And loading it takes a lock file that a killed process leaves
behind, whereupon every later one waits for ever (torch's FileBaton, 2.13): a lock that no living process holds open
is removed.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

import psutil

from cluster.errors import HoneError

OP_NAME = "deepspeed_shm_comm"


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
    prepare_cpu_collective()
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        raise ToolchainError("no C++ compiler was found (g++)", "install one: apt-get install g++, or set CXX")
    began = time.monotonic()
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

    ShareMemCommBuilder().load(verbose=False)
    return time.monotonic() - began


def built_cpu_collective() -> Path | None:
    """Return the compiled collective; None where it is still to be built."""
    from torch.utils.cpp_extension import _get_build_directory  # pyright: ignore[reportPrivateUsage]

    built = Path(_get_build_directory(OP_NAME, False), f"{OP_NAME}.so")
    return built if built.is_file() else None


def prepare_cpu_collective() -> None:
    """Make sure that loading the collective in this process finds its tools and meets no abandoned lock."""
    from torch.utils.cpp_extension import _get_build_directory  # pyright: ignore[reportPrivateUsage]

    put_tools_on_path()
    drop_abandoned_lock(Path(_get_build_directory(OP_NAME, False)) / "lock")


def drop_abandoned_lock(lock: Path) -> bool:
    """Remove a lock file that no process of ours holds open; return whether it was removed."""
    if not lock.exists() or any(_holds_open(process, lock) for process in psutil.process_iter()):
        return False
    lock.unlink(missing_ok=True)
    return True


def _holds_open(process: psutil.Process, path: Path) -> bool:
    try:
        return any(Path(opened.path) == path for opened in process.open_files())
    except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
        return False


if __name__ == "__main__":
    from trainers.quiet import quiet_libraries

    print("building DeepSpeed's CPU collective (half a minute to two, once per machine) …", flush=True)
    quiet_libraries()
    print(f"built in {build_cpu_collective():.0f} s")
