"""Releases behind a real endpoint on a local Ray Serve, asked by OpenAI's own client."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from cluster.cli import main
from cluster.errors import RunFailed, UsageError
from cluster.ports import free_port
from cluster.progress import Progress
from cluster.serve_file import load_serve
from cluster.session import Settings
from cluster.store import Store
from serving import endpoint as endpoints
from serving import traffic
from serving.bodies import MOST_BODY_BYTES
from serving.callers import Keys, hashed
from serving.deploy import Options, bring_up, take_down
from serving.engine import Limits
from tests.tiny import write_base

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(300)]
ADMIN = "admin-key-of-the-tests"
FILE = """
endpoint: support
log: text
arms:
  old: {{release: "base:{old}", weight: 50, generation: {{max_tokens: 8}}}}
  new: {{release: "base:{new}", weight: 50, generation: {{max_tokens: 8}}}}
experiment: {{name: v2, control: old, horizon_h: 0.0003}}
"""
TURN: Any = [{"role": "user", "content": "please help the invoice"}]


@dataclass(frozen=True)
class Up:
    """A running endpoint."""

    url: str
    home: Path
    settings: Settings
    options: Options
    file: Path

    def client(self, key: str = "none", **more: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60, **more)

    def chat(self, **body: Any) -> httpx.Response:
        headers = body.pop("headers", {})
        return httpx.post(
            f"{self.url}/v1/chat/completions", json={"messages": TURN} | body, headers=headers, timeout=60
        )

    def change(self, text: str) -> Any:
        path = self.file.with_name("changed.yaml")
        path.write_text(text)
        return bring_up(load_serve(str(path)), self.settings, self.options, Progress(StringIO()))


@contextmanager
def served_pair(base: Path, directory: Path, db: str | None = None) -> Generator[Up]:
    """Two arms of different tiny models behind an endpoint, in the Ray of this process."""
    from ray import serve

    other = write_base(directory / "other", seed=1)
    file = directory / "serve.yaml"
    file.write_text(FILE.format(old=base, new=other))
    environment = {"HONE_HOME": str(directory / "home")} | ({"HONE_DB": db} if db else {})
    settings = Settings.from_env(environment, directory)
    limits = Limits(max_running=4, max_waiting=4)
    options = Options(port=free_port(), limits=limits, keys=Keys(admin=frozenset([hashed(ADMIN)])))
    try:
        bring_up(load_serve(str(file)), settings, options, Progress(StringIO()))
        yield Up(f"http://127.0.0.1:{options.port}", directory / "home", settings, options, file)
        take_down("support")
        assert serve.status().applications == {}
    finally:
        serve.shutdown()


@pytest.fixture(scope="module")
def up(ray_cluster: None, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with served_pair(tiny_base, tmp_path_factory.mktemp("serving")) as running:
        yield running


@pytest.fixture
def home(up: Up, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HONE_HOME", str(up.home))
    return up.home


def test_openais_client_chats_streams_and_lists_models(up: Up):
    client = up.client()
    whole = client.chat.completions.create(model="support", messages=TURN, user="ann", seed=1, logprobs=True)
    assert whole.usage is not None
    assert 1 <= whole.usage.completion_tokens <= 8
    assert whole.choices[0].finish_reason in ("stop", "length")
    assert whole.choices[0].logprobs is not None
    stream = client.chat.completions.create(
        model="support",
        messages=TURN,
        user="ann",
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    plain = client.completions.create(model="support", prompt="please help", max_tokens=3, n=2)
    assert len(plain.choices) == 2
    assert [model.id for model in client.models.list()] == ["support"]
    raw = client.chat.completions.with_raw_response.create(model="support", messages=TURN, user="ann")
    assert raw.headers["x-hone-experiment"] == "v2"
    assert raw.headers["x-hone-request-id"] == raw.parse().id
    with pytest.raises(openai.BadRequestError, match="max_tokens"):
        client.chat.completions.create(model="support", messages=TURN, max_tokens=127)
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="other", messages=TURN)


def test_feedback_reaches_the_verdict(up: Up, home: Path, capsys: pytest.CaptureFixture[str]):
    for user in range(60):
        answer = up.chat(user=f"verdict {user}", max_tokens=1)
        good = answer.headers["x-hone-arm"] == "new" if user % 4 else user % 8 == 0
        said = {"request_id": answer.headers["x-hone-request-id"], "value": good}
        assert httpx.post(f"{up.url}/v1/feedback", json=said, timeout=30).status_code == 200
    deadline_s = time.monotonic() + 30
    while True:
        assert main(["verdict", "v2", "--json"]) == 0
        found = json.loads(capsys.readouterr().out.splitlines()[-1])
        if sum(arm["units"] for arm in found["arms"].values()) >= 60 or time.monotonic() > deadline_s:
            break
        time.sleep(1)
    assert {"experiment", "arms", "effect", "srm", "guardrails", "decision", "reason"} <= found.keys()
    assert sum(arm["units"] for arm in found["arms"].values()) >= 60
    assert found["srm"]["ok"]
    assert found["arms"]["new"]["mean"] > found["arms"]["old"]["mean"]
    assert main(["verdict", "v2"]) == 0
    assert "effect of new" in capsys.readouterr().out


def test_a_split_is_live_within_a_second_and_no_request_fails(up: Up, home: Path):
    seen: list[tuple[float, int, str, str]] = []
    over = threading.Event()

    def ask(name: int) -> None:
        with httpx.Client(timeout=60) as client:
            number = 0
            while not over.is_set():
                number += 1
                body = {"messages": TURN, "user": f"split {name} {number}", "max_tokens": 2}
                answer = client.post(f"{up.url}/v1/chat/completions", json=body)
                headers = answer.headers
                seen.append((time.time(), answer.status_code, headers["x-hone-arm"], headers["x-hone-epoch"]))

    threads = [threading.Thread(target=ask, args=(name,)) for name in range(2)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(1)
        assert main(["split", "support", "old=0", "new=100"]) == 0
        changed_s = time.time()
        time.sleep(2.5)
    finally:
        over.set()
        for thread in threads:
            thread.join()
        assert main(["rollback", "support"]) == 0
    assert {status for _, status, _, _ in seen} == {200}
    epochs = [epoch for _, _, _, epoch in seen]
    first_s = next(at for at, _, _, epoch in seen if epoch == max(epochs, key=int))
    assert first_s - changed_s < 1.0
    assert {arm for at, _, arm, _ in seen if at > changed_s + 1.5} == {"new"}


def test_an_administrator_forces_an_arm(up: Up):
    for arm in ("old", "new"):
        headers = {"x-hone-arm": arm, "authorization": f"Bearer {ADMIN}"}
        assert up.chat(headers=headers).headers["x-hone-arm"] == arm
    assert up.chat(headers={"x-hone-arm": "new"}).status_code == 401


def test_an_overloaded_arm_refuses_and_recovers(up: Up):
    statuses: list[int] = []

    def ask(user: int) -> None:
        answer = up.chat(user=f"load {user}", max_tokens=60)
        statuses.append(answer.status_code)
        if answer.status_code != 200:
            assert answer.headers["retry-after"]
            assert answer.json()["error"]["type"] in ("rate_limit_exceeded", "service_unavailable")

    threads = [threading.Thread(target=ask, args=(user,)) for user in range(80)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) <= {200, 429, 503}
    assert statuses.count(200) >= 8
    assert statuses.count(429) > 0
    assert up.chat().status_code == 200


def test_a_third_arm_joins_and_leaves_without_touching_the_others(up: Up, home: Path, tiny_base: Path):
    before = up.change(up.file.read_text())
    third = up.file.read_text().replace(
        "experiment:", f'  third: {{release: "base:{tiny_base}", weight: 100}}\nexperiment:'
    )
    now = up.change(third)
    assert {arm.application for arm in before.arms.values()} < {arm.application for arm in now.arms.values()}
    time.sleep(1)
    assert {up.chat(user=f"third {n}").headers["x-hone-arm"] for n in range(30)} == {"old", "new", "third"}
    after = up.change(up.file.read_text())
    assert set(after.arms) == {"old", "new"}
    time.sleep(1)
    assert up.chat().status_code == 200


def test_an_experiment_keeps_its_arms_and_rules(up: Up, tmp_path: Path):
    text = up.file.read_text()
    with pytest.raises(UsageError, match="horizon_h"):
        up.change(text.replace("horizon_h: 0.0003", "horizon_h: 1"))
    other = write_base(tmp_path / "third", seed=2)
    with pytest.raises(UsageError, match="the arm new"):
        up.change(re.sub(r'(new: {release: "base:)[^"]*', rf"\g<1>{other}", text))


def epoch_of(page: str) -> str:
    """The epoch that a console's forms were made from."""
    found = re.search(r'name="epoch" value="([0-9]+)"', page)
    assert found is not None
    return found[1]


def test_an_administrator_tries_both_arms_and_moves_traffic_in_the_console(up: Up):
    with httpx.Client(base_url=f"{up.url}/console", timeout=60, follow_redirects=True) as browser:
        assert browser.get("").status_code == 401
        assert "ready" in browser.post("/open", data={"key": ADMIN}).text
        tried = browser.post("/try", data={"prompt": "please help", "max_tokens": "3"}).text
        requests = set(re.findall(r'name="score:([^"]+)"', tried))
        assert len(requests) == 2, "both arms answered"
        assert "The scores are kept." in browser.post("/score", data={f"score:{requests.pop()}": "1"}).text
        moved = browser.post("/split", data={"epoch": epoch_of(tried), "weight:old": "0", "weight:new": "9"}).text
        assert "The weights are set." in moved
        time.sleep(1)
        assert {up.chat(user=f"user {n}").headers["x-hone-arm"] for n in range(4)} == {"new"}
        assert "The last change is taken back." in browser.post("/rollback", data={"epoch": epoch_of(moved)}).text


def test_what_cannot_be_asked_is_refused_through_the_proxy_and_the_next_is_answered(up: Up):
    def sent(body: bytes, **headers: str) -> httpx.Response:
        return httpx.post(f"{up.url}/v1/chat/completions", content=body, headers=headers, timeout=30)

    assert sent(b"x" * (MOST_BODY_BYTES + 1)).status_code == 413
    assert sent(b'{"messages": [').status_code == 400
    calls = [{"role": "assistant", "tool_calls": 5}]
    assert sent(json.dumps({"messages": calls}).encode()).status_code == 400
    forced = {"x-hone-arm": "new", "authorization": "Bearer " + "w" * 20}
    assert sent(json.dumps({"messages": TURN}).encode(), **forced).status_code == 403
    for refused in (sent(b"[]"), sent(b"{}")):
        assert refused.status_code == 400
        assert refused.json()["error"]["type"] == "invalid_request_error"
        assert refused.headers["x-hone-request-id"]
    assert up.chat(user="after").status_code == 200


def test_serving_again_keeps_weights_that_were_set_meanwhile(up: Up):
    traffic.split("support", {"old": 20.0}, up.settings)
    assert up.change(up.file.read_text()).weights == {"old": 20.0, "new": 50.0}
    changed = up.change(up.file.read_text().replace("weight: 50", "weight: 40", 1))
    assert changed.weights == {"old": 40.0, "new": 50.0}, "what the file changes is changed"
    assert up.change(up.file.read_text()).weights == {"old": 50.0, "new": 50.0}


@pytest.fixture
def with_a_broken_arm(up: Up, tmp_path: Path, tiny_base: Path) -> str:
    """The serve file with one more arm, whose weights are cut off."""
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in tiny_base.iterdir():
        (broken / path.name).write_bytes(path.read_bytes()[: 100 if path.suffix == ".safetensors" else None])
    return up.file.read_text().replace("experiment:", f'  bad: {{release: "base:{broken}", weight: 1}}\nexperiment:')


def test_what_a_person_sets_while_an_arm_is_tried_stays_when_it_fails(up: Up, with_a_broken_arm: str):
    setting = threading.Timer(2, traffic.split, ("support", {"old": 70.0}, up.settings))
    setting.start()
    with pytest.raises(RunFailed, match="bad"):
        up.change(with_a_broken_arm)
    setting.join()
    assert endpoints.read(Store(up.settings.home), "support").weights["old"] == 70.0
    traffic.split("support", {"old": 50.0}, up.settings)


def test_a_broken_release_is_rolled_back_by_itself(up: Up, with_a_broken_arm: str):
    from ray import serve

    epoch = endpoints.read(Store(up.settings.home), "support").epoch
    with pytest.raises(RunFailed, match="bad"):
        up.change(with_a_broken_arm)
    time.sleep(1)
    answer = up.chat()
    assert (answer.status_code, int(answer.headers["x-hone-epoch"])) == (200, epoch)
    assert set(serve.status().applications) == {"support", "support--old", "support--new"}
