"""A release's speed: what is counted, what is not, and that a gate rule about it is decided or refused in time."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.errors import JobFileError
from cluster.pipeline import TRAINING
from cluster.speed_spec import SPEED_METRICS, SpeedSpec, names_speed
from serving import speed
from serving.engine import Limits
from serving.generation import GenerationRequest
from serving.speed import Timed, metrics_of, percentile, prompts_of, requests_of, timed
from tests.finished_runs import RUN, finished_run
from tests.served import engine_of, prompts, small_model
from tests.tiny import write_base
from trainers import acceptance
from trainers.gate import Scores, decide
from trainers.gate_rules import parse_rule, refuse_undecidable

SCORES = Scores({"test": {"accuracy": 0.8}}, facts={"p95_latency_s": 1.5, "tokens_per_s": 400.0})
TURN = [{"role": "user", "content": "help"}]


def test_metrics_are_of_single_answers_and_of_all_together():
    answers = [Timed(float(n), n + 0.25, n + 1.0 + n / 100, 10) for n in range(20)]
    found = metrics_of(answers)
    assert set(found) == set(SPEED_METRICS)
    assert found["p50_latency_s"] == pytest.approx(1.09)
    assert found["p95_latency_s"] == pytest.approx(1.18), "of twenty, nineteen take at most that"
    assert found["p95_time_to_first_token_s"] == pytest.approx(0.25)
    assert found["tokens_per_s"] == pytest.approx(200 / 20.19)
    assert found["requests_per_s"] == pytest.approx(20 / 20.19)
    assert percentile([3.0], 95) == percentile([3.0], 1) == 3.0


@dataclass
class Stepping:
    """A clock that goes on by a second whenever it is read."""

    now_s: float = 0.0
    reads: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        self.now_s += 1.0
        self.reads.append(self.now_s)
        return self.now_s


@pytest.mark.parametrize("concurrency", [1, 3])
def test_every_request_is_answered_once_and_as_many_at_once_as_asked(concurrency: int):
    requests = [GenerationRequest(prompt, max_tokens=4) for prompt in prompts([5, 9, 3, 7, 4])]
    most: list[int] = []
    with engine_of(small_model(), Limits(), stop_ids=()) as engine:
        inner = engine.submit

        def submit(request: GenerationRequest) -> Any:
            stream = inner(request)
            at = engine.statistics()
            most.append(len(most) + 1 - at.completed)
            return stream

        engine.submit = submit  # pyright: ignore[reportAttributeAccessIssue] (counts on the way in)
        clock = Stepping()
        answers = asyncio.run(timed(engine, requests, concurrency, clock))
    assert len(answers) == 5
    assert {answer.tokens for answer in answers} == {4}
    assert all(answer.began_s < answer.first_s < answer.ended_s for answer in answers)
    assert len(clock.reads) == 15, "each is timed at its beginning, its first text and its end"
    assert max(most) == concurrency


def test_prompts_come_from_every_test_and_from_all_over_it(tmp_path: Path):
    for test, count in (("new", 3), ("old", 40)):
        asked = [json.dumps([{"role": "user", "content": f"{test} {n}"}]) for n in range(count)]
        pq.write_table(pa.table({"prompt": asked}), tmp_path / f"tuned-{test}.parquet")
    pq.write_table(pa.table({"prompt": ["[]"]}), tmp_path / "tuned-text.parquet")
    pq.write_table(pa.table({"prompt": [json.dumps(TURN)]}), tmp_path / "base-old.parquet")
    found = prompts_of(tmp_path)
    assert len(found) == 43, "the tuned model's, and no empty one of plain text"
    asked = [request.prompt[0]["content"] for request in requests_of(found, 20, 8)]  # pyright: ignore
    assert asked[:3] == ["new 0", "new 2", "old 1"]
    assert len(set(asked)) == len(asked) == 20
    assert [request.max_tokens for request in requests_of(found[:2], 5, 8)] == [8] * 5


@pytest.mark.parametrize(
    ("rule", "decision"),
    [
        ("p95_latency_s <= 2", "accept"),
        ("p95_latency_s <= 1.2 + 0.2", "reject"),
        ("300 < tokens_per_s", "accept"),
        ("p50_latency_s <= 2", "hold"),
    ],
)
def test_a_rule_about_speed_is_decided_by_what_was_measured(rule: str, decision: str):
    assert decide([rule, "accuracy >= 0.7"], SCORES).decision == decision


def test_a_rule_about_speed_that_cannot_be_decided_is_refused_before_training():
    for rule in ("p95_latency_s <= champion", "test.p95_latency_s <= 2", "tokens_per_s >= base + 3"):
        with pytest.raises(JobFileError, match="about the release"):
            parse_rule(rule)
    with pytest.raises(JobFileError) as refused:
        parse_rule("p95_latency <= 2")
    assert "did you mean 'p95_latency_s'?" in refused.value.remedy
    refuse_undecidable(["p95_latency_s <= 2"], {"test": ["accuracy"]}, (), base_scored=True)
    with pytest.raises(JobFileError, match="needs a test"):
        refuse_undecidable(["p95_latency_s <= 2"], {}, (), base_scored=True)


def test_speed_is_a_stage_of_those_jobs_only_whose_gate_names_it():
    assert names_speed(["accuracy >= 0.7", "p95_latency_s<=2"])
    assert not names_speed(["accuracy >= 0.7", "p95_latency_seconds <= 2"])
    names = [stage.name for stage in TRAINING]
    assert names.index("evaluate") < names.index("speed") < names.index("gate")


def test_a_run_whose_gate_names_speed_is_measured_on_its_own_prompts_and_decided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = [{"prompt": f"please help {n}", "completion": "yes"} for n in range(30)]
    endless = [{"prompt": "help " * 500, "completion": "yes"}]
    ran = finished_run(tmp_path, {"train": rows, "test": rows[:10] + endless}, lambda _role, _example: "yes")
    rules = ["p95_latency_s <= 30", "tokens_per_s <= 0.001"]
    update: dict[str, Any] = {"gate": rules, "speed": SpeedSpec(concurrency=3, requests=12, warm_up=2)}
    update["evaluate"] = ran.job.evaluate.model_copy(update={"max_new_tokens": 5})
    ctx = replace(ran, job=ran.job.model_copy(update=update))
    with ctx.store.writing("runs", RUN, "model") as fresh:
        write_base(fresh)
    monkeypatch.setattr(speed, "_measured_on_ray", speed.measured)
    monkeypatch.setattr(speed, "_size", lambda: {"num_cpus": 0.05})
    speed.run(ctx)
    found = ctx.store.get_json("runs", RUN, "speed.json")
    assert found["asked"] == {"concurrency": 3, "requests": 12, "warm_up": 2}
    assert set(found["metrics"]) == set(SPEED_METRICS)
    assert 0 < found["metrics"]["p50_time_to_first_token_s"] <= found["metrics"]["p95_latency_s"] < 30
    acceptance.run(ctx)
    gate = ctx.store.get_json("runs", RUN, "gate.json")
    assert gate["decision"] == "reject"
    assert [(rule["left"], rule["passed"]) for rule in gate["rules"]] == [
        (found["metrics"]["p95_latency_s"], True),
        (found["metrics"]["tokens_per_s"], False),
    ]


def test_speed_without_prompts_is_undecided_and_no_number():
    assert metrics_of([]) == {}
    assert decide(["p95_latency_s <= 2"], Scores({"test": {"loss": 1.0}})).decision == "hold"
