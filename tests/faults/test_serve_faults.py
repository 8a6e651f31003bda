"""What breaks under an endpoint: replicas killed, clients gone. Nothing hangs, nothing that was taken is lost."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import httpx
import psutil
import pytest

from cluster.session import ray_session
from serving.ledger import Ledger
from serving.ledger_rows import Exposure
from serving.proxy import PROXY_ENV
from tests.faults.conftest import leaving_nothing_behind
from tests.integration.test_serve import ADMIN, TURN, Up, served_pair
from tests.tiny import write_base

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]
ARM, INGRESS = "ServeReplica:support--old", "ServeReplica:support:ingress"


@pytest.fixture(autouse=True, scope="module")
def nothing_left_behind() -> Iterator[None]:
    """One Ray serves all tests here, and starts new replicas for those that they kill."""
    with leaving_nothing_behind():
        yield


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    base = write_base(tmp_path_factory.mktemp("base"))
    with (
        ray_session(num_cpus=2, worker_env=PROXY_ENV),
        served_pair(base, tmp_path_factory.mktemp("serving")) as running,
    ):
        yield running


def replicas(title: str) -> list[psutil.Process]:
    """This session's own replicas of an application: children of the Ray that this process started."""
    below = psutil.Process().children(recursive=True)
    return [process for process in below if _title(process).startswith(f"ray::{title}")]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def kill(title: str) -> None:
    (process,) = replicas(title)
    os.kill(process.pid, signal.SIGKILL)


def answered_again(up: Up, timeout_s: float = 60) -> None:
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        try:
            if up.chat(user="again", max_tokens=1).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise AssertionError("no answer any more")


def test_a_killed_arm_gives_503_or_an_answer_and_never_hangs(up: Up):
    seen: list[tuple[int, str, float]] = []
    over = threading.Event()

    def ask(name: int) -> None:
        number = 0
        while not over.is_set():
            number += 1
            began_s = time.monotonic()
            answer = up.chat(user=f"killed {name} {number}", max_tokens=8)
            seen.append((answer.status_code, answer.headers.get("x-hone-arm", ""), time.monotonic() - began_s))

    threads = [threading.Thread(target=ask, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    kill(ARM)
    time.sleep(6)
    over.set()
    for thread in threads:
        thread.join()
    assert {status for status, _, _ in seen} <= {200, 503}
    assert max(took_s for _, _, took_s in seen) < 60
    assert any(arm == "new" for _, arm, _ in seen)
    answered_again(up)


@dataclass
class Callers:
    """Threads that ask one request after another, streamed and not, and what each one got."""

    up: Up
    whole: list[str] = field(default_factory=list)
    """Ids of answers that came whole."""
    broken: list[str] = field(default_factory=list)
    """Ids of streams that ended with an error event."""
    refused: list[httpx.Response] = field(default_factory=list)
    """What was no 200."""
    took_s: list[float] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def during(self, fault: Callable[[], None], after_s: float = 8) -> None:
        """Ask for a second, let ``fault`` happen, and go on asking."""
        kinds = (self._ask, self._ask, self._stream, self._stream, self._retry)
        threads = [threading.Thread(target=self._again, args=(kind,)) for kind in kinds]
        for thread in threads:
            thread.start()
        time.sleep(1)
        fault()
        time.sleep(after_s)
        self.over.set()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), "a caller hangs"

    def _again(self, ask: Callable[[dict[str, object]], None]) -> None:
        number = 0
        while not self.over.is_set():
            number += 1
            began_s = time.monotonic()
            ask({"messages": TURN, "user": f"{ask.__name__} {number}", "max_tokens": 100})
            self.took_s.append(time.monotonic() - began_s)

    def _ask(self, body: dict[str, object]) -> None:
        answer = self.up.chat(**body)
        if answer.status_code == 200:
            self.whole.append(answer.json()["id"])
        else:
            self.refused.append(answer)

    def _stream(self, body: dict[str, object]) -> None:
        url = f"{self.up.url}/v1/chat/completions"
        with httpx.stream("POST", url, json=body | {"stream": True, "n": 2}, timeout=60) as answer:
            if answer.status_code != 200:
                answer.read()
                self.refused.append(answer)
                return
            lines = [line for line in answer.iter_lines() if line]
        request = answer.headers["x-hone-request-id"]
        if lines[-1] == "data: [DONE]":
            self.whole.append(request)
        else:
            assert json.loads(lines[-1].removeprefix("data: "))["error"]["type"] == "service_unavailable"
            self.broken.append(request)

    def _retry(self, body: dict[str, object]) -> None:
        """Ask with OpenAI's own client, which tries again by itself what may be tried again."""
        client = self.up.client().with_options(max_retries=8)
        client.chat.completions.create(model="support", messages=TURN, user=str(body["user"]), max_tokens=5)


def test_an_ingress_killed_under_load_gives_errors_to_retry_and_every_request_is_in_the_ledger(up: Up):
    began_s = time.time()
    callers = Callers(up)
    callers.during(lambda: kill(INGRESS))
    assert callers.broken or callers.refused, "somebody was being answered"
    for answer in callers.refused:
        assert answer.status_code in (429, 503), answer.text
        assert answer.headers["retry-after"]
        assert answer.json()["error"]["type"] in ("rate_limit_exceeded", "service_unavailable")
    assert max(callers.took_s) < 30
    answered_again(up)
    wanted = dict.fromkeys(callers.whole, "ok") | dict.fromkeys(callers.broken, "lost")
    found: dict[str, str] = {}
    deadline_s = time.monotonic() + 20
    while not wanted.items() <= found.items() and time.monotonic() < deadline_s:
        time.sleep(0.5)
        ledger = Ledger.open(up.settings)
        found = {row.request: row.status for row in ledger.exposures("support", since_s=began_s)}
        ledger.close()
    assert {request: found.get(request) for request in wanted} == wanted
    assert "lost" in found.values(), "what was under way when it was killed"


def test_a_killed_ingress_comes_back_with_the_endpoints_state(up: Up):
    from serving.traffic import rollback, split

    split("support", {"old": 0, "new": 100}, up.settings)
    time.sleep(1)
    epoch = up.chat(user="x").headers["x-hone-epoch"]
    kill(INGRESS)
    answered_again(up)
    again = [up.chat(user=f"after {number}") for number in range(10)]
    assert {(answer.headers["x-hone-arm"], answer.headers["x-hone-epoch"]) for answer in again} == {("new", epoch)}
    rollback("support", up.settings)


def test_what_an_ingress_took_before_it_was_killed_is_in_the_ledger(up: Up):
    time.sleep(1)
    said = [up.chat(user=f"kept {number}", max_tokens=1).headers["x-hone-request-id"] for number in range(20)]
    kill(INGRESS)
    answered_again(up)
    kept: set[str] = set()
    deadline_s = time.monotonic() + 20
    while time.monotonic() < deadline_s:
        ledger = Ledger.open(up.settings)
        kept = {row.request for row in ledger.exposures("support")}
        ledger.close()
        if kept >= set(said):
            return
        time.sleep(0.5)
    raise AssertionError(f"{len(set(said) - kept)} exposures are missing")


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_is_recorded_and_its_place_is_free(up: Up, stream: bool):
    body = {"messages": [{"role": "user", "content": "please"}], "max_tokens": 100, "stream": stream, "n": 4}
    began_s, url = time.time(), f"{up.url}/v1/chat/completions"
    if stream:
        with httpx.stream("POST", url, json=body, timeout=30) as answer:
            next(answer.iter_lines())
    else:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(url, json=body, timeout=0.05)
    for arm in ("old", "new"):
        headers = {"x-hone-arm": arm, "authorization": f"Bearer {ADMIN}"}
        assert up.chat(headers=headers, max_tokens=1).status_code == 200
    deadline_s = time.monotonic() + 20
    rows: list[Exposure] = []
    while time.monotonic() < deadline_s and not rows:
        time.sleep(0.5)
        ledger = Ledger.open(up.settings)
        rows = [row for row in ledger.exposures("support", since_s=began_s) if not row.forced]
        ledger.close()
    (row,) = rows
    assert row.status == "cancelled"
    assert row.tokens_out < 400
