"""The embedded task: the first sentence of a docstring → the standard-library package it documents.

Real text that lies on every machine with Python, about 3,800 rows with real duplicates and class imbalance: a router,
"which package handles this?". Tests, tools that come with Python but are no library (``idlelib``, ``turtledemo``, …)
and whatever cannot be parsed are left out; a private module counts for the package it implements.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

NUM_LABELS = 16
LEFT_OUT_FOLDERS = frozenset({"site-packages", "test", "tests", "idle_test", "__pycache__"})
LEFT_OUT_PACKAGES = frozenset({"idlelib", "turtledemo", "lib2to3", "distutils", "ensurepip", "pydoc_data"})
IMPLEMENTED = {
    "_pydecimal": "decimal",
    "_pyio": "io",
    "_strptime": "time",
    "_pydatetime": "datetime",
    "_collections_abc": "collections",
    "_weakrefset": "weakref",
    "_threading_local": "threading",
    "_sitebuiltins": "site",
    "_py_abc": "abc",
    "sre_parse": "re",
    "sre_compile": "re",
    "sre_constants": "re",
    "genericpath": "os",
    "posixpath": "os",
    "ntpath": "os",
}
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """One file of the standard library, parsed: its path below the library's folder, its package, its text."""

    path: str
    package: str
    text: str
    tree: ast.Module

    def documented(self) -> Iterator[tuple[Documented, str]]:
        """Yield everything that has a docstring, with it."""
        for node in ast.walk(self.tree):
            if isinstance(node, Documented) and (docstring := ast.get_docstring(node)):
                yield node, docstring


@dataclass(frozen=True)
class DocstringRow:
    """One example: a first sentence, the package it documents, and where it stands."""

    text: str
    label: str
    where: str


def sources(stdlib: Path) -> list[Source]:
    """Return the parsed files of the standard library, in the order of their paths."""
    found: list[Source] = []
    for file in sorted(stdlib.rglob("*.py")):
        path = file.relative_to(stdlib)
        if LEFT_OUT_FOLDERS & set(path.parts[:-1]) or path.parts[0].startswith("config-"):
            continue
        name = path.parts[0].removesuffix(".py")
        if name in LEFT_OUT_PACKAGES:
            continue
        try:
            text = file.read_text(encoding="utf-8")
            found.append(Source(path.as_posix(), IMPLEMENTED.get(name, name), text, ast.parse(text)))
        except (SyntaxError, UnicodeDecodeError, ValueError):
            continue
    return found


def docstring_rows(library: list[Source]) -> list[DocstringRow]:
    """Return the rows of the 16 packages that have most, in the order of files and lines."""
    rows = [
        DocstringRow(first_sentence(docstring), source.package, f"{source.path}:{getattr(node, 'lineno', 1)}")
        for source in library
        for node, docstring in source.documented()
    ]
    counts = Counter(row.label for row in rows)
    largest = set(sorted(counts, key=lambda label: (-counts[label], label))[:NUM_LABELS])
    return [row for row in rows if row.label in largest and row.text]


def first_sentence(docstring: str) -> str:
    """Return the first sentence of the first paragraph, on one line."""
    paragraph = " ".join(re.split(r"\n\s*\n", docstring.strip())[0].split())
    found = re.match(r"(.+?[.!?])(\s|$)", paragraph)
    return found.group(1) if found else paragraph
