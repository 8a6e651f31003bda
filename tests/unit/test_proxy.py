"""What stands before the ingress: whatever happens behind it, a caller gets an answer that says what to do."""

from __future__ import annotations

import asyncio
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from serving.proxy import PROXY_ENV, RetriableErrors, middlewares

EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")
JSON = (b"content-type", b"application/json")
PLAIN = (b"content-type", b"text/plain")


def start(status: int, *headers: tuple[bytes, bytes]) -> Message:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(text: bytes, *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": text, "more_body": more}


def sent(*messages: Message, error: Exception | None = None, path: str = "/v1/models", kind: str = "http") -> list[Any]:
    """What reaches the caller when the proxy says these messages and returns, or raises."""
    found: list[Any] = []

    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)
        if error is not None:
            raise error

    async def take(message: Message) -> None:
        found.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    asyncio.run(RetriableErrors(proxy)({"type": kind, "path": path}, receive, take))
    return found


def refusal(found: list[Any]) -> tuple[int, str]:
    """The status and OpenAI's word of a whole refusal, which says when to come again."""
    first, last = found
    headers = dict(first["headers"])
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"retry-after"] == b"1"
    assert int(headers[b"content-length"]) == len(last["body"])
    assert not last.get("more_body")
    return first["status"], json.loads(last["body"])["error"]["type"]


def test_an_answer_passes_untouched():
    for messages in (
        [start(200, JSON), body(b"{}")],
        [start(404, JSON), body(b'{"error"', more=True), body(b": 1}")],
        [start(200, PLAIN), body(b"hone_requests 1")],
        [start(401), body(b"the session has ended")],
        [start(200, EVENTS), body(b"data: 1\n\n", more=True), body(b"data: [DONE]\n\n", more=True), body(b"")],
    ):
        assert sent(*messages) == messages


@pytest.mark.parametrize("messages", [[], [start(200, JSON)], [start(200, EVENTS)]])
def test_a_request_whose_ingress_was_killed_may_be_sent_again(messages: list[Message]):
    assert refusal(sent(*messages)) == (503, "service_unavailable")
    assert refusal(sent(*messages, error=RuntimeError("no replica"))) == (503, "service_unavailable")


@pytest.mark.parametrize(
    ("said", "status", "word"),
    [
        (404, 503, "service_unavailable"),
        (408, 503, "service_unavailable"),
        (500, 503, "service_unavailable"),
        (503, 503, "service_unavailable"),
        (429, 429, "rate_limit_exceeded"),
    ],
)
def test_what_the_proxy_says_itself_is_said_in_openais_shape(said: int, status: int, word: str):
    assert refusal(sent(start(said, PLAIN), body(b"Path '/' not "), body(b"found"))) == (status, word)


def test_a_stream_that_breaks_off_ends_with_an_error():
    begun = [start(200, EVENTS), body(b"data: 1\n\n", more=True)]
    *passed, last = sent(*begun)
    assert passed == begun
    assert json.loads(last["body"].removeprefix(b"data: "))["error"]["type"] == "service_unavailable"
    assert not last.get("more_body")


def test_an_answer_that_cannot_be_mended_is_not_made_to_look_whole():
    begun = [start(200, JSON), body(b'{"choices"', more=True)]
    assert sent(*begun) == begun


def test_the_proxys_own_routes_and_other_protocols_pass():
    health = [start(503, PLAIN), body(b"draining")]
    assert sent(*health, path="/-/healthz") == health
    assert sent({"type": "websocket.close"}, kind="websocket") == [{"type": "websocket.close"}]


def test_serve_can_put_it_around_its_proxy():
    (found,) = middlewares()
    assert found.cls is RetriableErrors


def test_a_rendered_cluster_puts_it_around_its_proxies():
    ((name, where),) = PROXY_ENV.items()
    pod = (Path(__file__).parents[2] / "cluster" / "deploy" / "_pod.yaml.j2").read_text()
    assert f'name: {name}, value: "{where}"' in pod
    module, attribute = where.split(":")
    assert getattr(import_module(module), attribute) is middlewares
