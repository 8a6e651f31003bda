"""An endpoint of its own process through its life: a training beside it, arms removed and replaced, and its end.

While any of that happens somebody is being answered, and that answer ends whole.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from cluster.ports import free_port
from tests.tiny import ticket_rows, write_base, write_jsonl

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]
ADMIN = "admin-key-of-the-tests"
TURN = [{"role": "user", "content": "please help the invoice"}]
LONG, LAYERS = 8_000, 4
"""Tokens of an answer, and its model's layers: it takes longer than a command does to bring another arm up."""
SWITCHED_S = 1.0
"""After the first answer of a new epoch an arm that is gone is being drained."""
FILE = """
endpoint: life
arms:
  steady: {{release: "base:{steady}", weight: 50, generation: {{max_tokens: 4}}}}
  writer: {{release: "base:{writer}", weight: 50, generation: {{max_tokens: 4}}}}
"""


def write_tireless_base(path: Path, seed: int) -> Path:
    """A small model that reads long texts, takes half a minute for one, and never ends one."""
    config: Any = AutoConfig.from_pretrained(write_base(path, seed=seed))
    config.max_position_embeddings, config.num_hidden_layers = 2 * LONG, LAYERS
    torch.manual_seed(seed)
    model: Any = AutoModelForCausalLM.from_config(config)
    model.lm_head.weight.data[0] = 0.0
    model.save_pretrained(path)
    return path


@dataclass(eq=False)
class Streaming(threading.Thread):
    """A caller who reads one long answer of an arm, word by word."""

    url: str
    arm: str
    events: list[dict[str, Any]] = field(default_factory=list)
    is_done: bool = False
    ended_s: float = 0.0

    def __post_init__(self) -> None:
        super().__init__(daemon=True)
        self.begun = threading.Event()
        self.start()
        assert self.begun.wait(30), "no answer begins"

    def run(self) -> None:
        headers = {"authorization": f"Bearer {ADMIN}", "x-hone-arm": self.arm}
        body = {"messages": TURN, "max_tokens": LONG, "stream": True, "stream_options": {"include_usage": True}}
        with httpx.stream("POST", f"{self.url}/v1/chat/completions", json=body, headers=headers, timeout=60) as answer:
            for line in answer.iter_lines():
                if line == "data: [DONE]":
                    self.is_done, self.ended_s = True, time.monotonic()
                elif line:
                    self.events.append(json.loads(line.removeprefix("data: ")))
                    self.begun.set()

    @property
    def text(self) -> str:
        return "".join(c["delta"].get("content", "") for event in self.events for c in event["choices"])

    def whole(self) -> str:
        """The text, once it is known to have come whole."""
        self.join(200)
        assert self.is_done
        assert self.events[-1]["usage"]["completion_tokens"] == LONG
        return self.text


@dataclass(frozen=True)
class Life:
    """An endpoint that runs in the background, and the commands of another terminal."""

    home: Path
    url: str
    file: Path
    bases: dict[str, Path]

    def hone(self, *arguments: str) -> tuple[int, str, str]:
        environment = os.environ | {"HONE_HOME": str(self.home), "HONE_ADMIN_KEY": ADMIN}
        done = subprocess.run(
            [sys.executable, "-m", "cluster.cli", *arguments], env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    def serve(self, text: str, *more: str) -> None:
        self.file.write_text(text)
        code, _, err = self.hone("serve", str(self.file), *more)
        assert code == 0, err

    def chat(self, user: str, **headers: str) -> httpx.Response:
        body = {"messages": TURN, "user": user}
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, headers=headers, timeout=60)

    @property
    def keeper(self) -> psutil.Process:
        kept = json.loads((self.home / "clusters" / "life.json").read_text())
        return psutil.Process(kept["owner"]["pid"])

    @contextmanager
    def asked(self) -> Generator[list[tuple[float, httpx.Response]]]:
        """Let users come one after another meanwhile; yields when each was there and what it got."""
        answers: list[tuple[float, httpx.Response]] = []
        over = threading.Event()

        def come() -> None:
            while not over.is_set():
                came_s = time.monotonic()
                answers.append((came_s, self.chat(f"user {len(answers)}")))
                time.sleep(0.05)

        thread = threading.Thread(target=come, daemon=True)
        thread.start()
        try:
            yield answers
        finally:
            over.set()
            thread.join(60)


@pytest.fixture(scope="module")
def life(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    folder, port = tmp_path_factory.mktemp("life"), free_port()
    bases = {"steady": tiny_base}
    bases |= {name: write_tireless_base(folder / name, seed) for seed, name in enumerate(("writer", "other"))}
    life = Life(folder / "home", f"http://127.0.0.1:{port}", folder / "serve.yaml", bases)
    life.serve(FILE.format(**bases), "--port", str(port), "--detach")
    yield life
    if (life.home / "clusters" / "life.json").exists():
        life.hone("stop", "life")


def test_a_training_beside_two_arms_ends_while_requests_are_answered(life: Life):
    write_jsonl(life.file.with_name("tickets.jsonl"), ticket_rows(300))
    job = life.file.with_name("job.yaml")
    job.write_text(
        f"name: tickets\nbase: {life.bases['steady']}\ndata: tickets.jsonl\n"
        "train: {method: full, epochs: 2, batch_size: 16, max_length: 64}\nevaluate: {max_new_tokens: 8}\n"
        'gate: ["p95_latency_s <= 30", "tokens_per_s >= 1"]\nspeed: {requests: 20, warm_up: 4, concurrency: 4}\n'
    )
    code, _, err = life.hone("check", str(job), "--beside", "life", "--set", "cluster.workers=2")
    assert code == 4, err
    assert "room for 1" in err
    keeper, workers = life.keeper, set[int]()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.2):
            for process in keeper.children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    workers.update([process.pid] if "RayTrainWorker" in " ".join(process.cmdline()) else [])

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    with life.asked() as answers:
        code, out, err = life.hone("train", str(job), "--beside", "life", "--json")
    over.set()
    looking.join()
    assert code == 0, err
    result = json.loads(out.splitlines()[-1])
    assert result["version"] == "tickets@1"
    speed = json.loads((life.home / "runs" / result["run"] / "speed.json").read_text())
    assert [rule["left"] for rule in result["gate"]["rules"]] == [
        speed["metrics"]["p95_latency_s"],
        speed["metrics"]["tokens_per_s"],
    ]
    assert speed["size"] == {"num_cpus": 0.05}, "measured as an arm is served here"
    assert workers, "its workers are the endpoint's Ray's"
    assert {answer.status_code for _, answer in answers} == {200}
    assert {answer.headers["x-hone-arm"] for _, answer in answers} == {"steady", "writer"}


def assert_drained(life: Life, streaming: Streaming, file: str) -> list[tuple[float, httpx.Response]]:
    """Serve another file while an answer is written; return what others got once the arm was no longer there."""
    with life.asked() as answers:
        life.serve(file)
        served_s = time.monotonic()
    assert streaming.whole()
    assert {answer.status_code for _, answer in answers} == {200}
    epochs = [int(answer.headers["x-hone-epoch"]) for _, answer in answers]
    late = [found for epoch, found in zip(epochs, answers, strict=True) if epoch == max(epochs)]
    assert max(epochs) > min(epochs)
    assert late[0][0] + SWITCHED_S < streaming.ended_s < served_s, "drained, and before the command returns"
    return late


def test_an_arm_that_is_replaced_or_removed_ends_the_answer_that_it_writes(life: Life):
    replaced = FILE.format(**life.bases | {"writer": life.bases["other"]})
    old = Streaming(life.url, "writer")
    late = assert_drained(life, old, replaced)
    assert {answer.headers["x-hone-arm"] for _, answer in late} == {"steady", "writer"}
    new = Streaming(life.url, "writer")
    late = assert_drained(life, new, replaced.replace("  writer", "  # writer"))
    assert new.text != old.text, "another release wrote it"
    assert {answer.headers["x-hone-arm"] for _, answer in late} == {"steady"}
    forced = {"authorization": f"Bearer {ADMIN}", "x-hone-arm": "writer"}
    assert life.chat("late", **forced).status_code == 400
    life.serve(FILE.format(**life.bases))


def test_an_endpoint_that_is_stopped_ends_the_answer_that_it_writes(life: Life):
    keeper = life.keeper
    family = [keeper, *keeper.children(recursive=True)]
    streaming = Streaming(life.url, "writer")
    stopping = threading.Thread(target=life.hone, args=("stop", "life"))
    stopping.start()
    turned_away: list[httpx.Response] = []
    while stopping.is_alive() and not turned_away:
        time.sleep(0.2)
        try:
            answer = life.chat("late")
        except httpx.TransportError:
            break  # nobody listens any more
        turned_away += [answer] if answer.status_code != 200 else []
    assert streaming.is_alive(), "it is being written when others are turned away"
    (answer,) = turned_away
    assert (answer.status_code, answer.json()["error"]["type"]) == (503, "service_unavailable")
    assert answer.headers["retry-after"]
    streaming.whole()
    stopping.join(60)
    assert not (life.home / "clusters" / "life.json").exists()
    assert not [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
