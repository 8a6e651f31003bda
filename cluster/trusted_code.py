"""Whether the code that comes with a model may run: never, unless the administrator lists it by exact revision.

The file that HONE_TRUSTED_CODE names has a line each: ``ORG/NAME@COMMIT`` (the 40 digits of a hub commit) or
``/DIRECTORY@HASH`` (the 64 digits of its content). Branches and tags are refused, since they move. A listed model is
loaded at that revision and no other. The file counts only while nobody but its owner, who is root or this user, can
write it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.errors import UsageError
from cluster.manifest import content_hash

LISTED_IN = "HONE_TRUSTED_CODE"
ASKS_FOR_CODE = "trust_remote_code"
_LINE = re.compile(r"(?P<model>/\S*|[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)@(?P<revision>\S+)")
_COMMIT, _HASH = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")


def loading(model: str, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the arguments with which transformers loads ``model``: without its code, or the revision that is listed.

    Raises UsageError for a list that cannot be trusted, and for a listed directory that holds something else by now.
    """
    variables = os.environ if env is None else env
    file = variables.get(LISTED_IN)
    revision = trusted(Path(file)).get(model) if file else None
    if revision is None:
        return {"trust_remote_code": False}
    if not model.startswith("/"):
        return {"trust_remote_code": True, "revision": revision, "code_revision": revision}
    found = content_hash(Path(model))
    if found != revision:
        raise UsageError(f"{model} is not what {file} lists: its hash is {found}", "Let the administrator look at it.")
    return {"trust_remote_code": True}


def trusted(file: Path) -> dict[str, str]:
    """Return model → revision as a list says. Raises UsageError where it is wrong or others may write it."""
    try:
        about = file.stat()
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{LISTED_IN} names {file}, which cannot be read: {error}", "Unset it.") from error
    if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or about.st_uid not in (0, os.getuid()):
        raise UsageError(f"others may write {file}, which says whose code may run", f"chmod go-w {file}")
    found: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        parts = _LINE.fullmatch(text)
        exact = _HASH if text.startswith("/") else _COMMIT
        if parts is None or not exact.fullmatch(parts["revision"]):
            remedy = "Write ORG/NAME@COMMIT (40 digits) or /DIRECTORY@HASH (64 digits)."
            raise UsageError(f"{text!r} names no model at an exact revision", remedy, f"{file}:{number}")
        found[parts["model"]] = parts["revision"]
    return found


def remedy_of(error: Exception, otherwise: str) -> str:
    """Return what to do about a model that did not load: where it asks for its code to run, who may allow that."""
    if ASKS_FOR_CODE not in str(error):
        return otherwise
    return f"It brings code of its own, which only an administrator can let run: {LISTED_IN} (docs/security.md)."
