"""The token by which Ray knows its own: where it comes from, and that nobody else on the machine reads it.

Ray asks for a token wherever RAY_AUTH_MODE is ``token``, which is its default for a cluster that a program starts
for itself, and takes it from RAY_AUTH_TOKEN, the file RAY_AUTH_TOKEN_PATH, or ``~/.ray/auth_token``, in that order. It
writes that file for everybody to read (2.60), and whoever has the token runs code as us: here the file is made and
kept for its owner alone.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
BY_TOKEN = {MODE: "token"}
"""Ray then asks for the token and sends its own: this user's processes get in; a Ray without one ignores it."""
OTHERS = 0o077


def token_file(env: Mapping[str, str], user_home: Path) -> Path:
    """Return the file that the token is kept in, whether it is there or not."""
    return Path(env[TOKEN_PATH]).expanduser() if env.get(TOKEN_PATH) else user_home / ".ray" / "auth_token"


def token_of(env: Mapping[str, str], user_home: Path) -> str | None:
    """Return the token that this environment gives; None where there is none or it cannot be read."""
    if env.get(TOKEN):
        return env[TOKEN].strip()
    with suppress(OSError, UnicodeDecodeError):
        return token_file(env, user_home).read_text(encoding="utf-8").strip() or None
    return None


def is_off(env: Mapping[str, str]) -> bool:
    """Return whether somebody turned token authentication off by name."""
    return env.get(MODE, "token").lower() != "token"


def readable_by_others(file: Path) -> bool:
    """Return whether the file's mode lets others on this machine have the token."""
    with suppress(OSError):
        return bool(file.stat().st_mode & OTHERS)
    return False


def keep_private(env: Mapping[str, str], user_home: Path) -> None:
    """Make the token's file where Ray would, for its owner alone, or take others' rights to it away.

    A home that cannot be written is left to Ray, which says so.
    """
    if env.get(TOKEN) or env.get(TOKEN_PATH) or is_off(env):  # the user's own arrangements
        return
    file = token_file(env, user_home)
    with suppress(OSError):
        if file.is_file():
            if readable_by_others(file):
                file.chmod(0o600)
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
            out.write(secrets.token_hex(32))
