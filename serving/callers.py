"""Headers and body of a request → who sends it: may they, for which unit, and is an arm asked for by name.

Keys are known by their SHA-256 only. Without API keys everybody on the loopback interface may ask; the administrator's
key alone chooses arms, and such requests are left out of every analysis. A unit is hashed with the endpoint's salt
before it is used or kept, so the ledger holds no user's name.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import UsageError

UNIT_HEADER, ARM_HEADER, CONSENT_HEADER = "x-hone-unit", "x-hone-arm", "x-hone-consent"
API_KEYS, ADMIN_KEY = "HONE_API_KEYS", "HONE_ADMIN_KEY"
FILE_ENDING = "_FILE"
MOST_UNIT_CHARACTERS = 512
SHORTEST_KEY = 16


class KeyRefused(Exception):
    """The caller's key is missing (401), wrong (401) or not enough for what is asked (403)."""

    def __init__(self, status: int, what: str) -> None:
        super().__init__(status, what)
        self.status, self.what = status, what


@dataclass(frozen=True)
class Keys:
    """Hashes of the keys that an endpoint accepts."""

    api: frozenset[str] = frozenset()
    admin: frozenset[str] = frozenset()

    @property
    def mark(self) -> str:
        """The same for the same keys, and no help in finding them."""
        return hashlib.sha256(repr((sorted(self.api), sorted(self.admin))).encode()).hexdigest()[:16]

    def knows(self, key: str | None) -> bool:
        """Return whether a key is one of the endpoint's."""
        return key is not None and hashed(key) in self.api | self.admin

    def check(self, key: str | None) -> None:
        """Raise KeyRefused for a caller who may ask nothing."""
        if self.api and not self.knows(key):
            raise KeyRefused(401, "no API key was sent" if key is None else "the API key is not known")

    def check_admin(self, key: str | None) -> None:
        """Raise KeyRefused for a caller who is no administrator."""
        if not self.admin:
            raise KeyRefused(403, f"this endpoint has no administrator's key; set {ADMIN_KEY} where it is served")
        if key is None or hashed(key) not in self.admin:
            raise KeyRefused(403 if key else 401, "only the administrator's key may do this")


def keys_of(env: Mapping[str, str]) -> Keys:
    """Return the keys of HONE_API_KEYS and HONE_ADMIN_KEY, or of the files that these name with _FILE behind.

    Several are separated by commas, or stand one a line. Raises UsageError for a key that can be guessed, and for a
    file that cannot be read.
    """
    return Keys(*(frozenset(map(hashed, _keys(name, env))) for name in (API_KEYS, ADMIN_KEY)))


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. ``unit`` is hashed; ``has_unit`` is false where it is random."""

    unit: str
    has_unit: bool
    forced_arm: str | None = None
    consent: bool = False


def caller_of(
    headers: Mapping[str, str], body: Mapping[str, object], keys: Keys, salt: str, *, by_user: bool
) -> Caller:
    """Return the caller of a request, ``by_user`` false where every request is a unit. Raises KeyRefused."""
    key = key_of(headers)
    keys.check(key)
    arm = headers.get(ARM_HEADER)
    if arm is not None:
        keys.check_admin(key)
    own_key = key if keys.knows(key) else None  # clients send any key where none is asked for, often all the same
    name = _unit_name(headers, body, own_key) if by_user else None
    return Caller(
        unit=secrets.token_hex(16) if name is None else unit_hash(salt, name),
        has_unit=name is not None,
        forced_arm=arm,
        consent=body.get("consent") is True or headers.get(CONSENT_HEADER, "").lower() == "true",
    )


def unit_hash(salt: str, name: str) -> str:
    """Return the unit that a name stands for at an endpoint: 32 hexadecimal digits."""
    encoded = name.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(encoded, digest_size=16, key=hashlib.sha256(salt.encode()).digest()).hexdigest()


def key_of(headers: Mapping[str, str]) -> str | None:
    """Return the bearer token of a request."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None


def hashed(key: str) -> str:
    """Return what a key is known by. Keys are long and random, so one round of SHA-256 is enough."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _unit_name(headers: Mapping[str, str], body: Mapping[str, object], key: str | None) -> str | None:
    for found in (headers.get(UNIT_HEADER), body.get("safety_identifier"), body.get("user"), key):
        if isinstance(found, str) and found:
            return found[:MOST_UNIT_CHARACTERS]
    return None


def _keys(name: str, env: Mapping[str, str]) -> Sequence[str]:
    found = [key.strip() for key in env.get(name, "").split(",")]
    if path := env.get(name + FILE_ENDING):
        try:
            found += [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
        except OSError as error:
            raise UsageError(f"{name}{FILE_ENDING} is {path}: {error.strerror}", "Name a file of keys.") from error
    keys = [key for key in found if key and not key.startswith("#")]
    for key in keys:
        if len(key) < SHORTEST_KEY or not re.fullmatch(r"[!-~]+", key):
            raise UsageError(
                f"{name} holds a key of {len(key)} characters",
                f"Use {SHORTEST_KEY} or more without spaces, as from: openssl rand -hex 24",
            )
    return keys
