"""A guide's Markdown → its blocks, in order: files to write, commands to run, commands to look at only.

```` ```yaml file=job.yaml ```` is written to that file, ```` ```sh ```` and ```` ```python ```` are run, and what
```` ```sh validate ```` holds (kubectl, docker, clouds) is read by a shell's rules and its files looked for. Other
blocks show something. In commands RUN stands for the newest run, and `# exits 3` says how one ends.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

DOCS = Path(__file__).parent.parent / "docs"
GUIDES = (
    "first-job",
    "own-data",
    "sweeps",
    "ab-testing",
    "retraining",
    "submitting",
    "clusters",
    "security",
    "troubleshooting",
)
OTHERS = frozenset({"kubectl", "docker", "ray", "helm", "aws"})
"""Programs whose commands are looked at, and not run."""
BLOCK = re.compile(r"^```(?P<language>[a-z]+)(?: (?P<word>[^\n]+))?\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:hone|make) [^`\n]+)`")
LINK = re.compile(r"\]\((?P<target>[^)#\s]+)(?:#[^)]*)?\)")
ENDS = re.compile(r"\s+# exits (\d+)$")
Kind = Literal["file", "run", "python", "validate", "shown"]


@dataclass(frozen=True)
class Block:
    """One fenced block: what to do with it, the file that it is, its text, and the line that it begins in."""

    kind: Kind
    text: str
    file: str
    line: int


@dataclass(frozen=True)
class Command:
    """One command line and the exit code that the guide says it ends with."""

    text: str
    exits: int = 0


def guide(name: str) -> str:
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a guide. Fails on a marking that nobody knows."""
    found: list[Block] = []
    for match in BLOCK.finditer(text):
        language, word = match["language"], match["word"] or ""
        file = word.removeprefix("file=") if word.startswith("file=") else ""
        if file:
            kind: Kind = "file"
        elif language == "sh":
            assert word in ("", "validate"), match[0]
            kind = "validate" if word else "run"
        else:
            assert not word, match[0]
            kind = "python" if language == "python" else "shown"
        found.append(Block(kind, match["text"], file, text.count("\n", 0, match.start()) + 1))
    return found


def commands(text: str) -> list[Command]:
    """Return the commands of a block, lines that end with a backslash joined, comments left out."""
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines()]
    found = [line for line in lines if line and not line.startswith("#")]
    return [
        Command(ENDS.sub("", line), int(ends[1])) if (ends := ENDS.search(line)) else Command(line) for line in found
    ]


def foreign(command: str) -> list[str]:
    """Return the words of a command that is not run. Fails where it is no command of a program that we know."""
    words = shlex.split(command, comments=True)
    assert words, command
    assert words[0] in OTHERS, f"{command}: run it, or mark its program in tests/guides.py"
    return words


def files_of(words: list[str]) -> list[str]:
    """Return the files that a command reads, as far as its options say so."""
    return [after for word, after in pairwise(words) if word in ("-f", "--filename", "--file")]


def inline_commands(text: str) -> list[str]:
    """Return the `hone …` and `make …` that stand in a guide's sentences."""
    return INLINE.findall(BLOCK.sub("", text))


def links(text: str) -> list[str]:
    """Return the files that a guide links to."""
    return [target for target in LINK.findall(BLOCK.sub("", text)) if "://" not in target]
