"""The console's routes: an administrator looks at an endpoint, changes its traffic, and tries prompts on every arm.

What it changes goes the way that commands go (``serving.traffic``), what it asks the way that requests go, as forced
ones; nothing here has a rule of its own. The verdict is worked out in a thread, and no more often than keeps a replica
free for requests.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from cluster.arguments import arm_weight
from cluster.errors import HoneError, RequestRefused
from cluster.session import Settings
from cluster.store import Store
from serving import endpoint as endpoints
from serving.bodies import form_of
from serving.callers import Caller, KeyRefused, Keys
from serving.console_page import SCORED, WEIGHT, Answer, State, Tried, closed_page, console_page, live_part
from serving.console_session import LASTS_S, cookie_name, is_open, opened, refuse_other_origins
from serving.gateway import Gateway, Snapshot
from serving.ledger_rows import Outcome
from serving.openai_requests import Asked, ChatAsked, asked_of
from serving.results import verdicts_over_time
from serving.traffic import promoted, rollback, split
from serving.verdict import Verdict

ROOT = "/console"
SOURCE, SCORE = "console", "console_score"
LEAST_REST_S = 5.0
REST = 20
"""A verdict that took so long is worked out again after this many times as long."""
HEADERS = {"Cache-Control": "no-store", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer"}
DONE = {
    "split": "The weights are set.",
    "promote": "The arm is promoted: it has all traffic.",
    "rollback": "The last change is taken back.",
    "score": "The scores are kept.",
}
Fields = dict[str, str]


class Verdicts:
    """An experiment's verdicts by time, worked out when asked for and not while the last are fresh."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = asyncio.Lock()
        self._of: tuple[str, str] | None = None
        self._found: Sequence[tuple[float, Verdict]] = ()
        self._rest_until_s = 0.0
        self.trouble = ""

    async def of(self, endpoint: endpoints.Endpoint) -> Sequence[tuple[float, Verdict]]:
        """Return the verdicts, none without an experiment; the last known ones while the ledger does not answer."""
        if endpoint.experiment is None:
            return ()
        async with self._lock:
            asked = (endpoint.name, endpoint.experiment.name)
            if asked != self._of or time.monotonic() > self._rest_until_s:
                self._of, self._found = asked, self._found if asked == self._of else ()
                await self._work_out(endpoint)
            return self._found

    async def _work_out(self, endpoint: endpoints.Endpoint) -> None:
        began_s = time.monotonic()
        try:
            self._found = await run_in_threadpool(verdicts_over_time, endpoint, self._settings, time.time())
            self.trouble = ""
        except HoneError as error:
            self.trouble = error.what
        took_s = time.monotonic() - began_s
        self._rest_until_s = time.monotonic() + max(LEAST_REST_S, REST * took_s)


class Console:
    """One ingress replica's console."""

    def __init__(self, gateway: Callable[[], Gateway], keys: Keys, settings: Settings) -> None:
        self._gateway, self._keys, self._settings = gateway, keys, settings
        self._verdicts = Verdicts(settings)

    def router(self) -> APIRouter:
        """Return the routes below ``/console``."""
        router = APIRouter()
        router.add_api_route(ROOT, self._show, methods=["GET"])
        router.add_api_route(f"{ROOT}/live", self._live, methods=["GET"])
        router.add_api_route(f"{ROOT}/open", self._open, methods=["POST"])
        router.add_api_route(f"{ROOT}/close", self._close, methods=["POST"])
        actions = {"split": self._split, "promote": self._promote, "rollback": self._rollback, "score": self._score}
        for name, act in actions.items():
            router.add_api_route(f"{ROOT}/{name}", self._acting(name, act), methods=["POST"])
        router.add_api_route(f"{ROOT}/try", self._try, methods=["POST"])
        return router

    async def _show(self, request: Request) -> Response:
        if (closed := self._closed(request)) is not None:
            return closed
        return await self._page(request, said=DONE.get(request.query_params.get("done", ""), ""))

    async def _live(self, request: Request) -> Response:
        if not self._is_open(request):
            return Response("the session has ended", 401, HEADERS)
        return HTMLResponse(live_part(await self._state()), headers=HEADERS)

    async def _open(self, request: Request) -> Response:
        refuse_other_origins(request.headers)
        fields = await form_of(request)
        now = self._gateway().snapshot
        try:
            self._keys.check_admin(fields.get("key") or None)
        except KeyRefused as error:
            return HTMLResponse(closed_page(now.endpoint.name, _root(request), error.what), error.status, HEADERS)
        answer = RedirectResponse(_root(request), 303)
        cookie = opened(self._keys, now.endpoint.salt, time.time())
        answer.set_cookie(
            cookie_name(now.endpoint.name),
            cookie,
            max_age=LASTS_S,
            path=_root(request),
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    async def _close(self, request: Request) -> Response:
        refuse_other_origins(request.headers)
        answer = RedirectResponse(_root(request), 303)
        answer.delete_cookie(cookie_name(self._gateway().snapshot.endpoint.name), path=_root(request))
        return answer

    def _acting(
        self, name: str, act: Callable[[Fields], Awaitable[object]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Return the route that does something and shows the page again, with what was done or why it was not."""

        async def route(request: Request) -> Response:
            refuse_other_origins(request.headers)
            if (closed := self._closed(request)) is not None:
                return closed
            try:
                await act(await form_of(request))
            except HoneError as error:
                return await self._page(request, trouble=f"{error.what}. {error.remedy}", status=400)
            return RedirectResponse(f"{_root(request)}?done={name}", 303, HEADERS)

        return route

    async def _split(self, fields: Fields) -> None:
        given = {name.removeprefix(WEIGHT): text for name, text in fields.items() if name.startswith(WEIGHT)}
        weights = dict(arm_weight(f"{arm}={text}") for arm, text in given.items())
        await run_in_threadpool(split, self._name, weights, self._settings)

    async def _promote(self, fields: Fields) -> None:
        endpoint = await run_in_threadpool(endpoints.read, Store(self._settings.home), self._name)
        arm = fields.get("arm", "")
        await run_in_threadpool(promoted, endpoint, arm, "asked for by name", self._settings)

    async def _rollback(self, _fields: Fields) -> None:
        await run_in_threadpool(rollback, self._name, self._settings)

    async def _score(self, fields: Fields) -> None:
        scores = {name.removeprefix(SCORED): text for name, text in fields.items() if name.startswith(SCORED)}
        if not scores or not set(scores.values()) <= {"0", "1"}:
            raise RequestRefused("no answer was scored", "Choose good or bad for one of them at least.")
        for request, text in scores.items():
            row = Outcome(request=request[:64], time_s=time.time(), name=SCORE, value=float(text), source=SOURCE)
            await run_in_threadpool(self._gateway().keep, row)

    async def _try(self, request: Request) -> Response:
        refuse_other_origins(request.headers)
        if (closed := self._closed(request)) is not None:
            return closed
        fields = await form_of(request)
        body: dict[str, Any] = {"messages": [{"role": "user", "content": fields.get("prompt", "")}]}
        try:
            body |= {name: float(fields[name]) for name in ("temperature",) if fields.get(name)}
            body |= {name: int(fields[name]) for name in ("max_tokens",) if fields.get(name)}
            asked = asked_of(ChatAsked, body)
        except ValueError:
            return await self._page(request, trouble="a number was expected", status=400)
        except HoneError as error:
            return await self._page(request, trouble=f"{error.what}. {error.remedy}", status=400)
        now = self._gateway().snapshot
        answers = await asyncio.gather(*(self._answer(now, arm, asked) for arm in now.endpoint.arms))
        return await self._page(request, tried=Tried(asked.text, answers))

    async def _answer(self, now: Snapshot, arm: str, asked: Asked) -> Answer:
        caller = Caller(unit=SOURCE, has_unit=False, forced_arm=arm)
        began_s = time.perf_counter()
        try:
            exchange = self._gateway().begin(now, caller, asked)
            async with aclosing(exchange.pieces()) as pieces:
                text = "".join([piece.text async for piece in pieces])
        except HoneError as error:
            return Answer(arm, f"{error.what}. {error.remedy}")
        took_s = time.perf_counter() - began_s
        return Answer(arm, text, exchange.request, took_s, exchange.usage.completion_tokens)

    @property
    def _name(self) -> str:
        return self._gateway().snapshot.endpoint.name

    def _is_open(self, request: Request) -> bool:
        endpoint = self._gateway().snapshot.endpoint
        return is_open(request.cookies.get(cookie_name(endpoint.name)), self._keys, endpoint.salt, time.time())

    def _closed(self, request: Request) -> Response | None:
        """Return the page that asks for the key; None where the session is open."""
        if self._is_open(request):
            return None
        if not self._keys.admin:
            try:
                self._keys.check_admin(None)
            except KeyRefused as error:
                return HTMLResponse(closed_page(self._name, _root(request), error.what), error.status, HEADERS)
        return HTMLResponse(closed_page(self._name, _root(request)), 401, HEADERS)

    async def _page(
        self, request: Request, *, tried: Tried | None = None, said: str = "", trouble: str = "", status: int = 200
    ) -> Response:
        shown = console_page(_root(request), await self._state(), tried, said, trouble)
        return HTMLResponse(shown, status, HEADERS)

    async def _state(self) -> State:
        gateway = self._gateway()
        endpoint = await run_in_threadpool(endpoints.read, Store(self._settings.home), gateway.snapshot.endpoint.name)
        verdicts = await self._verdicts.of(endpoint)
        loads = {arm: gateway.meters.recent.load(arm) for arm in endpoint.arms}
        ready = frozenset(gateway.snapshot.ready)
        return State(endpoint, ready, loads, verdicts, time.time(), self._verdicts.trouble)


def _root(request: Request) -> str:
    return request.scope.get("root_path", "").rstrip("/") + ROOT
