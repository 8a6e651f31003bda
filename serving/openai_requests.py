"""OpenAI's request bodies → what an engine is asked.

Fields that change an answer and that no engine here knows are refused rather than passed over; fields that only label
a request (user, metadata, …) are read or ignored. Left out: tools, response formats, penalties, several prompts in one
request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cluster.errors import RequestRefused
from cluster.serve_spec import GenerationSpec
from serving.generation import GenerationRequest, Message, Prompt

MOST_TOKENS = 8192
MOST_ANSWERS = 16
MOST_TURNS = 1000
NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "tools": (None, []),
    "functions": (None, []),
    "tool_choice": (None, "none", "auto"),
    "function_call": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "logit_bias": (None, {}),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "suffix": (None, ""),
    "echo": (None, False),
    "best_of": (None, 1),
    "reasoning_effort": (None,),
    "web_search_options": (None,),
}
"""Fields of OpenAI's that would change the answer, and the values at which they do not."""


class StreamOptions(BaseModel):
    """What a stream says besides its text."""

    include_usage: bool = False


class _Asked(BaseModel):
    """What both kinds of requests have."""

    model_config = ConfigDict(extra="allow")
    is_chat: ClassVar[bool]

    model: str | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: Annotated[int, Field(ge=1, le=MOST_ANSWERS)] | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def with_usage(self) -> bool:
        """Whether the stream ends with the counts of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    def _generation(self, prompt: Prompt, logprobs: int | None, defaults: GenerationSpec) -> GenerationRequest:
        stop = [self.stop] if isinstance(self.stop, str) else self.stop
        asked = self.max_tokens
        if asked is not None and asked > MOST_TOKENS:
            raise RequestRefused(
                f"max_tokens is {asked}, but must be 1 to {MOST_TOKENS}", "Give a smaller one.", "max_tokens"
            )
        return GenerationRequest(
            prompt=prompt,
            max_tokens=min(defaults.max_tokens, MOST_TOKENS) if asked is None else asked,
            temperature=defaults.temperature if self.temperature is None else self.temperature,
            top_p=defaults.top_p if self.top_p is None else self.top_p,
            seed=None if self.seed is None else self.seed % 2**63,
            stop=tuple(defaults.stop if stop is None else stop),
            n=self.n or 1,
            logprobs=logprobs,
            may_shorten=asked is None,
        )


class ChatAsked(_Asked):
    """The body of /v1/chat/completions."""

    is_chat: ClassVar[bool] = True

    messages: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MOST_TURNS)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.max_tokens is None:
            self.max_tokens = self.max_completion_tokens
        return self

    def generation(self, defaults: GenerationSpec) -> GenerationRequest:
        """Return what the engine is asked, the arm's own settings where the body says nothing."""
        logprobs = (self.top_logprobs or 0) if self.logprobs else None
        return self._generation(tuple(map(_turn, self.messages)), logprobs, defaults)

    @property
    def text(self) -> str:
        """The turns' words, for the ledger."""
        return "\n".join(str(message.get("content") or "") for message in map(_turn, self.messages))

    @property
    def num_turns(self) -> int:
        """How many turns the prompt has."""
        return len(self.messages)

    @property
    def turns(self) -> list[tuple[str, str]]:
        """Every turn's role and words, for whoever trains on them."""
        return [(str(turn["role"]), str(turn.get("content") or "")) for turn in map(_turn, self.messages)]


class TextAsked(_Asked):
    """The body of /v1/completions."""

    is_chat: ClassVar[bool] = False

    prompt: str | list[int] | Annotated[list[str] | list[list[int]], Field(min_length=1, max_length=1)]
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    def generation(self, defaults: GenerationSpec) -> GenerationRequest:
        """Return what the engine is asked, the arm's own settings where the body says nothing."""
        return self._generation(self._only_prompt(), self.logprobs, defaults)

    @property
    def text(self) -> str:
        """The prompt, for the ledger; token ids have no words."""
        prompt = self._only_prompt()
        return prompt if isinstance(prompt, str) else ""

    @property
    def num_turns(self) -> int:
        """How many turns the prompt has."""
        return 1

    @property
    def turns(self) -> list[tuple[str, str]]:
        """None: a text that is gone on with is no conversation."""
        return []

    def _only_prompt(self) -> str | tuple[int, ...]:
        prompt = self.prompt
        if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
            prompt = prompt[0]
        return prompt if isinstance(prompt, str) else tuple(prompt)  # pyright: ignore[reportReturnType]


Asked = ChatAsked | TextAsked


def asked_of(kind: type[Asked], body: Mapping[str, Any]) -> Asked:
    """Return a body's request. Raises RequestRefused that names the field."""
    for field, neutral in NEUTRAL.items():
        if field in body and body[field] not in neutral:
            raise RequestRefused(f"{field} is not supported here", "Leave it out.", field)
    try:
        return kind.model_validate(dict(body))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RequestRefused(f"{where or 'the body'}: {first['msg']}", "Correct this field.", where) from None


def _turn(message: Mapping[str, Any]) -> Message:
    """Return a turn whose content is text: parts are joined, and what is no text is refused."""
    if not isinstance(message.get("role"), str):
        raise RequestRefused("a message has no role", "Give each message a role and content.", "messages")
    content: Any = message.get("content")
    if content is None or isinstance(content, str):
        return message
    if not isinstance(content, list):
        raise RequestRefused("a message's content is no text", "Give text, or parts of type text.", "messages")
    words: list[str] = []
    for part in content:
        if not (isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)):
            raise RequestRefused("a message holds a part that is no text", "Give parts of type text.", "messages")
        words.append(part["text"])
    return {**message, "content": "".join(words)}
