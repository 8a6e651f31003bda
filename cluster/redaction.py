"""Text that is shown, logged or kept → the same without the passwords that stand in its URLs."""

from __future__ import annotations

import re

HIDDEN = "***"
_USER = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<user>[^/?#\s:@]*):(?P<password>[^/?#\s]*)@")
_QUERY = re.compile(r"(?i)(?P<name>[?&](?:[\w-]*(?:password|token|secret|signature|key|sig))=)(?P<value>[^&\s#]+)")


def without_passwords(text: str) -> str:
    """Return ``text`` with what stands for a password in its URLs, before the host or in the query, as ``***``."""
    return _QUERY.sub(rf"\g<name>{HIDDEN}", _USER.sub(rf"\g<scheme>\g<user>:{HIDDEN}@", text))


def has_password(text: str) -> bool:
    """Return whether something in ``text`` would be hidden."""
    return without_passwords(text) != text
