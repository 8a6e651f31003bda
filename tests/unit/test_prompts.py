"""A prompt's ids are those of training, whatever the template."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.errors import RequestRefused
from cluster.plain_template import PLAIN_TEMPLATE
from serving.prompts import PromptEncoder
from tests.small_tokenizers import BRACKETS, CHATML, CLOSED_TWICE, HEADINGS, bytewise, merging, prefixing
from trainers.templates import Template

TEMPLATES = {"chatml": CHATML, "twice": CLOSED_TWICE, "brackets": BRACKETS, "headings": HEADINGS, "plain": None}
TEXTS = ["Hi", "system\n", "user\n", "assistant\n", "Be brief"]
TOKENIZERS = {"bytes": bytewise, "merges": lambda: merging(TEXTS), "prefixing": lambda: prefixing(TEXTS)}
ARGUMENTS = '{"city": "Rome"}'
CHATS: dict[str, list[dict[str, Any]]] = {
    "a question": [{"role": "user", "content": "Hi"}],
    "a dialogue": [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "Hi <|end|>"},
        {"role": "assistant", "content": "Yo"},
        {"role": "user", "content": ""},
    ],
}


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_chat_is_given_as_in_training(name: str, kind: str, chat: str):
    tokenizer = TOKENIZERS[kind]()
    tokenizer.chat_template = TEMPLATES[name]
    expected = Template(tokenizer, TEMPLATES[name] or PLAIN_TEMPLATE).prompt_ids(CHATS[chat])
    assert PromptEncoder(tokenizer).ids(tuple(CHATS[chat])) == expected


def test_tool_calls_are_given_as_in_training():
    function = {"name": "weather", "arguments": ARGUMENTS}
    call = [{"id": "1", "type": "function", "function": function}]
    asked: list[Any] = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "", "tool_calls": call}]
    trained: list[Any] = [
        asked[0],
        {**asked[1], "tool_calls": f'[{{"id": "1", "type": "function", "function": {to_json(function)}}}]'},
    ]
    tokenizer = bytewise()
    assert PromptEncoder(tokenizer).ids(tuple(asked)) == Template(tokenizer, PLAIN_TEMPLATE).prompt_ids(trained)


def to_json(function: dict[str, str]) -> str:
    return f'{{"name": "{function["name"]}", "arguments": {function["arguments"]}}}'


def test_plain_text_follows_the_beginning_of_text_and_ids_are_taken_as_they_are():
    tokenizer = bytewise()
    plain = tokenizer("Hi", add_special_tokens=False)["input_ids"]
    assert PromptEncoder(tokenizer).ids("Hi") == [tokenizer.bos_token_id, *plain]
    assert PromptEncoder(bytewise(bos_token=None)).ids("Hi") == plain
    assert PromptEncoder(tokenizer).ids((9, 8)) == [9, 8]


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ((), "the prompt is empty"),
        ("", "the prompt is empty"),
        (({"role": "user", "content": "Hi"}, {"role": "robot"}), "turns of the roles user, robot: no robots"),
        (
            ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]},),
            "arguments are no JSON",
        ),
        (({"role": "assistant", "tool_calls": 5},), "cannot render turns of the roles assistant"),
        (({"role": "assistant", "tool_calls": "x"},), "cannot render turns of the roles assistant"),
        (({"role": "assistant", "tool_calls": [1]},), "cannot render turns of the roles assistant"),
        (({"role": "assistant", "tool_calls": [{"function": 1}]},), "cannot render turns of the roles assistant"),
    ],
)
def test_a_prompt_that_cannot_be_given_is_refused(prompt: Any, said: str):
    tokenizer = bytewise(bos_token=None)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'robot' %}{{ raise_exception('no robots') }}{% endif %}{% endfor %}"
    )
    with pytest.raises(RequestRefused, match=said):
        PromptEncoder(tokenizer).ids(prompt)
