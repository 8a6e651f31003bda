"""An address, or an error about one → the text of it that may be printed: no password, no query, but the HTTP status.

Addresses come with secrets (``https://me:PASSWORD@host/rows.jsonl?sig=TOKEN``), and libraries repeat them in their
errors, which end up in logs and reports. So every name and every message about a source passes through here. Left out:
reading what lies at an address (``trainers.sources``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from http import HTTPStatus

URL = re.compile(r"[A-Za-z][\w+.-]*://\S+")
PHRASES = {status.value: status.phrase for status in HTTPStatus}
AROUND = "'\"()<>[]{},;"


def shown_name(path: str) -> str:
    """Return the name that may be printed: a URL without its password and query, which may hold a token."""
    if "://" not in path:
        return path
    return re.sub(r"://[^/?]*@", "://", path).split("?")[0]


def redacted(text: str, path: str) -> str:
    """Return a text about an address with that and every other URL in it as ``shown_name`` shows it."""
    return URL.sub(_shown_url, text.replace(path, shown_name(path)))


def failure(error: BaseException, path: str) -> str:
    """Return why an address could not be read, in one line: the HTTP status if there is one, else what was said."""
    for cause in _causes(error):
        status = getattr(cause, "status", None) or getattr(getattr(cause, "response", None), "status_code", None)
        if isinstance(status, int) and 400 <= status < 600:
            return f"the server answered {status} {PHRASES.get(status, '')}".rstrip()
    said = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {redacted(said, path)}"


def _shown_url(match: re.Match[str]) -> str:
    url = match.group()
    inner = url.rstrip(AROUND)
    return shown_name(inner) + url[len(inner) :]


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and those it was raised from, the last one first."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__
