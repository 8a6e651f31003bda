"""Golden texts of every kind of template: what is prompt, what is target, and where an answer ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import BaseModelError, DataError
from cluster.plain_template import PLAIN_TEMPLATE
from tests.small_tokenizers import (
    BRACKETS,
    CHATML,
    CLOSED_TWICE,
    FORGETFUL,
    HEADINGS,
    SPECIAL,
    bytewise,
    merging,
    prefixing,
    spelled,
)
from trainers.templates import Template, load_tokenizer, template_of

USER, AGAIN = {"role": "user", "content": "Hi"}, {"role": "user", "content": "Bye"}
ANSWER, LAST = {"role": "assistant", "content": "Yo"}, {"role": "assistant", "content": "Ok"}
SYSTEM, TOOL = {"role": "system", "content": "Be brief"}, {"role": "tool", "content": "42"}
DIALOGUE = [SYSTEM, USER, ANSWER, AGAIN, LAST]


def marked(template: Template, messages: list[dict[str, str]], loss_on: Any = "completion") -> str:
    """Return the rendered text with targets in double brackets."""
    return "".join(f"[[{s.text}]]" if s.is_target else s.text for s in template.segments(messages, loss_on))


TURNS = "<|start|>system\nBe brief<|end|>\n<|start|>user\nHi<|end|>\n<|start|>assistant\n"
NEXT = "\n<|start|>user\nBye<|end|>\n<|start|>assistant\n[[Ok<|end|>]]"
GOLDEN = {
    "chatml": (CHATML, TURNS + "Yo<|end|>" + NEXT, TURNS + "[[Yo<|end|>]]" + NEXT),
    "closed twice": (CLOSED_TWICE, TURNS + "Yo<|end|>" + NEXT, TURNS + "[[Yo<|end|>]]" + NEXT),
    "brackets": (
        BRACKETS,
        "<s>[system] Be brief [/][user] Hi [/] Yo</s>[user] Bye [/][[ Ok</s>]]",
        "<s>[system] Be brief [/][user] Hi [/][[ Yo</s>]][user] Bye [/][[ Ok</s>]]",
    ),
    "headings": (
        HEADINGS,
        "# system\nBe brief\n\n# user\nHi\n\n# assistant\nYo\n\n# user\nBye\n\n# assistant\n[[Ok</s>]]",
        "# system\nBe brief\n\n# user\nHi\n\n# assistant\n[[Yo]]\n\n# user\nBye\n\n# assistant\n[[Ok</s>]]",
    ),
    "plain": (
        PLAIN_TEMPLATE,
        "<s>Be brief\nHi\nYo</s>Bye\n[[Ok</s>]]",
        "<s>Be brief\nHi\n[[Yo</s>]]Bye\n[[Ok</s>]]",
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_texts_of_a_dialogue(name: str):
    source, completion, everything = GOLDEN[name]
    template = Template(bytewise(), source)
    assert marked(template, DIALOGUE) == completion
    assert marked(template, DIALOGUE, "all") == everything


@pytest.mark.parametrize("name", GOLDEN)
def test_the_prompt_at_inference_is_the_prefix_of_training(name: str):
    template = Template(bytewise(), GOLDEN[name][0])
    before = "".join(GOLDEN[name][1].partition("[[")[:1])
    assert template.prompt_ids(DIALOGUE[:-1]) == spelled(before)[0]
    assert template.prompt_ids(DIALOGUE[:-1]) + template.answer_ids(DIALOGUE[:-1], "Ok") == spelled(GOLDEN[name][1])[0]


PIECES = st.text(alphabet="ab \n", max_size=6)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(PIECES, min_size=1, max_size=3), st.lists(PIECES, min_size=2, max_size=2), st.sampled_from(list(GOLDEN))
)
def test_no_merge_across_the_border_changes_the_prompt(asked: list[str], answers: list[str], name: str):
    template = Template(MERGING, GOLDEN[name][0])
    prompt = [{"role": "user", "content": text} for text in asked]
    pieces = [template.segments([*prompt, {"role": "assistant", "content": answer}]) for answer in answers]
    first, second = ([template.encode_text(piece.text) for piece in both] for both in pieces)
    assert first[0] == second[0] == template.prompt_ids(prompt)
    assert first[0] + first[1] == template.prompt_ids(prompt) + template.answer_ids(prompt, answers[0])


def test_with_loss_on_all_turns_a_later_prompt_is_still_the_prefix_where_special_tokens_enclose_turns():
    template = Template(MERGING, CHATML)
    ids: list[int] = []
    later = []
    for segment in template.segments(DIALOGUE, "all"):
        if segment.is_target:
            later.append(list(ids))
        ids += template.encode_text(segment.text)
    assert later == [template.prompt_ids(DIALOGUE[:2]), template.prompt_ids(DIALOGUE[:4])]


MERGING = merging(["ab a b\nab\n\na ba <|start|>assistant\nab # assistant\na [/] b"] * 5)


def test_a_tokenizer_that_prefixes_a_space_does_so_at_every_piece():
    template = Template(prefixing(["Hi\n", "Yo"]), PLAIN_TEMPLATE)
    ids = [template.encode_text(segment.text) for segment in template.segments([USER, ANSWER])]
    assert template.tokenizer.convert_ids_to_tokens(ids[0]) == ["<s>", "▁Hi\n"]
    assert template.tokenizer.convert_ids_to_tokens(ids[1]) == ["▁Yo", "</s>"]


@pytest.mark.parametrize(
    ("bos", "text", "expected"),
    [
        ("<s>", "Once\nupon", "<s>[[Once\nupon</s>]]"),
        (None, "Once", "[[Once</s>]]"),
        ("<s>", "Once</s>", "<s>[[Once</s>]]"),
        ("<s>", "Once \n", "<s>[[Once</s>]]"),
    ],
)
def test_plain_text_begins_and_ends_without_a_template(bos: str | None, text: str, expected: str):
    template = Template(bytewise(bos_token=bos), CHATML)
    assert marked(template, [{"role": "assistant", "content": text}]) == expected
    assert template.prompt_ids([]) == ([1] if bos else [])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("Yo \n", "[[Yo \n<|end|>]]"),
        ("", "[[<|end|>]]"),
        ("a<|end|>b", "[[a<|end|>b<|end|>]]"),
        (" Yo", "[[ Yo<|end|>]]"),
    ],
)
def test_an_answer_is_kept_as_it_is_and_ends_at_the_closing_token(content: str, expected: str):
    found = marked(Template(bytewise(), CHATML), [USER, {"role": "assistant", "content": content}])
    assert found == "<|start|>user\nHi<|end|>\n<|start|>assistant\n" + expected


def test_the_answer_ends_the_example():
    for source, *_ in GOLDEN.values():
        template = Template(bytewise(), source)
        last = template.segments(DIALOGUE)[-1]
        assert last.is_target
        assert template.encode_text(last.text)[-1] in template.stop_ids


@pytest.mark.parametrize(
    ("source", "stops"),
    [(CHATML, ["<|end|>", "</s>"]), (CLOSED_TWICE, ["<|end|>", "</s>"]), (BRACKETS, ["</s>"]), (HEADINGS, ["</s>"])],
)
def test_stop_ids_are_the_turns_end_and_the_texts_end(source: str, stops: list[str]):
    assert Template(bytewise(), source).stop_ids == [SPECIAL.index(stop) for stop in stops]


def test_tool_turns_are_no_target_and_calls_reach_the_template_as_objects():
    call = {"type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    calling = {"role": "assistant", "content": "", "tool_calls": json.dumps([call])}
    source = (
        "{% for m in messages %}<|start|>{{ m.role }} {{ m.content }}"
        "{% for c in m.tool_calls or [] %}{{ c.function.name }}({{ c.function.arguments.x }}){% endfor %}<|end|>"
        "{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant {% endif %}"
    )
    found = marked(Template(bytewise(), source), [USER, calling, TOOL, LAST], "all")
    asked = "<|start|>user Hi<|end|><|start|>assistant [[f(1)<|end|>]]"
    assert found == asked + "<|start|>tool 42<|end|><|start|>assistant [[Ok<|end|>]]"
    plain = marked(Template(bytewise(), PLAIN_TEMPLATE), [USER, calling, TOOL, LAST])
    assert plain.startswith('<s>Hi\n[{"type": "function"')
    assert plain.endswith("</s>42\n[[Ok</s>]]")


def test_a_template_that_rewrites_earlier_turns_serves_the_last_answer_only():
    template = Template(bytewise(), FORGETFUL)
    assert marked(template, DIALOGUE).endswith(
        "Yo<|end|><|start|>user\nBye<|end|><|start|>assistant\n[[<think></think>Ok<|end|>]]"
    )
    with pytest.raises(DataError, match="changes earlier turns") as caught:
        template.segments(DIALOGUE, "all")
    assert "loss_on: completion" in caught.value.remedy


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ raise_exception('no system turns') }}", "no system turns"),
        ("{% for m in messages %}", "unknown tag|Unexpected end"),
        ("{{ messages[9].content.x }}", "messages|undefined|no element"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
    ],
)
def test_a_template_that_fails_is_an_error_of_the_data(source: str, said: str):
    with pytest.raises(DataError, match=said) as caught:
        Template(bytewise(), source).segments([SYSTEM, USER, ANSWER])
    assert "system, user" in caught.value.what


def test_a_template_that_never_opens_the_assistants_turn_is_refused():
    unopened = "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>{% endfor %}"
    with pytest.raises(DataError, match="never opens") as caught:
        template_of(bytewise(), unopened)
    assert "{% if add_generation_prompt %}<|start|>assistant{% endif %}" in caught.value.remedy
    for source, *_ in GOLDEN.values():
        template_of(bytewise(), source)


def test_the_jobs_template_wins_then_the_tokenizers_own_then_the_plain_one(tmp_path: Path):
    path = tmp_path / "chat.jinja"
    path.write_text(CHATML)
    tokenizer = bytewise()
    assert template_of(tokenizer, None).source == PLAIN_TEMPLATE
    tokenizer.chat_template = BRACKETS
    assert template_of(tokenizer, None).source == BRACKETS
    assert template_of(tokenizer, CHATML).source == template_of(tokenizer, str(path)).source == CHATML
    tokenizer.chat_template = {"default": CHATML, "tool_use": BRACKETS}
    assert template_of(tokenizer, None).source == CHATML
    tokenizer.chat_template = {"rag": CHATML, "tool_use": BRACKETS}
    with pytest.raises(BaseModelError, match="rag, tool_use"):
        template_of(tokenizer, None)
    with pytest.raises(DataError, match="cannot be read"):
        template_of(tokenizer, str(tmp_path / "missing.jinja"))


def test_a_base_without_a_usable_tokenizer_is_refused(tmp_path: Path):
    with pytest.raises(BaseModelError, match="no tokenizer that loads"):
        load_tokenizer(str(tmp_path))
    bytewise().save_pretrained(tmp_path / "whole")
    assert load_tokenizer(str(tmp_path / "whole")).eos_token_id == 2
    (tmp_path / "whole" / "tokenizer.json").write_text("{}")
    with pytest.raises(BaseModelError, match="no tokenizer that loads"):
        load_tokenizer(str(tmp_path / "whole"))
    bytewise(eos_token=None).save_pretrained(tmp_path / "endless")
    with pytest.raises(BaseModelError, match="no end-of-text token"):
        load_tokenizer(str(tmp_path / "endless"))


def test_the_real_small_model_gets_the_plain_template(realdata: Path):
    tokenizer = load_tokenizer(str(realdata / "stories260K"))
    template = template_of(tokenizer, None)
    assert template.source == PLAIN_TEMPLATE
    assert template.stop_ids == [2]
    ids = template.prompt_ids([USER])
    # A byte-fallback tokenizer of 512 tokens: begin, "▁H", "i", line break as its byte.
    assert tokenizer.convert_ids_to_tokens(ids) == ["<s>", "▁H", "i", "<0x0A>"]
    assert tokenizer.convert_ids_to_tokens(template.answer_ids([USER], "Yo")) == ["▁", "Y", "o", "</s>"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{% for m in messages %}{{ m.contents }}{% endfor %}", "leaves out an answer's content"),
        ("{{ 'Hello' }}", "leaves out an answer's content"),
        ("{% for m in messages if m.role == 'assistant' %}{{ m.content }}{% endfor %}", "never writes the question"),
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", "leaves out an answer's content"),
    ],
)
def test_a_template_that_leaves_out_what_was_said_is_refused(source: str, said: str):
    with pytest.raises(DataError, match=said) as caught:
        template_of(bytewise(), source)
    assert caught.value.where == "data.template"


@pytest.mark.parametrize("source", ["{{ 1/0 }}", "{% for i in range(10000000) %}{% endfor %}", "{{ [0] * -1 % 'x' }}"])
def test_whatever_a_template_raises_is_an_error_of_the_data(source: str):
    with pytest.raises(DataError, match="cannot render turns of the roles user"):
        template_of(bytewise(), source)


@pytest.mark.parametrize("content", ["", "Let me see"])
def test_an_answer_of_which_the_template_leaves_out_the_call_is_refused(content: str):
    calls = json.dumps([{"type": "function", "function": {"name": "f", "arguments": "{}"}}])
    calling = {"role": "assistant", "content": content, "tool_calls": calls}
    with pytest.raises(DataError, match="leaves out an answer's tool_calls"):
        Template(bytewise(), CHATML).segments([USER, calling])
    with pytest.raises(DataError, match="leaves out an answer's tool_calls"):
        Template(bytewise(), CHATML).segments([USER, calling, TOOL, LAST], "all")
    assert Template(bytewise(), CHATML).segments([USER, calling, TOOL, LAST])[-1].text == "Ok<|end|>"


@pytest.mark.parametrize("calls", ["x", "5", '["f"]', '{"a": 1}', '[{"function": "f"}]', '[{"arguments": "{x"}]'])
def test_tool_calls_that_are_none_are_an_error_of_the_data(calls: str):
    calling = {"role": "assistant", "content": "", "tool_calls": calls}
    with pytest.raises(DataError, match="tool calls"):
        Template(bytewise(), PLAIN_TEMPLATE).segments([USER, calling])


def test_half_a_character_in_a_call_becomes_the_replacement_character():
    calls = json.dumps([{"name": "f", "arguments": json.dumps({"x": "\ud83d"})}])
    template = Template(bytewise(), PLAIN_TEMPLATE)
    assert "\ud83d" not in template.segments([USER, {"role": "assistant", "content": "", "tool_calls": calls}])[-1].text
