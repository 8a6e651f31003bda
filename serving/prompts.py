"""A request's prompt → the token ids that the model was trained to see before an answer.

A chat is rendered by the release's own template, opened for an answer, and tokenised in one piece with nothing added:
what ``trainers.templates`` gives in training and evaluation (a test compares the two; this side carries no training
code). Plain text follows the beginning-of-text token where the tokenizer has one. Token ids are taken as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from cluster.errors import RequestRefused
from cluster.plain_template import PLAIN_TEMPLATE
from serving.generation import Message, Prompt


class PromptEncoder:
    """The prompts of one release."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        own = tokenizer.chat_template
        source = cast("dict[str, str]", own).get("default") if isinstance(own, dict) else own
        self._template: str = source or PLAIN_TEMPLATE

    def ids(self, prompt: Prompt) -> list[int]:
        """Return a prompt's ids. Raises RequestRefused where it is empty or the template cannot render it."""
        if isinstance(prompt, str):
            bos: int | None = self._tokenizer.bos_token_id
            found = ([] if bos is None else [bos]) + self._encode(prompt)
        elif all(isinstance(part, int) for part in prompt):
            found = list(cast("tuple[int, ...]", prompt))
        else:
            found = self._encode(self._render(cast("tuple[Message, ...]", prompt)))
        if not found:
            raise RequestRefused("the prompt is empty", "Give at least one token, or a message.")
        return found

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _render(self, messages: tuple[Message, ...]) -> str:
        try:
            shown = [_as_templates_read(message) for message in messages]
            return self._tokenizer.apply_chat_template(
                shown, chat_template=self._template, tokenize=False, add_generation_prompt=True
            )
        except RequestRefused:
            raise
        except Exception as error:  # a template is a program, and refuses orders of roles in its own words
            roles = ", ".join(str(message.get("role")) for message in messages)
            raise RequestRefused(
                f"the chat template cannot render turns of the roles {roles}: {str(error) or type(error).__name__}",
                "Give the turns as the model was trained on them.",
                "messages",
            ) from error


def _as_templates_read(message: Message) -> dict[str, Any]:
    """Return a message with the arguments of its tool calls as objects, which OpenAI writes as JSON text."""
    shown = dict(message)
    if calls := shown.get("tool_calls"):
        shown["tool_calls"] = [_with_objects(call) for call in calls]
    return shown


def _with_objects(call: Mapping[str, Any]) -> dict[str, Any]:
    shown = dict(call)
    function = dict(shown["function"]) if "function" in shown else shown
    if isinstance(function.get("arguments"), str):
        try:
            function["arguments"] = json.loads(function["arguments"] or "{}")
        except ValueError as error:
            raise RequestRefused(
                f"a tool call's arguments are no JSON: {error}", "Write them as a JSON object.", "messages"
            ) from error
    return shown | {"function": function} if "function" in shown else function
