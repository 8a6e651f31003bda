"""Every format becomes the same rows of messages, and what is wrong with a row is on record."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cluster.spec import DataSpec
from trainers.formats import infer_format
from trainers.rows import Row, RowMaker, SourceProblems

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello"}


def made(
    record: dict[str, Any], first: dict[str, Any] | None = None, **keys: object
) -> tuple[Row | None, SourceProblems]:
    """Return the row of a record in a file whose first record is ``first``."""
    data = DataSpec.model_validate({"train": ["rows.jsonl"], **keys})
    problems = SourceProblems()
    choice = infer_format((first or record).keys(), data)
    return RowMaker(data, choice, "train", problems).row(record, "rows.jsonl:1"), problems


def row_of(record: dict[str, Any], **keys: object) -> Row:
    row, problems = made(record, **keys)
    assert row is not None
    assert not problems, problems
    return row


SAME_DIALOGUE = [
    {"messages": [USER, ANSWER]},
    {"messages": json.dumps([USER, ANSWER])},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]}, ANSWER]},
    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
    {"instruction": "Hi", "input": "", "output": "Hello"},
    {"instruction": "Hi", "output": "Hello"},
    {"prompt": "Hi", "completion": "Hello"},
    {"prompt": [USER], "completion": [ANSWER]},
    {"prompt": [USER], "completion": "Hello"},
    {"prompt": "Hi", "references": ["Hello"]},
    {"text": "Hi", "label": "Hello"},
]


@pytest.mark.parametrize("record", SAME_DIALOGUE, ids=lambda record: "+".join(record))
def test_all_formats_mean_the_same(record: dict[str, Any]):
    row = row_of(record)
    assert row.messages == (USER, ANSWER)
    assert (row.prompt, row.completion) == ((USER,), "Hello")
    assert (row.source, row.where) == ("train", "rows.jsonl:1")


def test_plain_text_is_an_answer_without_a_prompt():
    row = row_of({"text": "Once upon a time"})
    assert row.prompt == ()
    assert row.completion == "Once upon a time"


def test_the_label_of_a_classification_is_the_answer():
    row = row_of({"text": "refund please", "intent": " billing "})
    assert (row.label, row.completion) == ("billing", "billing")


@pytest.mark.parametrize(("label", "said"), [(3, "3"), (3.0, "3"), (True, "true"), (0, "0"), (2.5, "2.5")])
def test_labels_that_are_numbers_become_text(label: object, said: str):
    assert row_of({"text": "x", "label": label}).label == said


def test_alpaca_joins_instruction_and_input():
    row = row_of({"instruction": "Translate", "input": "chat", "output": "cat"})
    assert row.prompt == ({"role": "user", "content": "Translate\n\nchat"},)


def test_system_and_tool_turns_are_kept():
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    turns = [
        {"role": "system", "content": "Be brief"},
        USER,
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "content": "42", "tool_call_id": "1"},
        ANSWER,
    ]
    row = row_of({"messages": turns})
    assert [m["role"] for m in row.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert json.loads(row.messages[2]["tool_calls"]) == calls
    assert row.messages[3]["tool_call_id"] == "1"


def test_an_answer_that_only_calls_a_tool_is_an_answer():
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    row = row_of({"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [call]}]})
    assert json.loads(row.completion) == [call]


def test_share_gpt_function_calls_become_tool_calls():
    turns = [
        {"from": "human", "value": "Hi"},
        {"from": "function_call", "value": '{"name": "f", "arguments": {}}'},
        {"from": "observation", "value": "42"},
        {"from": "gpt", "value": "Hello"},
    ]
    row = row_of({"conversations": turns})
    assert [m["role"] for m in row.messages] == ["user", "assistant", "tool", "assistant"]
    assert json.loads(row.messages[1]["tool_calls"])[0]["function"]["name"] == "f"


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "Hi", "completion": "Hello", "system": "Be brief"},
        {"instruction": "Hi", "output": "Hello", "system": "Be brief"},
        {"messages": [USER, ANSWER], "system": "Be brief"},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}], "system": "Be brief"},
    ],
)
def test_a_system_column_becomes_the_first_turn(record: dict[str, Any]):
    assert row_of(record).messages == ({"role": "system", "content": "Be brief"}, USER, ANSWER)


@pytest.mark.parametrize("written", [["a", "b", None], '["a", "b"]'])
def test_references_are_kept_and_the_first_is_the_answer_where_there_is_none(written: object):
    row = row_of({"prompt": "Hi", "references": written})
    assert (row.references, row.completion) == (("a", "b"), "a")
    row = row_of({"prompt": "Hi", "completion": "c", "references": written})
    assert (row.references, row.completion) == (("a", "b"), "c")


def test_a_single_reference_may_be_text():
    assert row_of({"prompt": "Hi", "references": "[a] is right"}).references == ("[a] is right",)


def test_group_label_and_synthetic_come_from_the_named_columns():
    record = {
        "q": "Hi",
        "a": "Hello",
        "user": 7,
        "topic": "x",
        "made": "yes",
        "lang": "en",
        "note": "n" * 1000,
        "n": None,
    }
    named = {"prompt": "q", "completion": "a", "group": "user", "label": "topic", "synthetic": "made"}
    row = row_of(record, columns=named)
    assert (row.group, row.label, row.synthetic) == ("7", "x", True)
    assert row.extra == {"lang": "en"}, "other columns with short values are kept for slices"


@pytest.mark.parametrize("value", ["false", "0", "", None, False, 0])
def test_only_a_clear_yes_marks_a_row_as_synthetic(value: object):
    assert row_of({"prompt": "Hi", "completion": "Hello", "synthetic": value}).synthetic is False


@pytest.mark.parametrize(
    ("record", "first"),
    [
        ({"prompt": "Hi", "completion": ""}, None),
        ({"prompt": "Hi", "completion": None}, None),
        ({"prompt": "Hi", "completion": "  \n"}, None),
        ({"prompt": "Hi"}, {"prompt": "Hi", "completion": "Hello"}),
        ({"text": "Hi", "label": None}, None),
        ({"text": "Hi", "label": float("nan")}, None),
        ({"text": "Hi"}, {"text": "Hi", "label": "x"}),
        ({"text": ""}, None),
        ({"messages": [USER]}, None),
        ({"messages": [USER, {"role": "assistant", "content": ""}]}, None),
        ({"conversations": [{"from": "human", "value": "Hi"}]}, None),
        ({"instruction": "Hi", "output": None}, None),
        ({"prompt": "Hi", "references": []}, None),
    ],
    ids=str,
)
def test_a_row_without_an_answer_is_kept_and_counted(record: dict[str, Any], first: dict[str, Any] | None):
    row, problems = made(record, first)
    assert row is not None
    assert not row.completion.strip()
    assert row.messages[-1]["role"] == "assistant"
    assert [(p.code, p.where) for p in problems] == [("target_missing", "rows.jsonl:1")]


@pytest.mark.parametrize(
    "turns",
    [
        [ANSWER, USER, ANSWER],
        [USER, USER, ANSWER],
        [USER, ANSWER, ANSWER],
        [USER, {"role": "system", "content": "Be brief"}, ANSWER],
        [USER, {"role": "tool", "content": "42"}, ANSWER],
    ],
)
def test_roles_out_of_order_are_counted_and_the_row_kept(turns: list[dict[str, str]]):
    row, problems = made({"messages": turns})
    assert row is not None
    assert [p.code for p in problems] == ["roles_broken"]


@pytest.mark.parametrize(
    ("turns", "said"),
    [
        ([{"role": "narrator", "content": "x"}, ANSWER], "narrator"),
        ([{"content": "x"}, ANSWER], "None"),
        ([USER, "Hello"], "turn 2 is a str"),
        ([], "empty list"),
        (None, "null"),
        ("[{", "no valid JSON"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, ANSWER], "part that is not text"),
        ([{"role": "user", "content": {"a": 1}}, ANSWER], "dict"),
    ],
)
def test_turns_that_cannot_be_read_are_counted_and_left_out(turns: object, said: str):
    row, problems = made({"messages": turns})
    assert row is None
    assert [p.code for p in problems] == ["roles_broken"]
    assert said in problems[0].detail


def test_an_empty_turn_is_counted():
    row, problems = made({"prompt": " ", "completion": "Hello"})
    assert row is not None
    assert [p.code for p in problems] == ["turn_empty"]


def test_a_record_of_another_format_is_read_and_counted():
    row, problems = made({"messages": [USER, ANSWER]}, first={"prompt": "Hi", "completion": "Hello"})
    assert row is not None
    assert row.messages == (USER, ANSWER)
    assert [p.code for p in problems] == ["format_mixed"]
    assert "messages among rows of prompt_completion" in problems[0].detail


@pytest.mark.parametrize("record", [{"question": "Hi", "answer": "Hello"}, {}, {"prompt": {"a": 1}, "completion": "x"}])
def test_a_record_that_cannot_be_read_is_left_out_and_counted(record: dict[str, Any]):
    row, problems = made(record, first={"prompt": "Hi", "completion": "Hello"})
    assert row is None
    assert [p.code for p in problems] == ["format_mixed"]


def test_no_other_format_is_tried_where_one_was_asked_for():
    row, problems = made({"messages": [USER, ANSWER]}, first={"prompt": "a"}, format="prompt_completion")
    assert row is None
    assert [p.code for p in problems] == ["format_mixed"]


def test_half_a_character_becomes_the_replacement_character():
    row = row_of({"prompt": "a\ud83d", "completion": "\ud83d\ude00"})
    assert row.prompt[0]["content"] == "a\ufffd"
    assert row.completion == "\U0001f600", "two halves that fit are one character"


@pytest.mark.parametrize("value", ["", "  ", None])
def test_an_empty_group_is_none(value: object):
    assert row_of({"prompt": "Hi", "completion": "Hello", "user": value}, columns={"group": "user"}).group is None


def test_what_is_neither_yes_nor_no_in_a_named_synthetic_column_is_counted():
    record = {"prompt": "Hi", "completion": "Hello", "made": "perhaps", "synthetic": "gpt"}
    row, problems = made(record, columns={"synthetic": "made"})
    assert row is not None
    assert not row.synthetic
    assert [p.code for p in problems] == ["format_mixed"]
    assert "'made' (synthetic) holds 'perhaps'" in problems[0].detail
    assert not row_of(record).synthetic, "a column that nobody named may mean anything"
