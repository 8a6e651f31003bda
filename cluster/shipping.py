"""Our own code → the working directory of a submitted run: the four packages and nothing else of the directory.

So no environment, data, home or notes of a user travel by accident. What is too large for a head to take is refused
here, by the names of the largest files, instead of by the head after the upload.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cluster.errors import UsageError
from cluster.fitting import format_bytes

PACKAGES = ("cluster", "trainers", "tuning", "serving")
MAX_BYTES = 100 * 2**20
"""What a head takes in one request (ray_constants.DASHBOARD_CLIENT_MAX_SIZE, Ray 2.60)."""
NAMED = 5
LEFT_OUT = ("__pycache__",)


def code_files(root: Path) -> dict[str, Path]:
    """Return the files of the packages below ``root`` by their names there. Raises UsageError for a link."""
    found: dict[str, Path] = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*")):
            name = path.relative_to(root)
            if any(part in LEFT_OUT or part.startswith(".") for part in name.parts):
                continue
            if path.is_symlink():
                raise UsageError(f"{path} is a link, which would not travel", "Put the file itself there.")
            if path.is_file():
                found[name.as_posix()] = path
    return found


def refuse_large(sizes: Mapping[str, int], most_bytes: int = MAX_BYTES) -> None:
    """Raise UsageError where files by these names and sizes in bytes are too many for a head, naming the largest."""
    whole = sum(sizes.values())
    if whole <= most_bytes:
        return
    largest = sorted(sizes, key=lambda name: (-sizes[name], name))[:NAMED]
    shown = ", ".join(f"{name} ({format_bytes(sizes[name])})" for name in largest)
    raise UsageError(
        f"the working directory is {format_bytes(whole)}, and a head takes {format_bytes(most_bytes)}; the largest: "
        f"{shown}",
        "Move these out of the packages, or use an image that holds hone: --code image.",
    )


def code_bytes(root: Path) -> int:
    """Return how much travels. Raises UsageError where it is too much."""
    sizes = {name: path.stat().st_size for name, path in code_files(root).items()}
    refuse_large(sizes)
    return sum(sizes.values())


def code_root() -> Path:
    """Return the directory that holds the packages which run now."""
    return Path(__file__).resolve().parents[1]


@contextmanager
def shipped_code(root: Path) -> Generator[Path]:
    """Yield a directory with what travels, gone at the end. Raises UsageError where it is too much."""
    code_bytes(root)
    with tempfile.TemporaryDirectory(prefix="hone-code-") as place:
        for name, path in code_files(root).items():
            target = Path(place, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        yield Path(place)
