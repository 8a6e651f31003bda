"""Who may use the console: whoever has sent the administrator's key, for some hours, by a signed cookie.

The cookie says when it ends and is signed with the hashes of the administrator's keys, which lie in no file: so it
holds at every replica and after a restart, ends with the keys, and who may read the store cannot make one. Browsers
send cookies to every port of a host and count all of them as one site, so a change is taken only from pages of this
very origin.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import urlsplit

from serving.callers import KeyRefused, Keys

LASTS_S = 8 * 3600


def cookie_name(endpoint: str) -> str:
    """Return the name of an endpoint's cookie: two endpoints of one host do not end each other's sessions."""
    return f"hone-console-{endpoint}"


def opened(keys: Keys, salt: str, now_s: float) -> str:
    """Return the cookie of a session that begins now."""
    ends_s = int(now_s + LASTS_S)
    return f"{ends_s}.{_signature(ends_s, keys, salt)}"


def is_open(cookie: str | None, keys: Keys, salt: str, now_s: float) -> bool:
    """Return whether a cookie is of a session that has not ended."""
    ends, _, signature = (cookie or "").partition(".")
    if not (ends.isascii() and ends.isdecimal() and len(ends) < 16 and keys.admin):
        return False
    is_ours = hmac.compare_digest(signature.encode(), _signature(int(ends), keys, salt).encode())
    return is_ours and now_s < int(ends)


def refuse_other_origins(headers: Mapping[str, str]) -> None:
    """Raise KeyRefused where a change is asked for by a page of another origin."""
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != headers.get("host"):
        raise KeyRefused(403, f"a page of {origin} may not change this endpoint")


def _signature(ends_s: int, keys: Keys, salt: str) -> str:
    secret = repr(("console", salt, sorted(keys.admin))).encode()
    return hmac.new(secret, str(ends_s).encode(), hashlib.sha256).hexdigest()
