"""A machine → what `hone doctor` says of it: interpreter, torch, GPUs, collectives, compilers, disk, imports.

Every check tries the thing instead of reading a version where that is possible: a process group is made, a collective
summed. Left out: speed; a slow machine is not a broken one.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.diagnosis import Line, failure, fine, warning
from cluster.errors import HoneError
from cluster.pipeline import entry

if TYPE_CHECKING:
    from cluster.session import Settings

OURS = ("cluster", "trainers", "tuning", "serving")
OLDEST_PYTHON = (3, 11)
GIB = 2**30
LITTLE_DISK_BYTES, TOO_LITTLE_DISK_BYTES = 10 * GIB, 1 * GIB
LITTLE_SHARED_BYTES = 1 * GIB
SHARED = Path("/dev/shm")


def python(_settings: Settings) -> Line:
    """Look at the interpreter."""
    found = f"{sys.version.split()[0]} at {sys.executable}"
    if sys.version_info < OLDEST_PYTHON:
        return failure("python", found, "Install Python 3.11 or newer, and hone into it.")
    return fine("python", found)


def torch(_settings: Settings) -> Line:
    """Look at torch and what it computes on."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return failure("torch", f"it cannot be imported: {error}", "pip install -c constraints.txt torch")
    return torch_line(
        torch.__version__, torch.version.cuda, has_driver=shutil.which("nvidia-smi") is not None, gpus=_gpus()
    )


def _gpus() -> list[str]:
    from torch import cuda

    return [str(cuda.get_device_name(place)) for place in range(cuda.device_count())] if cuda.is_available() else []


def torch_line(version: str, built_for: str | None, *, has_driver: bool, gpus: Sequence[str]) -> Line:
    """Return the line about a torch built for a CUDA (None: for CPUs) on a machine with these GPUs."""
    if gpus:
        return fine("torch", f"{version}, CUDA {built_for}, {len(gpus)} × {gpus[0]}")
    if has_driver and built_for is None:
        return warning(
            "torch", f"{version} computes on CPUs only, and there is a GPU driver", "Install torch's CUDA build."
        )
    if has_driver:
        return warning(
            "torch",
            f"{version} is built for CUDA {built_for} and finds no GPU",
            "Look at nvidia-smi: the driver may be too old, or no GPU is given to this container.",
        )
    return fine("torch", f"{version}, no GPU: training runs on CPUs")


def collectives(_settings: Settings) -> Line:
    """Make a process group of one and sum in it: NCCL where there is a GPU, else gloo."""
    try:
        import torch
        import torch.distributed as dist
    except (ImportError, OSError) as error:
        return failure("collectives", f"torch cannot be imported: {error}", "Mend torch first.")
    backend, device = ("nccl", "cuda") if torch.cuda.is_available() else ("gloo", "cpu")
    if dist.is_initialized():
        return fine("collectives", f"{dist.get_backend()} is in use")
    try:
        with tempfile.TemporaryDirectory() as folder:
            dist.init_process_group(backend, init_method=f"file://{folder}/group", rank=0, world_size=1)
            try:
                summed = torch.ones(1, device=device)
                dist.all_reduce(summed)
            finally:
                dist.destroy_process_group()
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0]
        remedy = (
            "Let the machine's name resolve (/etc/hosts), or set GLOO_SOCKET_IFNAME to an interface."
            if backend == "gloo"
            else "Check the driver, and NCCL_SOCKET_IFNAME."
        )
        return failure("collectives", f"{backend} makes no process group: {reason}", remedy)
    return fine("collectives", f"{backend} sums in a process group")


def deepspeed(_settings: Settings) -> Line:
    """Look at DeepSpeed and whether its CPU collective is built."""
    try:
        version = metadata.version("deepspeed")
        built = entry("trainers.ops:built_cpu_collective")()
    except (ImportError, OSError, HoneError) as error:
        return failure("deepspeed", f"it cannot be used: {error}", "pip install -c constraints.txt deepspeed")
    if built is None:
        return warning(
            "deepspeed",
            f"{version}; its CPU collective is not built, so the first training waits a minute or two",
            "python -m trainers.ops",
        )
    return fine("deepspeed", f"{version}, CPU collective built")


def compilers(_settings: Settings) -> Line:
    """Look for what DeepSpeed's operators are compiled with."""
    compiler = os.environ.get("CXX", "g++")
    beside = str(Path(sys.executable).parent)
    ninja = shutil.which("ninja", path=os.pathsep.join((beside, os.environ.get("PATH", ""))))
    return compilers_line(compiler, shutil.which(compiler), ninja)


def compilers_line(compiler: str, found: str | None, ninja: str | None) -> Line:
    """Return the line about a compiler and ninja at these places (None: not found)."""
    if found is None:
        return failure("compilers", f"no C++ compiler ({compiler})", "apt-get install g++, or set CXX.")
    if ninja is None:
        return failure("compilers", f"{found}, but no ninja", "pip install ninja, or apt-get install ninja-build.")
    return fine("compilers", f"{found}, {ninja}")


def disk(settings: Settings) -> list[Line]:
    """Look at the room where artifacts, Ray's files and shared memory go."""
    places = {"temporary files": Path(tempfile.gettempdir())}
    if settings.is_local:
        places = {"home": _nearest(Path(settings.home))} | places
    lines = [disk_line(name, str(path), shutil.disk_usage(path).free) for name, path in places.items()]
    if SHARED.is_dir():
        lines.append(shared_line(shutil.disk_usage(SHARED).total))
    return lines


def _nearest(path: Path) -> Path:
    """Return the path, or the nearest directory above it that is there."""
    return next(place for place in (path, *path.parents) if place.is_dir())


def disk_line(name: str, place: str, free_bytes: int) -> Line:
    """Return the line about a disk with this much room."""
    found = f"{name}: {free_bytes / GIB:.1f} GiB free at {place}"
    if free_bytes < TOO_LITTLE_DISK_BYTES:
        return failure("disk", found, "Make room: hone gc shows what may go.")
    if free_bytes < LITTLE_DISK_BYTES:
        return warning("disk", found, "A checkpoint needs 12 bytes a trained weight: hone gc shows what may go.")
    return fine("disk", found)


def shared_line(total_bytes: int) -> Line:
    """Return the line about shared memory, in which Ray's objects and ranks' sums lie."""
    found = f"shared memory: {total_bytes / GIB:.1f} GiB"
    if total_bytes < LITTLE_SHARED_BYTES:
        return warning("disk", found, "Start the container with more, as --shm-size=8g; Ray is slow without.")
    return fine("disk", found)


def imports(_settings: Settings) -> list[Line]:
    """Look for other modules of our four names on the path."""
    ours = Path(__file__).parent.parent
    return import_lines(ours, [Path(place or ".") for place in sys.path], Path.cwd())


def import_lines(ours: Path, path: Sequence[Path], working_directory: Path) -> list[Line]:
    """Return what collides: a module of ours that another directory on the path, or the working directory, has too."""
    places = list(dict.fromkeys(place.resolve() for place in path))
    mine, here = ours.resolve(), working_directory.resolve()
    first = places.index(mine) if mine in places else len(places)
    remedy = "Rename them, or take the directory off PYTHONPATH."
    lines: list[Line] = []
    for order, place in enumerate(places):
        names = _named_there(place) if place != mine else []
        if names and order < first:
            lines.append(failure("imports", f"{place} has {', '.join(names)} too, before ours", remedy))
        elif names:
            lines.append(warning("imports", f"{place} has {', '.join(names)} too", remedy))
    if here not in {mine, *places} and (names := _named_there(here)):
        found = f"the working directory {here} has modules {', '.join(names)}"
        lines.append(warning("imports", found, "Submit from elsewhere: on a cluster they would come before ours."))
    return lines or [fine("imports", f"{', '.join(OURS)} are hone's, from {ours}")]


def _named_there(place: Path) -> list[str]:
    return [name for name in OURS if (place / f"{name}.py").is_file() or (place / name / "__init__.py").is_file()]
