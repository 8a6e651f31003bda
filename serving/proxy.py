"""What Serve's HTTP proxy says by itself → errors in OpenAI's shape that a client may retry.

The proxy stands before the ingress and answers alone where there is none: an ingress that was killed leaves its callers
without a response (the server then says a bare 500), one that is not there yet or is being drained gives a plain 404 or
503, one that does not come back in time a plain 408. All of it means "again, a little later", so it becomes a 503 with
`Retry-After`, a full queue a 429. A stream that breaks off in its middle ends with an error as its last event; its
client has the status and the text so far already. What the endpoint itself answers passes untouched.

Serve 2.60 takes middleware for its proxy through one environment variable only (`HTTPOptions.middlewares` is refused).
Left out: a proxy that is killed itself, whose connections break; Serve starts another one on the same port.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from serving.openai_answers import error_body, error_line

if TYPE_CHECKING:
    from starlette.middleware import Middleware
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

PROXY_ENV = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serving.proxy:middlewares"}
"""For the environment of the Ray that the proxy runs in."""
OWN_ROUTES = "/-/"
"""The proxy's health and routes, for those who look after a cluster."""
ITS_OWN = frozenset({404, 408, 429, 500, 503})
AWAY = "the endpoint is starting, being drained, or has just been restarted"
FULL = "more requests wait than may"
BROKEN = "the answer broke off: the endpoint was restarted"
AGAIN = "Send the request again."
RETRY_AFTER = (b"retry-after", b"1")
log = logging.getLogger("hone.serving")


def middlewares() -> list[Middleware]:
    """Return what Serve puts around its proxy."""
    from starlette.middleware import Middleware

    return [Middleware(RetriableErrors)]


class RetriableErrors:
    """Serve's proxy with an answer for every request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"].startswith(OWN_ROUTES):
            await self._app(scope, receive, send)
            return
        reply = _Reply(send)
        try:
            await self._app(scope, receive, reply.take)
        except Exception:
            log.exception("the proxy failed")
        await reply.end()


class _Reply:
    """One response on its way; its start is held back until something follows it."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None
        self._has_begun = self._is_whole = self._is_events = False

    async def take(self, message: Message) -> None:
        """Pass a message on, unless it is the proxy's own."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        if self._start is not None and not self._has_begun:
            kind = dict(self._start["headers"]).get(b"content-type", b"")
            if self._start["status"] in ITS_OWN and kind.startswith(b"text/plain"):
                return  # said in our words at the end
            self._has_begun, self._is_events = True, kind.startswith(b"text/event-stream")
            await self._send(self._start)
        self._is_whole = message["type"] == "http.response.body" and not message.get("more_body", False)
        await self._send(message)

    async def end(self) -> None:
        """Say what is missing, once the proxy has no more to say."""
        if not self._has_begun:
            await self._refuse(429 if self._start is not None and self._start["status"] == 429 else 503)
        elif not self._is_whole and self._is_events:
            line = error_line(error_body(f"{BROKEN}. {AGAIN}", "service_unavailable"))
            await self._send({"type": "http.response.body", "body": line})

    async def _refuse(self, status: int) -> None:
        what, kind = (FULL, "rate_limit_exceeded") if status == 429 else (AWAY, "service_unavailable")
        body = json.dumps(error_body(f"{what}. {AGAIN}", kind)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), RETRY_AFTER]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})
