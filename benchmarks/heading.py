"""What every benchmark's report has: the machine, the versions, the commit and the command; how values spread."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from statistics import mean, median

import numpy as np


def heading(title: str, command: str, packages: Sequence[str]) -> str:
    """Return a title, one line on what was measured with what, and how to run it again, as markdown."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    machine = f"{os.cpu_count()} CPUs ({platform.machine()}), Python {platform.python_version()}"
    return f"# {title}\n\n{machine}, {versions}; commit {commit.stdout.strip()}\n\n    python {command}\n"


def spread(values: Sequence[float]) -> str:
    """Return the median, and the least and the most value."""
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def mean_with_interval(values: Sequence[float], digits: int) -> str:
    """Return the mean, and its 95 % bootstrap interval."""
    means = np.random.default_rng(0).choice(values, (10_000, len(values))).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return f"{mean(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
