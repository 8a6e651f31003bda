"""Bodies of requests, read no further than they may be long and waited for no longer than they may take."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import Request

MOST_BODY_BYTES = 1 << 20
MOST_FIELDS = 1000
BODY_S = 30.0


class BodyRefused(Exception):
    """A body that is too large (413), too slow (408) or not what is asked for (400)."""

    def __init__(self, status: int, what: str) -> None:
        super().__init__(status, what)
        self.status, self.what = status, what


async def json_of(request: Request) -> dict[str, Any]:
    """Return a request's JSON object. Raises BodyRefused."""
    found = await _body_of(request)
    try:
        value = json.loads(found)
        if b"\\ud" in found.lower():  # the escape of half a character may be half of one
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise BodyRefused(400, "the body is no JSON, or holds half a character") from None
    if not isinstance(value, dict):
        raise BodyRefused(400, "the body is no JSON object")
    return value  # pyright: ignore[reportUnknownVariableType]


async def form_of(request: Request) -> dict[str, str]:
    """Return the fields of a browser's form (urlencoded), the last of each name. Raises BodyRefused."""
    text = (await _body_of(request)).decode("utf-8", "replace")
    try:
        fields = parse_qs(text, keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        raise BodyRefused(400, f"the form has more than {MOST_FIELDS:,} fields") from None
    return {name: values[-1] for name, values in fields.items()}


async def _body_of(request: Request) -> bytes:
    found = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for part in request.stream():
                found += part
                if len(found) > MOST_BODY_BYTES:
                    raise BodyRefused(413, f"the body is larger than {MOST_BODY_BYTES:,} bytes")
    except TimeoutError:
        raise BodyRefused(408, f"the body did not arrive within {BODY_S:g} seconds") from None
    return bytes(found)
