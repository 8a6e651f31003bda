"""The endpoint over HTTP, without a cluster: bodies and headers in, OpenAI's shapes and ledger rows out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from cluster.errors import GenerationFailed, NotServing, Overloaded, RequestRefused
from cluster.prompt_features import PromptFeatures
from serving import bodies
from serving.bodies import MOST_BODY_BYTES
from serving.callers import Keys, hashed
from tests.endpoints import Local, ToldArm, endpoint

CHAT = {"model": "support", "messages": [{"role": "user", "content": "the invoice"}], "user": "ann"}
KEY, ADMIN = "k" * 20, "a" * 20
LOCKED = Keys(frozenset([hashed(KEY)]), frozenset([hashed(ADMIN)]))


def posted(
    local: Local,
    body: Any = CHAT,
    path: str = "/v1/chat/completions",
    *,
    raise_app_exceptions: bool = True,
    **headers: str,
) -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    async def send() -> Any:
        async with local.client(raise_app_exceptions=raise_app_exceptions) as client:
            return await client.post(path, content=content, headers=named)

    return asyncio.run(send())


def got(local: Local, path: str, **headers: str) -> Any:
    async def send() -> Any:
        async with local.client() as client:
            return await client.get(path, headers=headers)

    return asyncio.run(send())


def events(answer: Any) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_a_chat_is_answered_in_openais_shape_and_recorded():
    local = Local(endpoint(a=1, b=0))
    answer = posted(local, x_hone_consent="true")
    body = answer.json()
    assert (answer.status_code, body["object"], body["model"]) == (200, "chat.completion", "support")
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "billing", "refusal": None}
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    (row,) = local.rows
    assert body["hone"] == {"request": row.request, "arm": "a", "experiment": "v2", "epoch": 1}
    assert answer.headers["x-hone-request-id"] == row.request == body["id"]
    assert (answer.headers["x-hone-arm"], answer.headers["x-hone-epoch"]) == ("a", "1")
    assert (row.status, row.probabilities, row.tokens_in, row.tokens_out) == ("ok", {"a": 1.0, "b": 0.0}, 3, 2)
    assert (row.has_unit, row.consent, row.forced, row.time_s) == (True, True, False, 100.0)
    features = row.kept.pop("features")
    assert row.kept == {"prompt_characters": 11, "turns": 1, "answer_characters": 7}
    assert PromptFeatures.from_kept(features).buckets.tolist() == PromptFeatures.of("the invoice").buckets.tolist()
    assert "ann" not in row.model_dump_json()


def test_a_stream_says_the_same_and_ends_with_its_counts():
    local = Local(endpoint(a=1))
    answer = posted(local, CHAT | {"stream": True, "stream_options": {"include_usage": True}, "n": 2})
    chunks = events(answer)
    assert answer.headers["content-type"].startswith("text/event-stream")
    texts = {0: "", 1: ""}
    for chunk in chunks[:-1]:
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == {0: "billing", 1: "billing"}
    assert [chunk["choices"][0]["delta"].get("role") for chunk in chunks[:-1]] == ["assistant", "assistant", None, None]
    assert chunks[-1]["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    assert {chunk["id"] for chunk in chunks} == {local.rows[0].request}


def test_plain_completions_have_their_own_shape():
    local = Local(endpoint(a=1))
    body = posted(local, {"prompt": ["the invoice"], "logprobs": 1}, "/v1/completions").json()
    assert (body["object"], body["choices"][0]["text"]) == ("text_completion", "billing")
    assert body["choices"][0]["logprobs"] == {
        "tokens": ["bill", "ing"], "token_logprobs": [-0.5, -0.5], "top_logprobs": [{}, {}], "text_offset": [0, 4],
    }  # fmt: skip
    chunks = events(posted(local, {"prompt": "the invoice", "stream": True}, "/v1/completions"))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "billing"


def test_an_arms_settings_hold_where_the_request_says_nothing():
    told = ToldArm()
    local = Local(endpoint(a=1), a=told)
    posted(local)
    posted(local, CHAT | {"max_completion_tokens": 5, "temperature": 1.5, "stop": "x", "seed": 3, "top_p": 0.5})
    first, second = told.asked
    assert (first.max_tokens, first.may_shorten, first.temperature) == (16, True, 0.0)
    assert (second.max_tokens, second.may_shorten, second.temperature) == (5, False, 1.5)
    assert (second.stop, second.seed, second.top_p) == (("x",), 3, 0.5)


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        (b"{", 400, "no JSON"),
        (b"[1]", 400, "no JSON object"),
        (b"[" * 100_000, 400, "no JSON"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', 400, "half a character"),
        (b'"' + b"x" * MOST_BODY_BYTES + b'"', 413, "larger"),
        (CHAT | {"model": "gpt-4"}, 404, "gpt-4"),
        (CHAT | {"messages": []}, 400, "messages"),
        (CHAT | {"messages": [{"content": "x"}]}, 400, "role"),
        (CHAT | {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "no text"),
        (CHAT | {"n": 1000}, 400, "n"),
        (CHAT | {"max_tokens": 10**9}, 400, "max_tokens"),
        (CHAT | {"temperature": 9}, 400, "temperature"),
        (CHAT | {"temperature": "hot"}, 400, "temperature"),
        (CHAT | {"tools": [{"type": "function"}]}, 400, "tools"),
        (CHAT | {"frequency_penalty": 1}, 400, "frequency_penalty"),
        (CHAT | {"stop": ["a"] * 99}, 400, "stop"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_refused_in_openais_shape(body: Any, status: int, named: str):
    local = Local(endpoint(a=1))
    answer = posted(local, body)
    assert answer.status_code == status
    assert named in answer.json()["error"]["message"]
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
    assert local.rows == []


@pytest.mark.parametrize(
    ("error", "http", "status"),
    [
        (RequestRefused("too long", "shorten it"), 400, "refused"),
        (Overloaded("full", "later"), 429, "failed"),
        (NotServing("gone", "again"), 503, "failed"),
        (GenerationFailed("broken", "again"), 500, "failed"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_arms_error_has_its_status_and_is_recorded(error: Any, http: int, status: str, stream: bool):
    local = Local(endpoint(a=1), a=ToldArm(words=(), error=error))
    answer = posted(local, CHAT | {"stream": stream})
    assert answer.status_code == http
    assert ("retry-after" in answer.headers) == (http in (429, 503))
    (row,) = local.rows
    assert row.status == status
    assert (answer.headers["x-hone-request-id"], answer.headers["x-hone-arm"]) == (row.request, "a")
    assert (answer.headers["x-hone-experiment"], answer.headers["x-hone-epoch"]) == ("", "1")
    assert "hone_refused_total{" not in got(local, "/metrics").text, "an arm answered, if only with an error"


def test_what_no_arm_answers_says_so_and_what_it_met():
    local = Local(endpoint(a=1, b=1), LOCKED)
    answer = posted(local, authorization="Bearer wrong")
    assert answer.status_code == 401
    assert answer.headers["x-hone-request-id"].startswith("req-")
    assert (answer.headers["x-hone-experiment"], answer.headers["x-hone-epoch"]) == ("v2", "1")
    assert "x-hone-arm" not in answer.headers
    counted = got(local, "/metrics", authorization=f"Bearer {KEY}").text
    assert 'hone_refused_total{endpoint="support",status="401"} 1.0' in counted


def test_what_nobody_thought_of_is_an_error_in_openais_shape_and_the_arms_failure():
    local = Local(endpoint(a=1), a=ToldArm(words=(), error=ZeroDivisionError("x")))  # pyright: ignore[reportArgumentType]
    answer = posted(local, raise_app_exceptions=False)
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert [row.status for row in local.rows] == ["failed"]


def test_an_error_within_a_stream_ends_it_with_words():
    local = Local(endpoint(a=1), a=ToldArm(error=GenerationFailed("broken", "again")))
    answer = posted(local, CHAT | {"stream": True})
    last = answer.text.strip().split("\n\n")[-1]
    assert answer.status_code == 200
    assert "broken" in json.loads(last.removeprefix("data: "))["error"]["message"]
    assert local.rows[0].status == "failed"


def test_an_arm_that_is_not_ready_gets_no_traffic_and_no_other_arms_statistics():
    document = endpoint(a=50, b=50)
    local = Local(document, b=ToldArm())
    for user in range(20):
        assert posted(local, CHAT | {"user": str(user)}).headers["x-hone-arm"] == "b"
    assert {tuple(row.probabilities.items()) for row in local.rows} == {(("a", 0.0), ("b", 1.0))}
    none = Local(document, c=ToldArm())
    assert posted(none).status_code == 503
    assert got(none, "/healthz").status_code == 503
    assert got(local, "/healthz").json()["arms"] == {"a": False, "b": True}


def test_a_unit_keeps_its_arm_and_headers_come_before_the_body():
    local = Local(endpoint(a=50, b=50))
    for _ in range(3):
        posted(local)
        posted(local, CHAT | {"user": "bob"}, x_hone_unit="ann")
        posted(local, CHAT | {"user": "bob", "safety_identifier": "ann"})
    assert len({row.unit for row in local.rows}) == 1
    assert len({row.arm for row in local.rows}) == 1
    without = {key: value for key, value in CHAT.items() if key != "user"}
    posted(local, without)
    posted(local, without)
    random = local.rows[-2:]
    assert [row.has_unit for row in random] == [False, False]
    assert random[0].unit != random[1].unit


def test_every_request_is_a_unit_where_the_experiment_says_so():
    local = Local(endpoint(unit="request", a=50, b=50))
    posted(local)
    posted(local)
    assert len({row.unit for row in local.rows}) == 2


def test_only_the_administrator_forces_an_arm_and_it_is_marked():
    local = Local(endpoint(a=1, b=0), LOCKED)
    answer = posted(local, authorization=f"Bearer {ADMIN}", x_hone_arm="b")
    assert (answer.status_code, answer.headers["x-hone-arm"]) == (200, "b")
    assert (local.rows[0].forced, local.rows[0].arm) == (True, "b")
    assert posted(local, authorization=f"Bearer {KEY}", x_hone_arm="b").status_code == 403
    assert posted(Local(endpoint(a=1, b=0)), x_hone_arm="b").status_code == 403, "no administrator's key is set"
    assert posted(local, authorization=f"Bearer {ADMIN}", x_hone_arm="z").status_code == 400


def test_without_a_known_key_nothing_is_answered():
    local = Local(endpoint(a=1), LOCKED)
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {KEY}"}):
        assert posted(local, **headers).status_code == 401
        assert posted(local, {"request_id": "x", "value": 1}, "/v1/feedback", **headers).status_code == 401
        assert got(local, "/v1/models", **headers).status_code == 401
        assert got(local, "/metrics", **headers).status_code == 401
    assert got(local, "/healthz").status_code == 200
    assert posted(local, authorization=f"bearer {KEY}").status_code == 200
    assert local.rows[0].has_unit


def test_text_is_kept_redacted_only_where_it_is_asked_for():
    local = Local(endpoint(log="text", a=1), a=ToldArm(words=("write ", "to bob@example.com")))
    posted(local, CHAT | {"messages": [{"role": "user", "content": "i am ann@example.com"}]})
    assert local.rows[0].kept["prompt"] == "i am [EMAIL]"
    assert local.rows[0].kept["answer"] == "write to [EMAIL]"
    off = Local(endpoint(log="off", a=1))
    posted(off)
    assert off.rows[0].kept == {}


def test_features_are_those_of_the_release_and_text_has_none_of_its_own():
    local = Local(endpoint(log="text", a=1))
    posted(local)
    assert "features" not in local.rows[0].kept
    shown = got(local, "/metrics").text
    assert "hone_drift{" not in shown
    local.gateway.meters.drifted(0.625, flagged=True, at_s=5.0)
    shown = got(local, "/metrics").text
    assert 'hone_drift{endpoint="support"} 0.625' in shown
    assert 'hone_drift_flagged{endpoint="support"} 1.0' in shown
    local.gateway.meters.drifted(None, flagged=False, at_s=6.0)
    assert "hone_drift{" not in got(local, "/metrics").text, "undecided is no number"


def test_feedback_is_on_disk_before_it_is_confirmed():
    local = Local(endpoint(a=1, b=1))
    answer = posted(local, {"request_id": "r", "value": True}, "/v1/feedback")
    assert (answer.status_code, answer.json()["name"]) == (200, "success")
    assert (local.rows[0].value, local.spool.num_durable) == (1.0, 1)
    local.spool.is_full = True
    assert posted(local, {"request_id": "r", "value": True}, "/v1/feedback").status_code == 503
    assert posted(local).status_code == 200, "a full spool fails no answer"


@pytest.mark.parametrize(
    "body",
    [{"value": 1}, {"request_id": "r"}, {"request_id": "r", "value": "NaN"}, {"request_id": "r", "score": 1},
     {"request_id": "r" * 99, "value": 1}, {"request_id": "r", "name": "not a word", "value": 1},
     {"request_id": "r", "correction": "kept only with text"}],
)  # fmt: skip
def test_feedback_that_says_nothing_usable_is_refused(body: Any):
    local = Local(endpoint(a=1))
    assert posted(local, body, "/v1/feedback").status_code == 400
    assert local.rows == []


def test_corrections_are_kept_redacted_where_text_is():
    local = Local(endpoint(log="text", a=1))
    assert posted(local, {"request_id": "r", "correction": "ask ann@example.com"}, "/v1/feedback").status_code == 200
    assert local.rows[0].correction == "ask [EMAIL]"


def test_metrics_name_arms_and_no_users():
    local = Local(endpoint(a=1, b=0))
    posted(local)
    posted(local, b"{")
    text = got(local, "/metrics").text
    assert 'hone_requests_total{arm="a",endpoint="support",experiment="v2",status="ok"} 1.0' in text
    assert 'hone_tokens_total{arm="a",direction="out",endpoint="support",experiment="v2"} 2.0' in text
    assert 'hone_running_requests{arm="a",endpoint="support",experiment="v2"} 0.0' in text
    assert 'hone_arm_probability{arm="a",endpoint="support",experiment="v2"} 1.0' in text
    assert 'hone_refused_total{endpoint="support",status="400"} 1.0' in text
    assert "ann" not in text
    assert local.rows[0].unit not in text


def test_an_unknown_path_is_an_error_in_openais_shape():
    assert got(Local(endpoint(a=1)), "/v1/nothing").json()["error"]["type"] == "invalid_request_error"


def test_models_lists_the_endpoint():
    assert [model["id"] for model in got(Local(endpoint(a=1)), "/v1/models").json()["data"]] == ["support"]


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bodies, "BODY_S", 0.05)
    local = Local(endpoint(a=1))

    async def half() -> AsyncGenerator[bytes]:
        yield b'{"model"'
        await asyncio.sleep(5)

    async def send() -> Any:
        async with local.client() as client:
            return await client.post("/v1/chat/completions", content=half())

    answer = asyncio.run(send())
    assert (answer.status_code, local.rows) == (408, [])


def test_a_shadow_answers_too_unseen_and_counts_for_no_experiment():
    document = endpoint(a=1, b=0)
    document.arms["b"] = document.arms["b"].model_copy(update={"shadow": 100.0})
    local = Local(document, b=ToldArm(error=GenerationFailed("broken", "mend it")), a=ToldArm())

    async def send() -> Any:
        async with local.client() as client:
            answer = await client.post("/v1/chat/completions", json=CHAT)
            while len(local.rows) < 2:
                await asyncio.sleep(0)
            return answer

    answer = asyncio.run(asyncio.wait_for(send(), 10))
    assert (answer.status_code, answer.headers["x-hone-arm"]) == (200, "a")
    seen, shadow = sorted(local.rows, key=lambda row: row.forced)
    assert (seen.arm, seen.status, seen.forced) == ("a", "ok", False)
    assert (shadow.arm, shadow.status, shadow.forced) == ("b", "failed", True)
    assert shadow.kept["shadow_of"] == seen.request
    assert "shadow_of" not in seen.kept
