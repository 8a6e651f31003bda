"""A Dockerfile's text → its instructions, as far as tests ask about them; there is no engine to build it with."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

KNOWN = frozenset({"FROM", "ARG", "ENV", "RUN", "USER", "WORKDIR", "COPY", "ENTRYPOINT", "CMD"})


@dataclass(frozen=True)
class Instruction:
    """One instruction with its arguments joined to a line."""

    word: str
    rest: str

    def words(self) -> list[str]:
        """The arguments one by one, options left out."""
        if self.rest.startswith("["):
            return [str(word) for word in json.loads(self.rest)]
        return [word for word in shlex.split(self.rest) if not word.startswith("--")]


def instructions(path: Path) -> list[Instruction]:
    """Return what a Dockerfile says. Fails on a word that it may not hold."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines()
    found = [Instruction(*line.split(maxsplit=1)) for line in joined]
    assert {one.word for one in found} <= KNOWN, found
    return found
