"""Tool calls are read as every data set writes them, and what is none says why."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trainers.turns import BrokenTurnError, messages_of

CALL = {"name": "f", "arguments": "{}"}


def calling(calls: object) -> list[dict[str, Any]]:
    return [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None, "tool_calls": calls}]


@pytest.mark.parametrize(
    ("calls", "said"),
    [
        ("call f", "no valid JSON"),
        ({"function": CALL}, "a dict, not a list"),
        (7, "a int, not a list"),
        (["f"], "a str, not an object"),
        ([{"type": "function", "function": "f"}], "a str, not an object"),
        ([{"type": "function", "function": {"arguments": "{}"}}], "names no function"),
        ([{"type": "function", "function": {"name": "f", "arguments": "{x"}}], "no valid JSON"),
        ([{"name": "f", "arguments": "[" * 100_000}], "cannot be read"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_tool_calls_that_cannot_be_read_are_refused(calls: object, said: str):
    with pytest.raises(BrokenTurnError, match=f"turn 2 .*{said}"):
        messages_of(calling(calls))


@pytest.mark.parametrize("value", [5, "5", "f()", None, "", [], {"arguments": {}}])
def test_a_share_gpt_call_that_is_none_is_refused(value: object):
    with pytest.raises(BrokenTurnError, match="turn 2 "):
        messages_of([{"from": "human", "value": "Hi"}, {"from": "function_call", "value": value}])


@pytest.mark.parametrize("calls", [[{"type": "function", "function": CALL}], json.dumps([CALL]), [CALL]])
def test_tool_calls_are_kept_as_a_list_in_json(calls: object):
    kept = json.loads(messages_of(calling(calls))[1]["tool_calls"])
    assert kept == (json.loads(calls) if isinstance(calls, str) else calls)


def test_half_a_character_in_a_call_becomes_the_replacement_character():
    kept = messages_of(calling([{"name": "f\ud83d", "arguments": "{}"}]))[1]["tool_calls"]
    assert json.loads(kept)[0]["name"] == "f\ufffd"
