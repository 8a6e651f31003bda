"""The text of one command-line argument → its value, or why it is none, said before anything is imported or read."""

from __future__ import annotations

import argparse
from pathlib import Path

from cluster.errors import UsageError


def column_pair(text: str) -> tuple[str, str]:
    """Return OURS=THEIRS as a pair."""
    ours, found, theirs = text.partition("=")
    if not found or not ours or not theirs:
        raise UsageError(f"--columns {text} is not OURS=THEIRS", "write it as --columns prompt=question")
    return ours, theirs


def count(text: str) -> int:
    """Return a whole number from 1 up."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 1 up")
    return int(text)


def page_file(text: str) -> Path:
    """Return where a page goes; any other file, as a job file behind a bare --report, is not overwritten."""
    path = Path(text)
    if path.suffix != ".html":
        raise argparse.ArgumentTypeError(f"{text} does not end with .html; a bare --report goes behind the job file")
    if not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no directory {path.parent}")
    return path


def arm_weight(text: str) -> tuple[str, float]:
    """Return ARM=WEIGHT as a pair."""
    arm, found, number = text.partition("=")
    try:
        if not found or not arm:
            raise ValueError
        return arm, float(number)
    except ValueError:
        raise UsageError(f"{text} is not ARM=WEIGHT", "write it as control=50 candidate=50") from None


def days(text: str) -> float:
    """Return a number of days, at least 0."""
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 36500:
        raise argparse.ArgumentTypeError(f"{text} is no number of days from 0 to 36500")
    return found


def a_day(text: str) -> int:
    """Return the N of N/day."""
    number = text.removesuffix("/day")
    if not number.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not N/day, as 1/day")
    return int(number)


def seconds(text: str) -> float:
    """Return a number of seconds above 0."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds above 0")
    return found
