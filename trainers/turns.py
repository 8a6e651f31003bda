"""A list of turns as data sets write it → messages with our role names, and what is wrong with their order.

OpenAI's `messages` (role, content, tool_calls) and ShareGPT's `conversations` (from, value) are read alike. Every
value of a message is text: parts of text are joined, tool calls are kept as the JSON of OpenAI's list under
``tool_calls``. Left out: images and audio (refused), OpenAI's per-message ``weight``, and the ``tools`` column.
"""

from __future__ import annotations

import json
import math
from typing import cast

ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt", "function_call"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "ipython"), "tool"),
}
Message = dict[str, str]


class NotTextError(ValueError):
    """A value that cannot be read as text; its message says what it is."""


class BrokenTurnError(ValueError):
    """A list of turns that cannot be read as messages; its message says why."""


def text_of(value: object) -> str | None:
    """Return a scalar as text, None for a null or not-a-number; raise NotTextError for lists, mappings and bytes."""
    if isinstance(value, str):
        # A lone surrogate (JSON's "\ud83d") is no character: it becomes U+FFFD, which the audit reports.
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # integers beside nulls come out of Parquet as 1.0
    if isinstance(value, dict | list | tuple | bytes):
        raise NotTextError(f"a {type(value).__name__}, not text")
    return str(value)


def messages_of(value: object) -> list[Message]:
    """Return the turns as messages; ``value`` is a list of turns, or such a list as JSON text.

    Raises BrokenTurnError where a turn is no object, has an unknown role, or holds something that is not text.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise BrokenTurnError(f"the turns are no valid JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(value, list) or not value:
        raise BrokenTurnError(f"the turns are {_seen(cast('object', value))}, not a list of turns")
    return [_message(turn, place) for place, turn in enumerate(cast("list[object]", value), start=1)]


def order_fault(messages: tuple[Message, ...]) -> str | None:
    """Return what is wrong with the order of the roles, or None: system first, then user and assistant in turns.

    Tool turns follow an assistant's turn or each other, and an assistant may go on after them.
    """
    before = "start"
    for place, message in enumerate(messages, start=1):
        role = message["role"]
        allowed = {
            "system": ("start",),
            "user": ("start", "system", "assistant"),
            "assistant": ("user", "tool", "system") if len(messages) > 1 else ("start",),
            "tool": ("assistant", "tool"),
        }[role]
        if before not in allowed:
            return f"turn {place} is {role} after {before}"
        before = role
    return None


def _message(turn: object, place: int) -> Message:
    if not isinstance(turn, dict):
        raise BrokenTurnError(f"turn {place} is {_seen(turn)}, not an object with role and content")
    parts = cast("dict[str, object]", turn)
    said = parts.get("role") or parts.get("from")
    role = ROLES.get(said.lower()) if isinstance(said, str) else None
    if role is None:
        raise BrokenTurnError(f"turn {place} has the role {said!r}; known are {', '.join(ROLES)}")
    content = parts["content"] if "content" in parts else parts.get("value")
    if said == "function_call":  # ShareGPT writes the call itself as the turn's text
        return {"role": role, "content": "", "tool_calls": _share_gpt_call(content, place)}
    message = {"role": role, "content": _joined(content, place)}
    for key in ("name", "tool_call_id"):
        if isinstance(value := parts.get(key), str):
            message[key] = value
    calls = parts.get("tool_calls") or _legacy_call(parts.get("function_call"))
    if calls:
        message["tool_calls"] = calls if isinstance(calls, str) else json.dumps(calls, ensure_ascii=False)
    return message


def _joined(content: object, place: int) -> str:
    """Return a turn's text, which OpenAI may write as a list of text parts."""
    if not isinstance(content, list):
        try:
            return text_of(content) or ""
        except NotTextError as error:
            raise BrokenTurnError(f"turn {place} holds {error}") from error
    texts: list[str] = []
    for part in cast("list[object]", content):
        text = cast("dict[str, object]", part).get("text") if isinstance(part, dict) else None
        if not isinstance(text, str):
            raise BrokenTurnError(f"turn {place} holds a part that is not text")
        texts.append(text_of(text) or "")
    return "".join(texts)


def _share_gpt_call(content: object, place: int) -> str:
    try:
        call: object = json.loads(content) if isinstance(content, str) else content
    except json.JSONDecodeError as error:
        raise BrokenTurnError(f"turn {place} is a function call but no valid JSON: {error.msg}") from error
    return json.dumps(_legacy_call(call), ensure_ascii=False)


def _legacy_call(call: object) -> list[object]:
    return [{"type": "function", "function": call}] if call else []


def _seen(value: object) -> str:
    return "null" if value is None else "an empty list" if value == [] else f"a {type(value).__name__}"
