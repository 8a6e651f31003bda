"""The console without a cluster: who may open it, what it shows, and that what it changes is changed."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
import uvicorn
from fastapi.responses import HTMLResponse
from starlette.requests import Request
from starlette.responses import Response

from cluster.errors import Overloaded
from cluster.ports import free_port
from cluster.session import Settings
from cluster.store import Store
from serving import console_session
from serving import endpoint as endpoints
from serving.callers import Keys, hashed
from serving.console import Console
from serving.console_page import WORKING
from serving.drift import DRIFT, LATEST
from serving.drift_report import DriftReport, Term
from serving.gateway import Snapshot
from serving.ledger import Ledger
from serving.ledger_rows import Exposure, Outcome
from tests.browser import DARK, Browse, refuse_missing_colours
from tests.endpoints import Local, ToldArm, endpoint
from tests.experiment_rows import exposure, outcome

ADMIN = "a" * 20
KEYS = Keys(admin=frozenset([hashed(ADMIN)]))
HALVES = {"a": 0.5, "b": 0.5}
HOSTILE = "<script>document.title='owned'</script>"


class Administrator:
    """A browser's session with one endpoint's console, one request after another."""

    def __init__(self, settings: Settings, keys: Keys = KEYS, **arms: ToldArm) -> None:
        self.settings = settings
        self.local = Local(endpoint(a=90, b=10), keys, **arms)
        endpoints.write(Store(settings.home), self.local.gateway.snapshot.endpoint)
        self.local.app.include_router(Console(lambda: self.local.gateway, keys, settings).router())
        self.cookies = httpx.Cookies()

    def send(self, method: str, path: str, headers: dict[str, str | bytes] | None = None, **fields: str) -> Any:
        async def sent() -> Any:
            async with self.local.client(cookies=self.cookies) as client:
                form = {"Content-Type": "application/x-www-form-urlencoded"} if fields else {}
                answer = await client.request(
                    method, f"/console{path}", content=urlencode(fields), headers=form | (headers or {})
                )
                self.cookies = client.cookies
                return answer

        return asyncio.run(sent())

    def fields(self, **more: str) -> dict[str, str]:
        """What a form on a fresh page holds besides what is typed in."""
        return {"epoch": str(self.document.epoch), **more}

    def looked(self) -> str:
        """The page once its verdict is known."""
        deadline_s = time.monotonic() + 20
        while WORKING in (page := self.send("GET", "").text) and time.monotonic() < deadline_s:
            time.sleep(0.05)
        return page

    def open(self) -> None:
        assert self.send("POST", "/open", key=ADMIN).status_code == 303

    @property
    def document(self) -> endpoints.Endpoint:
        return endpoints.read(Store(self.settings.home), "support")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.from_env({"HONE_HOME": str(tmp_path)}, tmp_path)


@pytest.fixture
def admin(settings: Settings) -> Administrator:
    found = Administrator(settings)
    found.open()
    return found


def test_nobody_sees_anything_without_the_administrators_key(settings: Settings):
    admin = Administrator(settings)
    assert admin.send("GET", "").status_code == 401
    assert admin.send("GET", "/live").status_code == 401
    assert "m@1" not in admin.send("GET", "").text
    for path in ("/split", "/promote", "/rollback", "/try", "/score"):
        assert admin.send("POST", path, prompt="hello", arm="b", **{"weight:a": "1"}).status_code == 401
    assert admin.send("POST", "/open", key="b" * 20).status_code == 403
    assert admin.send("POST", "/open", {"Origin": "http://elsewhere"}, key=ADMIN).status_code == 403
    assert admin.send("GET", "").status_code == 401
    assert admin.document.epoch == 1
    assert admin.local.rows == []


def test_the_last_look_at_drift_is_one_line(admin: Administrator):
    assert "drift" not in admin.send("GET", "/live").text
    store = Store(admin.settings.home)
    term = Term(term="<b>parcel", direction="live", live=0.3, reference=0.0, weight=9.0)
    report = DriftReport(
        endpoint="support", release="m@1", at_s=0.0, decision="drift", reason="they differ", flagged=True, drift=0.625,
        terms=[term, term.model_copy(update={"term": "invoice", "direction": "reference"})],
    )  # fmt: skip
    store.put_json(report.model_dump(mode="json"), DRIFT, "support", LATEST)
    shown = admin.send("GET", "/live").text
    assert "they differ (AUC 0.625); live prompts have more of: &lt;b&gt;parcel; 1970-01-01" in shown
    undecided = report.model_copy(update={"decision": "undecided", "flagged": False, "drift": None, "reason": "none"})
    store.put_json(undecided.model_dump(mode="json"), DRIFT, "support", LATEST)
    assert "AUC" not in admin.send("GET", "/live").text


def test_without_such_a_key_there_is_no_console_and_it_says_so(settings: Settings):
    answer = Administrator(settings, Keys()).send("GET", "")
    assert answer.status_code == 403
    assert "HONE_ADMIN_KEY" in answer.text


@pytest.mark.parametrize("cookie", ["", "x", "9999999999.", "9999999999." + "0" * 64, "９.0", f"{'9' * 40}.x"])
def test_a_made_up_cookie_opens_nothing(settings: Settings, cookie: str):
    admin = Administrator(settings)
    sent: dict[str, str | bytes] = {"Cookie": f"hone-console-support={cookie}".encode()}
    assert admin.send("GET", "/live", sent).status_code == 401


def test_a_session_ends_by_itself_and_with_its_keys():
    cookie = console_session.opened(KEYS, "salt", 1000.0)
    assert console_session.is_open(cookie, KEYS, "salt", 1000.0 + console_session.LASTS_S - 1)
    assert not console_session.is_open(cookie, KEYS, "salt", 1000.0 + console_session.LASTS_S)
    assert not console_session.is_open(cookie, KEYS, "another", 1000.0)
    assert not console_session.is_open(cookie, Keys(admin=frozenset([hashed("c" * 20)])), "salt", 1000.0)


def test_who_reads_the_store_cannot_make_a_session(monkeypatch: pytest.MonkeyPatch):
    """The salt and the keys' mark lie in files; neither stands in for the keys."""
    assert KEYS.mark not in console_session.opened(KEYS, "salt", 1000.0)
    other = Keys(admin=frozenset([hashed("d" * 20)]))
    monkeypatch.setattr(Keys, "mark", KEYS.mark)
    assert not console_session.is_open(console_session.opened(other, "salt", 1000.0), KEYS, "salt", 1000.0)


def test_a_page_of_another_origin_changes_nothing(admin: Administrator):
    fields = admin.fields(**{"weight:a": "0", "weight:b": "1"})
    assert admin.send("POST", "/split", {"Origin": "http://here:5000"}, **fields).status_code == 403
    assert admin.send("POST", "/split", {"Origin": "null"}, **fields).status_code == 403
    assert admin.document.epoch == 1
    assert admin.send("POST", "/split", {"Origin": "http://here"}, **fields).status_code == 303


def test_it_shows_arms_with_their_share_state_and_load(admin: Administrator):
    assert admin.send("GET", "").headers["x-frame-options"] == "DENY"
    page = admin.looked()
    for found in ("m@1", "m@2", "90.0%", "10.0%", "ready", "Experiment v2", "Too few units"):
        assert found in page, found
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/=]{44}'", page)
    admin.local.gateway.snapshot = Snapshot.of(admin.document, {"a": admin.local.arms["a"]})
    page = admin.send("GET", "").text
    assert "100.0%" in page, "an arm that is not ready has no users"
    assert "not ready" in page


def test_weights_are_set_and_taken_back(admin: Administrator):
    done = admin.send("POST", "/split", **admin.fields(**{"weight:a": "30", "weight:b": "70"}))
    assert (done.status_code, done.headers["location"]) == (303, "/console?done=split")
    assert admin.document.weights == {"a": 30.0, "b": 70.0}
    assert "The weights are set." in admin.send("GET", "?done=split").text
    assert admin.send("POST", "/rollback", **admin.fields()).status_code == 303
    assert admin.document.weights == {"a": 90.0, "b": 10.0}


@pytest.mark.parametrize("act", ["split", "promote", "rollback"])
@pytest.mark.parametrize("epoch", ["1", "", "x"])
def test_nothing_is_changed_from_a_page_that_shows_another_state(admin: Administrator, act: str, epoch: str):
    endpoints.change(Store(admin.settings.home), "support", lambda old: old.weighted({"b": 0}, "ramp", 2.0))
    answer = admin.send("POST", f"/{act}", epoch=epoch, arm="b", **{"weight:b": "70"})
    assert answer.status_code == 400
    assert ("changed meanwhile" if epoch == "1" else "Load the console again") in answer.text
    assert admin.document.weights == {"a": 90.0, "b": 0.0}


def test_an_endpoint_whose_document_is_damaged_is_still_shown(admin: Administrator):
    Path(admin.settings.home, "endpoints", "support.json").write_text("{}")
    page = admin.send("GET", "")
    assert page.status_code == 200
    assert "the endpoint is damaged" in page.text
    assert "90.0%" in page.text


@pytest.mark.parametrize(
    "fields", [{"weight:a": "0", "weight:b": "0"}, {"weight:a": "x"}, {"weight:z": "1"}, {"weight:a": "-1"}]
)
def test_weights_that_cannot_be_are_refused_on_the_page(admin: Administrator, fields: dict[str, str]):
    answer = admin.send("POST", "/split", **admin.fields(**fields))
    assert answer.status_code == 400
    assert 'class="banner error"' in answer.text
    assert admin.document.epoch == 1


def test_every_arm_answers_a_prompt_apart_from_the_experiment_and_is_scored(settings: Settings):
    admin = Administrator(settings, a=ToldArm((HOSTILE,)), b=ToldArm(error=Overloaded("b is full", "Wait.")))
    admin.open()
    page = admin.send("POST", "/try", prompt="the <b>invoice</b>", max_tokens="5", temperature="0.5").text
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page
    assert "b is full" in page
    assert [(row.arm, row.forced, row.status) for row in admin.local.rows] == [("a", True, "ok"), ("b", True, "failed")]
    assert (admin.local.arms["a"].asked[0].max_tokens, admin.local.arms["a"].asked[0].temperature) == (5, 0.5)
    (request,) = set(re.findall(r'name="score:([^"]+)"', page))
    assert admin.send("POST", "/score", **{f"score:{request}": "1"}).status_code == 303
    score = admin.local.rows[-1]
    assert isinstance(score, Outcome)
    assert (score.request, score.name, score.value, score.source) == (request, "console_score", 1.0, "console")
    assert admin.send("POST", "/score").status_code == 400


@pytest.mark.parametrize("fields", [{"max_tokens": "x"}, {"max_tokens": "0"}, {"temperature": "hot"}])
def test_what_cannot_be_asked_is_refused_on_the_page(admin: Administrator, fields: dict[str, str]):
    answer = admin.send("POST", "/try", prompt="hello", **fields)
    assert answer.status_code == 400
    assert 'class="banner error"' in answer.text


def decided_experiment(settings: Settings) -> None:
    """Write four hundred users of two arms, one an hour, of whom the first arm's are served better."""
    began_s = time.time() - 430 * 3600
    rows: list[Exposure | Outcome] = []
    for n in range(400):
        arm, at_s = "ab"[n % 2], began_s + 3600 * n
        rows.append(exposure(f"r{n}", f"u{n}", arm, HALVES, at_s, endpoint="support", experiment="v2", latency_s=0.1))
        rows.append(outcome(f"r{n}", "success", float(n % (7 if arm == "a" else 3) > 0), at_s + 1))
    ledger = Ledger.open(settings)
    ledger.write(rows)
    ledger.close()


def test_the_interval_is_drawn_over_time(admin: Administrator):
    decided_experiment(admin.settings)
    page = admin.looked()
    assert "Effect of b" in page
    assert "no effect" in page
    assert "Units are split as recorded" in page
    assert page.count("<polyline") == 8, "three lines, that of no effect, and their keys"
    assert "by hour" in page


def test_a_ledger_that_does_not_answer_is_named_and_nothing_else_suffers(admin: Administrator):
    Path(admin.settings.home, "ledger.db").write_bytes(b"no database" * 100)
    page = admin.looked()
    while "refused" not in page:
        page = admin.send("GET", "").text
    assert "the ledger&#39;s database refused" in page
    assert "90.0%" in page


TYPING = "<script>document.forms[0].submit()</script>"
NO_SCRIPTS = "default-src 'none'; style-src 'unsafe-inline'"


@contextmanager
def listening(app: Any) -> Generator[str]:
    """Serve an app on a free port of the loopback interface for the block; yield its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=(port := free_port()), log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_browser_opens_it_and_keeps_it_fresh(settings: Settings, browse: Browse, tmp_path: Path, theme: str):
    admin = Administrator(settings)
    decided_experiment(settings)
    fetched: list[str] = []

    @admin.local.app.middleware("http")
    async def noted(request: Request, answer: Any) -> Response:
        """Type the key into the page that asks for it, and change the weights when the live part is first fetched."""
        fetched.append(request.url.path)
        if fetched.count("/console/live") == 1 and request.url.path == "/console/live":
            endpoints.change(
                Store(settings.home), "support", lambda old: old.weighted({"a": 30, "b": 70}, "split", 2.0)
            )
        shown = await answer(request)
        if request.url.path != "/console" or shown.status_code != 401:
            return shown
        page = b"".join([part async for part in shown.body_iterator]).decode()
        page = page.replace('name="key"', f'name="key" value="{ADMIN}"') + TYPING
        return HTMLResponse(page.replace(NO_SCRIPTS, ""), 401, {"Referrer-Policy": shown.headers["Referrer-Policy"]})

    picture = tmp_path / "console.png"
    look = [DARK] if theme == "dark" else []
    with listening(admin.local.app) as url:
        patient = ("--virtual-time-budget=9000", "--window-size=1200,2600", *look)
        seen = browse(f"{url}/console", *patient, "--dump-dom")
        browse(f"{url}/console", *patient, f"--screenshot={picture}")
    assert fetched.count("/console/live") >= 2, fetched
    now, forms = seen.split('id="traffic"')
    assert "70.0%" in now, "the live part is the newest"
    assert 'value="90.0"' in forms, "and what a person types into is left alone"
    refuse_missing_colours(picture, theme, ("panel", "bar-edge", "second", "good-back", "error-back"))
