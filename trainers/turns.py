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
        value = _from_json(value, "the turns are")
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
        return {"role": role, "content": "", "tool_calls": _calls_text(_share_gpt_calls(content, place), place)}
    message = {"role": role, "content": _joined(content, place)}
    for key in ("name", "tool_call_id"):
        if isinstance(value := parts.get(key), str):
            message[key] = text_of(value) or ""
    legacy = parts.get("function_call")
    if calls := parts.get("tool_calls") or (_as_functions([legacy]) if legacy else None):
        message["tool_calls"] = _calls_text(calls, place)
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


def _share_gpt_calls(content: object, place: int) -> list[object]:
    call = _from_json(content, f"turn {place} is a function call but")
    return _as_functions(cast("list[object]", call) if isinstance(call, list) else [call])


def _as_functions(functions: list[object]) -> list[object]:
    return [{"type": "function", "function": function} for function in functions]


def _calls_text(calls: object, place: int) -> str:
    """Return tool calls, a list or its JSON, as JSON text.

    Raises BrokenTurnError unless each is an object with a function's name, and with arguments that are JSON.
    """
    text = calls if isinstance(calls, str) else json.dumps(calls, ensure_ascii=False)
    listed = _from_json(calls, f"turn {place} has tool_calls that are")
    if not isinstance(listed, list) or not listed:
        raise BrokenTurnError(f"turn {place} has tool_calls that are {_seen(listed)}, not a list of calls")
    for number, call in enumerate(cast("list[object]", listed), start=1):
        named = f"turn {place} has a tool call ({number}) that"
        function = cast("dict[str, object]", call).get("function", call) if isinstance(call, dict) else call
        if not isinstance(function, dict):
            raise BrokenTurnError(f"{named} is {_seen(function)}, not an object with a function")
        parts = cast("dict[str, object]", function)
        if not isinstance(parts.get("name"), str):
            raise BrokenTurnError(f"{named} names no function")
        if arguments := parts.get("arguments"):
            _from_json(arguments, f"{named} has arguments that are")
    return text_of(text) or ""


def _from_json(value: object, said: str) -> object:
    """Return the value of JSON text, anything else as it is; raise BrokenTurnError, which ``said`` begins."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise BrokenTurnError(f"{said} no valid JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise BrokenTurnError(f"{said} JSON that cannot be read: {error}") from error


def _seen(value: object) -> str:
    return "null" if value is None else "an empty list" if value == [] else f"a {type(value).__name__}"
