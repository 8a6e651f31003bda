"""The console's routes: an administrator looks at an endpoint, changes its traffic, and tries prompts on every arm.

What it changes goes the way that commands go (``serving.traffic``), what it asks the way that requests go, as forced
ones, and scores are feedback as any; nothing here has a rule of its own. A change is made to what its page showed, or
not at all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from cluster.arguments import arm_weight
from cluster.errors import HoneError, RequestRefused, UsageError
from cluster.session import Settings
from cluster.store import Store
from serving import endpoint as endpoints
from serving.bodies import BodyRefused, form_of
from serving.callers import Caller, KeyRefused, Keys
from serving.console_forms import EPOCH, SCORED, WEIGHT, Answer, Tried
from serving.console_page import State, closed_page, console_page, live_part
from serving.console_session import LASTS_S, cookie_name, is_open, opened, refuse_other_origins
from serving.drift import latest
from serving.feedback import outcome_of
from serving.gateway import Gateway, Snapshot
from serving.looks import Looks
from serving.openai_requests import Asked, ChatAsked, asked_of
from serving.results import looks_at
from serving.traffic import BY_NAME, as_seen, promoted, rollback, split

ROOT = "/console"
SOURCE, SCORE = "console", "console_score"
HEADERS = {"Cache-Control": "no-store", "X-Frame-Options": "DENY", "Referrer-Policy": "same-origin"}
"""Not no-referrer: a browser then says of its forms that they come from nowhere."""
DONE = {
    "split": "The weights are set.",
    "promote": "The arm is promoted: it has all traffic.",
    "rollback": "The last change is taken back.",
    "score": "The scores are kept.",
}
REFUSALS = (HoneError, KeyRefused, BodyRefused)
Fields = dict[str, str]
Act = Callable[[Fields], Awaitable[None]]


class Console:
    """One ingress replica's console."""

    def __init__(self, gateway: Callable[[], Gateway], keys: Keys, settings: Settings) -> None:
        self._gateway, self._keys, self._settings = gateway, keys, settings
        self._store = Store(settings.home)
        self._looks = Looks(lambda endpoint: looks_at(endpoint, settings, time.time()))

    def router(self) -> APIRouter:
        """Return the routes below ``/console``."""
        router = APIRouter()
        router.add_api_route(ROOT, self._show, methods=["GET"])
        router.add_api_route(f"{ROOT}/live", self._live, methods=["GET"])
        router.add_api_route(f"{ROOT}/open", self._open, methods=["POST"])
        router.add_api_route(f"{ROOT}/close", self._close, methods=["POST"])
        router.add_api_route(f"{ROOT}/try", self._try, methods=["POST"])
        acts: dict[str, Act] = {
            "split": self._split, "promote": self._promote, "rollback": self._rollback, "score": self._score,
        }  # fmt: skip
        for name, act in acts.items():
            router.add_api_route(f"{ROOT}/{name}", self._acting(name, act), methods=["POST"])
        return router

    async def _show(self, request: Request) -> Response:
        if not self._is_open(request):
            return self._closed(request)
        return await self._page(request, said=DONE.get(request.query_params.get("done", ""), ""))

    async def _live(self, request: Request) -> Response:
        if not self._is_open(request):
            return Response("the session has ended", 401, HEADERS)
        return HTMLResponse(live_part(await self._state()), headers=HEADERS)

    async def _open(self, request: Request) -> Response:
        now = self._gateway().snapshot
        try:
            self._keys.check_admin((await _fields(request)).get("key") or None)
        except (KeyRefused, BodyRefused) as error:
            return self._closed(request, error)
        answer = RedirectResponse(_root(request), 303, HEADERS)
        answer.set_cookie(
            cookie_name(now.endpoint.name),
            opened(self._keys, now.endpoint.salt, time.time()),
            max_age=LASTS_S,
            path=_root(request),
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    async def _close(self, request: Request) -> Response:
        answer = RedirectResponse(_root(request), 303, HEADERS)
        answer.delete_cookie(cookie_name(self._gateway().snapshot.endpoint.name), path=_root(request))
        return answer

    def _acting(self, name: str, act: Act) -> Callable[[Request], Awaitable[Response]]:
        """Return the route that does something and shows the page again, with what was done or why it was not."""

        async def route(request: Request) -> Response:
            if not self._is_open(request):
                return self._closed(request)
            try:
                await act(await _fields(request))
            except REFUSALS as error:
                return await self._refused(request, error)
            return RedirectResponse(f"{_root(request)}?done={name}", 303, HEADERS)

        return route

    async def _split(self, fields: Fields) -> None:
        given = {name.removeprefix(WEIGHT): text for name, text in fields.items() if name.startswith(WEIGHT)}
        weights = dict(arm_weight(f"{arm}={text}") for arm, text in given.items())
        await run_in_threadpool(split, self._name, weights, self._settings, seen_epoch=_epoch(fields))

    async def _promote(self, fields: Fields) -> None:
        def act() -> None:
            endpoint = as_seen(endpoints.read(self._store, self._name), _epoch(fields))
            promoted(endpoint, fields.get("arm", ""), BY_NAME, self._settings)

        await run_in_threadpool(act)

    async def _rollback(self, fields: Fields) -> None:
        await run_in_threadpool(rollback, self._name, self._settings, seen_epoch=_epoch(fields))

    async def _score(self, fields: Fields) -> None:
        now, endpoint = time.time(), self._gateway().snapshot.endpoint
        scores = {name.removeprefix(SCORED): text for name, text in fields.items() if name.startswith(SCORED)}
        if not scores:
            raise RequestRefused("no answer was scored", "Choose good or bad for one of them at least.")
        said = [{"request_id": one, "name": SCORE, "value": text, "source": SOURCE} for one, text in scores.items()]
        for row in [outcome_of(body, endpoint, now) for body in said]:
            await run_in_threadpool(self._gateway().keep, row)

    async def _try(self, request: Request) -> Response:
        if not self._is_open(request):
            return self._closed(request)
        tried = Tried()
        try:
            fields = await _fields(request)
            tried = Tried(fields.get("prompt", ""), fields.get("max_tokens", ""), fields.get("temperature", ""))
            asked = _asked(tried)
        except REFUSALS as error:
            return await self._refused(request, error, tried=tried)
        now = self._gateway().snapshot
        answers = await asyncio.gather(*(self._answer(now, arm, asked) for arm in now.endpoint.arms))
        return await self._page(request, tried=tried, answers=answers)

    async def _answer(self, now: Snapshot, arm: str, asked: Asked) -> Answer:
        caller = Caller(unit=SOURCE, has_unit=False, forced_arm=arm)
        began_s = time.perf_counter()
        try:
            exchange = self._gateway().begin(now, caller, asked)
            async with aclosing(exchange.pieces()) as pieces:
                text = "".join([piece.text async for piece in pieces])
        except HoneError as error:
            return Answer(arm, _in_words(error))
        took_s = time.perf_counter() - began_s
        return Answer(arm, text, exchange.request, took_s, exchange.usage.completion_tokens)

    @property
    def _name(self) -> str:
        return self._gateway().snapshot.endpoint.name

    def _is_open(self, request: Request) -> bool:
        endpoint = self._gateway().snapshot.endpoint
        return is_open(request.cookies.get(cookie_name(endpoint.name)), self._keys, endpoint.salt, time.time())

    def _closed(self, request: Request, why: KeyRefused | BodyRefused | None = None) -> Response:
        """Return the page that asks for the key, or says that there is none."""
        if why is None:
            try:
                self._keys.check_admin(None)
            except KeyRefused as error:
                why = error
        assert why is not None, "no key is no administrator's"
        said = "" if why.status == 401 else why.what
        return HTMLResponse(closed_page(self._name, _root(request), said), why.status, HEADERS)

    async def _refused(self, request: Request, error: HoneError | KeyRefused | BodyRefused, **more: Any) -> Response:
        """Return the page with the reason why nothing was done."""
        if isinstance(error, HoneError):
            return await self._page(request, trouble=_in_words(error), status=400, **more)
        return await self._page(request, trouble=error.what, status=error.status, **more)

    async def _page(self, request: Request, *, status: int = 200, **more: Any) -> Response:
        return HTMLResponse(console_page(_root(request), await self._state(), **more), status, HEADERS)

    async def _state(self) -> State:
        gateway = self._gateway()
        endpoint, trouble, drift = gateway.snapshot.endpoint, "", None
        try:
            endpoint = await run_in_threadpool(endpoints.read, self._store, endpoint.name)
            drift = await run_in_threadpool(latest, self._store, endpoint.name)
        except HoneError as error:
            trouble = _in_words(error)
        looks, unknown = self._looks.at(endpoint)
        loads = {arm: gateway.meters.recent.load(arm) for arm in endpoint.arms}
        known = " ".join(filter(None, (trouble, unknown)))
        return State(endpoint, frozenset(gateway.snapshot.ready), loads, looks, known, drift)


def _asked(tried: Tried) -> Asked:
    """Return the request for a prompt that was typed in. Raises RequestRefused."""
    body: dict[str, Any] = {"messages": [{"role": "user", "content": tried.prompt}]}
    numbers = {"max_tokens": tried.max_tokens, "temperature": tried.temperature}
    return asked_of(ChatAsked, body | {name: text for name, text in numbers.items() if text})


async def _fields(request: Request) -> Fields:
    """Return a form of one of our own pages. Raises KeyRefused and BodyRefused."""
    refuse_other_origins(request.headers)
    return await form_of(request)


def _epoch(fields: Fields) -> int:
    """Return the epoch of the page that a form was on. Raises UsageError where it has none."""
    text = fields.get(EPOCH, "")
    if not (text.isascii() and text.isdecimal() and len(text) < 16):
        raise UsageError("the form does not say what it was made from", "Load the console again.")
    return int(text)


def _in_words(error: HoneError) -> str:
    return f"{error.what}. {error.remedy}".strip()


def _root(request: Request) -> str:
    return request.scope.get("root_path", "").rstrip("/") + ROOT
