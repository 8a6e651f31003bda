"""The endpoint's HTTP side: OpenAI's routes, feedback, health and metrics, with errors in OpenAI's shape.

What a route does with a request is in ``serving.gateway``; here are headers, statuses and streams. A caller that closes
its connection closes the stream, which frees the place of its request.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from cluster.errors import GenerationFailed, HoneError, NotServing, Overloaded, RequestRefused, StoreError
from serving.bodies import BodyRefused, json_of
from serving.callers import KeyRefused, Keys, caller_of, key_of
from serving.feedback import outcome_of
from serving.gateway import Exchange, Gateway
from serving.generation import Piece
from serving.openai_answers import DONE, Wording, error_body, error_line
from serving.openai_requests import Asked, ChatAsked, TextAsked, asked_of

RETRY_AFTER = {"Retry-After": "1"}
STATUSES: tuple[tuple[type[HoneError], int, str], ...] = (
    (RequestRefused, 400, "invalid_request_error"),
    (Overloaded, 429, "rate_limit_exceeded"),
    (NotServing, 503, "service_unavailable"),
    (StoreError, 503, "service_unavailable"),
    (GenerationFailed, 500, "server_error"),
)


def application(gateway: Callable[[], Gateway], keys: Keys) -> FastAPI:
    """Return the app; ``gateway`` gives the replica's own, at each request."""
    app = FastAPI(title="hone", docs_url=None, redoc_url=None, openapi_url=None)
    _add_errors(app, gateway)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await _completion(request, ChatAsked, gateway(), keys)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await _completion(request, TextAsked, gateway(), keys)

    @app.post("/v1/feedback")
    async def feedback(request: Request) -> Response:
        keys.check(key_of(request.headers))
        own = gateway()
        row = outcome_of(await json_of(request), own.snapshot.endpoint, time.time())
        await run_in_threadpool(own.keep, row)
        return JSONResponse({"object": "feedback", "request_id": row.request, "name": row.name})

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        keys.check(key_of(request.headers))
        endpoint = gateway().snapshot.endpoint
        made = int(endpoint.history[0].time_s) if endpoint.history else 0
        model = {"id": endpoint.name, "object": "model", "created": made, "owned_by": "hone"}
        return JSONResponse({"object": "list", "data": [model]})

    @app.get("/healthz")
    async def health() -> Response:
        now = gateway().snapshot
        arms = {arm: arm in now.ready for arm in now.endpoint.arms}
        is_up = any(now.split.probabilities.values())
        body = {"status": "ok" if is_up else "no arm is ready", "arms": arms, "epoch": now.endpoint.epoch}
        return JSONResponse(body, 200 if is_up else 503)

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        keys.check(key_of(request.headers))
        return Response(gateway().meters.text(), media_type="text/plain; version=0.0.4")

    return app


async def _completion(request: Request, kind: type[Asked], gateway: Gateway, keys: Keys) -> Response:
    keys.check(key_of(request.headers))  # before a byte of the body is read
    body = await json_of(request)
    now = gateway.snapshot  # read once: whatever changes from here on is not this request's
    endpoint = now.endpoint
    by_user = endpoint.experiment is None or endpoint.experiment.unit == "user"
    caller = caller_of(request.headers, body, keys, endpoint.salt, by_user=by_user)
    asked = asked_of(kind, body)
    if asked.model not in (None, endpoint.name):
        raise HTTPException(404, f"the model {asked.model!r} does not exist; this endpoint serves {endpoint.name}")
    exchange = gateway.begin(now, caller, asked)
    request.state.exchange = exchange
    wording = Wording(exchange.request, endpoint.name, int(exchange.time_s), asked.is_chat, exchange.about)
    if asked.stream:
        return await _streamed(exchange, wording)
    async with aclosing(exchange.pieces()) as pieces:
        written = [piece async for piece in pieces]
    return JSONResponse(wording.whole(written, exchange.usage), headers=_headers(exchange))


async def _streamed(exchange: Exchange, wording: Wording) -> Response:
    """Return the stream once its first piece is there, so that what fails at once has its own status."""
    pieces = exchange.pieces()
    try:
        first = await anext(pieces)
    except BaseException:
        await pieces.aclose()
        raise
    headers = _headers(exchange) | {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    lines = _lines(first, pieces, exchange, wording)
    return StreamingResponse(lines, media_type="text/event-stream", headers=headers)


async def _lines(
    first: Piece, pieces: AsyncGenerator[Piece], exchange: Exchange, wording: Wording
) -> AsyncGenerator[bytes]:
    shown: dict[int, int] = {}
    async with aclosing(pieces):
        try:
            yield wording.chunk(first, shown)
            async for piece in pieces:
                yield wording.chunk(piece, shown)
        except HoneError as error:
            yield error_line(_described(error)[1])
            return
        if exchange.asked.with_usage:
            yield wording.last_chunk(exchange.usage)
        yield DONE


def _headers(exchange: Exchange) -> dict[str, str]:
    about = exchange.about
    return {
        "x-hone-request-id": exchange.request,
        "x-hone-arm": exchange.arm,
        "x-hone-experiment": about["experiment"] or "",
        "x-hone-epoch": str(about["epoch"]),
    }


def _headers_without_arm(gateway: Gateway) -> dict[str, str]:
    now = gateway.snapshot
    return {
        "x-hone-request-id": f"req-{uuid.uuid4().hex}",
        "x-hone-experiment": now.experiment or "",
        "x-hone-epoch": str(now.endpoint.epoch),
    }


def _described(error: HoneError) -> tuple[int, dict[str, Any]]:
    """Return an error's status and body."""
    for kind, status, word in STATUSES:
        if isinstance(error, kind):
            what = f"{error.what}. {error.remedy}".strip()
            return status, error_body(what, word, code=None, param=error.where or None)
    return 500, error_body(error.what, "server_error")


def _add_errors(app: FastAPI, gateway: Callable[[], Gateway]) -> None:
    """Give every failure OpenAI's shape, and count those that no arm saw."""

    def answered(request: Request, status: int, body: dict[str, Any]) -> Response:
        exchange: Exchange | None = getattr(request.state, "exchange", None)
        if exchange is None:
            gateway().meters.refused(status)
        headers = _headers_without_arm(gateway()) if exchange is None else _headers(exchange)
        return JSONResponse(body, status, headers=headers | (RETRY_AFTER if status in (429, 503) else {}))

    @app.exception_handler(HoneError)
    async def refused(request: Request, error: HoneError) -> Response:
        return answered(request, *_described(error))

    @app.exception_handler(KeyRefused)
    async def no_key(request: Request, error: KeyRefused) -> Response:
        kind = "authentication_error" if error.status == 401 else "permission_error"
        return answered(request, error.status, error_body(error.what, kind, code="invalid_api_key"))

    @app.exception_handler(BodyRefused)
    async def no_body(request: Request, error: BodyRefused) -> Response:
        return answered(request, error.status, error_body(error.what, "invalid_request_error"))

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> Response:
        code = "model_not_found" if error.status_code == 404 and "model" in str(error.detail) else None
        return answered(request, error.status_code, error_body(str(error.detail), "invalid_request_error", code=code))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        what = f"the endpoint failed: {type(error).__name__}"
        return answered(request, 500, error_body(what, "server_error"))
