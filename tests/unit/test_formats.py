"""Column names decide the format, or an error says how to."""

from __future__ import annotations

import pytest

from cluster.errors import DataError
from cluster.spec import DataSpec
from trainers.formats import infer_format, infer_format_of_all, require_columns


def spec(**keys: object) -> DataSpec:
    return DataSpec.model_validate({"train": ["rows.jsonl"], **keys})


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ("messages", "messages"),
        ("conversations id", "sharegpt"),
        ("conversation system", "sharegpt"),
        ("instruction input output", "alpaca"),
        ("instruction output", "alpaca"),
        ("instruction input output text", "alpaca"),
        ("prompt completion", "prompt_completion"),
        ("prompt completion source", "prompt_completion"),
        ("prompt references", "prompt_completion"),
        ("text label", "classification"),
        ("text category", "classification"),
        ("text intent id", "classification"),
        ("text", "text"),
        ("text url", "text"),
    ],
)
def test_every_format_is_known_by_its_columns(columns: str, expected: str):
    choice = infer_format(columns.split(), spec())
    assert choice.format == expected
    first = next(name for name in columns.split() if name in choice.columns.values())
    assert repr(first) in choice.reason, "the reason names what was seen"


@pytest.mark.parametrize(
    ("columns", "named", "expected"),
    [
        ("mr ref", {"prompt": "mr", "completion": "ref"}, "prompt_completion"),
        ("prompt answer", {"completion": "answer"}, "prompt_completion"),
        ("question refs", {"prompt": "question", "references": "refs"}, "prompt_completion"),
        ("body topic", {"text": "body", "label": "topic"}, "classification"),
        ("text topic", {"label": "topic"}, "classification"),
        ("body url", {"text": "body"}, "text"),
        ("chat", {"messages": "chat"}, "messages"),
        # Two formats fit by their usual names; naming a column of one chooses it.
        ("prompt completion text label", {"prompt": "prompt"}, "prompt_completion"),
        ("prompt completion text label", {"text": "text"}, "classification"),
    ],
)
def test_named_columns_choose_the_format(columns: str, named: dict[str, str], expected: str):
    choice = infer_format(columns.split(), spec(columns=named))
    assert choice.format == expected
    assert all(choice.columns[ours] == theirs for ours, theirs in named.items())


def test_a_stated_format_wins_over_what_the_columns_look_like():
    columns = ["prompt", "completion", "text", "label"]
    assert infer_format(columns, spec(format="text")).format == "text"
    assert infer_format(columns, spec(format="classification")).reason == "data.format says so"


@pytest.mark.parametrize(
    ("columns", "keys", "said", "remedy"),
    [
        ("prompt completion text label", {}, "prompt_completion or classification", "data.format"),
        ("messages prompt completion", {}, "messages or prompt_completion", "data.format"),
        ("text label category", {}, "'label', 'category' could each be the label", "columns: {label: label}"),
        ("question answer", {}, "'question', 'answer' fit no known format", "columns: {prompt:"),
        ("prompt", {}, "'prompt' fit no known format", "completion"),
        ("", {}, "(none)", "columns"),
        (
            "question ref",
            {"columns": {"prompt": "qestion", "completion": "ref"}},
            "no column 'qestion'",
            "mean 'question'?",
        ),
        (
            "question completion",
            {"columns": {"prompt": "question", "completion": "complet"}},
            "no column 'complet'",
            "mean 'completion'?",
        ),
        ("mr ref", {"format": "alpaca"}, "data.format is alpaca", "columns: {prompt: YOUR COLUMN}"),
    ],
)
def test_what_cannot_be_decided_names_the_columns_and_says_what_to_write(
    columns: str, keys: dict[str, object], said: str, remedy: str
):
    with pytest.raises(DataError) as caught:
        infer_format(columns.split(), spec(**keys), "rows.csv")
    assert said in caught.value.what
    assert remedy in caught.value.remedy
    assert caught.value.where == "rows.csv"


def test_many_columns_are_not_all_listed():
    with pytest.raises(DataError) as caught:
        infer_format([f"column_{i}" for i in range(500)], spec())
    assert len(str(caught.value)) < 500


def test_a_named_column_that_no_source_has_is_refused():
    named = spec(columns={"prompt": "q", "completion": "a", "group": "user_id"})
    require_columns(named, {"q", "a", "user_id"})
    with pytest.raises(DataError, match=r"user_id.*data\.columns\.group"):
        require_columns(named, {"q", "a", "userid"})


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        (["text", "text label", "text label"], "classification"),
        (["text", "text", "text label"], "classification"),
        (["text", "text url"], "text"),
        (["comment", "text", "prompt completion"], "prompt_completion"),
        (["messages", "prompt completion", "prompt completion"], "prompt_completion"),
        (["messages", "prompt completion"], "messages"),
    ],
)
def test_the_first_records_decide_together_and_plain_text_comes_last(records: list[str], expected: str):
    assert infer_format_of_all([columns.split() for columns in records], spec()).format == expected


@pytest.mark.parametrize("ours", ["label", "group"])
def test_plain_text_is_refused_where_a_named_column_is_not_there(ours: str):
    named = spec(columns={ours: "topics"})
    with pytest.raises(DataError, match=rf"no column 'topics' \(named in data\.columns\.{ours}\)") as caught:
        infer_format_of_all([["text"], ["text", "topic"]], named, "rows.csv")
    assert "mean 'topic'?" in caught.value.remedy
    assert caught.value.where == "rows.csv"
