"""Messages ↔ the text and token ids that a model sees, the same in training, evaluation and serving.

A conversation is rendered piece by piece: up to an assistant's turn as a prompt, then what that turn adds. Each piece
is tokenised on its own and the ids are concatenated, so the prompt's ids at inference are exactly those of training,
whatever the tokenizer would merge across the border. (With loss on all turns a later turn's history is several
pieces; its ids are those of one piece wherever special tokens enclose the turns.) A template that rewrites earlier
turns cannot be cut so, and is refused.

An answer ends with a token that stops generation: the first special token of those that the template closes a turn
with. What comes behind it (a line break, a second closing token) is no target. Where the template closes with none, the
tokenizer's end-of-text token takes the place of white space behind the last answer; earlier answers stay as rendered.

A base without a chat template gets ``PLAIN_TEMPLATE``: after the beginning-of-text token the contents of system, user
and tool turns, each followed by a line break, and those of the assistant, each closed by the end-of-text token. Plain
text without a prompt uses no template: begin, text, end. Left out: the schemas of tools, which rows do not carry.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from cluster.errors import BaseModelError, DataError
from cluster.places import local_directory
from cluster.plain_template import PLAIN_TEMPLATE
from cluster.trusted_code import loading, remedy_of
from trainers.turns import text_of

if TYPE_CHECKING:
    from trainers.turns import Message

LossOn = Literal["completion", "all"]
SHOWN_CHARS = 60


@dataclass(frozen=True)
class Segment:
    """A piece of rendered text, tokenised on its own; ``is_target`` where the model shall learn to write it."""

    text: str
    is_target: bool


def load_tokenizer(path: str) -> Any:
    """Load the tokenizer of a model directory or hub id. Raises BaseModelError where there is none, or no eos."""
    from transformers import AutoTokenizer

    directory, code = local_directory(path), loading(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, **code)
    except Exception as error:  # a damaged tokenizer.json comes out of Rust as a bare Exception
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BaseModelError(
            f"{path} has no tokenizer that loads: {reason}",
            remedy_of(error, "Add a tokenizer.json that fits the model."),
            "base",
        ) from error
    if tokenizer.eos_token_id is None:
        raise BaseModelError(
            f"the tokenizer of {path} has no end-of-text token", "Set eos_token in its tokenizer_config.json.", "base"
        )
    return tokenizer


def template_of(tokenizer: Any, given: str | None) -> Template:
    """Return the job's template (text, or the file that holds it), else the tokenizer's own, else the plain one.

    Raises DataError where it cannot be read or rendered, leaves out what was said or leaves the opening of an answer to
    the model, BaseModelError where the tokenizer has several and none is the default.
    """
    if given is not None:
        template = Template(tokenizer, _template_text(given))
        template.refuse_unfit()
        return template
    own = tokenizer.chat_template
    if isinstance(own, dict):
        named = cast("dict[str, str]", own)
        if "default" not in named:
            raise BaseModelError(
                f"the tokenizer has the chat templates {', '.join(sorted(named))}, and none of them is its default",
                "Give one of them as data.template.",
                "base",
            )
        own = named["default"]
    return Template(tokenizer, own or PLAIN_TEMPLATE)


def _template_text(given: str) -> str:
    if "{" in given or "\n" in given:
        return given
    try:
        return Path(given).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"the template {given} cannot be read: {error}", "give a Jinja file, or the text itself", "data.template"
        ) from error


@dataclass(frozen=True)
class Template:
    """A chat template bound to a tokenizer; ``source`` is its Jinja text."""

    tokenizer: Any
    source: str

    def segments(self, messages: Sequence[Message], loss_on: LossOn = "completion") -> list[Segment]:
        """Return the pieces of a conversation in order. Raises DataError where the template cannot be cut."""
        if len(messages) == 1:
            text = Segment(self._ended(messages[0]["content"], self.tokenizer.eos_token), True)
            return [Segment(self.tokenizer.bos_token, False), text] if self.tokenizer.bos_token else [text]
        turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        learned = turns if loss_on == "all" else turns[-1:]
        return list(self._cut(messages, learned))

    def refuse_unfit(self) -> None:
        """Raise DataError where the prompt lacks the question or the answer's text the answer.

        Also where the prompt does not open the assistant's turn, so that answers would begin with it.
        """
        asked: Message = {"role": "user", "content": "ASKED"}
        prompt, answer = (part.text for part in self.segments([asked, {"role": "assistant", "content": "ANSWERED"}]))
        for name, text, said in (("question", prompt, "asked"), ("answer", answer, "answered")):
            if said not in text.lower():
                raise DataError(
                    f"the chat template never writes the {name}: of a row whose {name} is {said.upper()!r} it makes "
                    f"{text[:SHOWN_CHARS]!r}",
                    "Write {{ message.content }} for every message of messages.",
                    "data.template",
                )
        opening = answer.partition("ANSWERED")[0]
        if opening.strip() and "add_generation_prompt" not in self.source:
            raise DataError(
                f"the chat template never opens the assistant's turn, so the model would have to write {opening!r}",
                "End it with {% if add_generation_prompt %}" + opening.strip() + "{% endif %}.",
                "data.template",
            )

    def prompt_ids(self, prompt: Sequence[Message]) -> list[int]:
        """Return the ids that a model is given before it answers; plain text has only its beginning."""
        if not prompt:
            return [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        return self.encode_text(self._render(prompt, prompt=True))

    def answer_ids(self, prompt: Sequence[Message], answer: str) -> list[int]:
        """Return the ids of an answer as the model shall write it, its stop token included."""
        segments = self.segments([*prompt, {"role": "assistant", "content": answer}])
        return self.encode_text(segments[-1].text)

    @cached_property
    def stop_ids(self) -> list[int]:
        """Token ids that end an answer: what this template ends one with, and the tokenizer's end-of-text."""
        asked: Message = {"role": "user", "content": "x"}
        last = self.answer_ids([asked], "y")[-1]
        return list(dict.fromkeys((last, int(self.tokenizer.eos_token_id))))

    def encode_text(self, text: str) -> list[int]:
        """Return the ids of one piece, special tokens recognised, none added."""
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _cut(self, messages: Sequence[Message], learned: list[int]) -> Iterator[Segment]:
        done = ""
        for turn in learned:
            before = self._render(messages[:turn], prompt=True)
            yield Segment(self._added(done, before), False)
            added = self._added(before, self._render(messages[: turn + 1], prompt=False))
            self._refuse_left_out(messages[: turn + 1], before + added, added)
            answer = self._ended(added, self.tokenizer.eos_token if turn == learned[-1] else "")
            yield Segment(answer, True)
            done = before + answer

    def _refuse_left_out(self, messages: Sequence[Message], rendered: str, added: str) -> None:
        """Raise DataError where what the last message says or calls makes no difference to the rendered text."""
        last = messages[-1]
        said = last["content"].strip()
        parts = ["content"] if said and said not in added else []
        for part in (*parts, *({"tool_calls"} & last.keys())):
            without = {"content": ""} | {key: value for key, value in last.items() if key != part}
            try:
                other = self._render([*messages[:-1], without], prompt=False)
            except DataError:
                continue  # the template looks at it
            if other == rendered:
                raise DataError(
                    f"the chat template leaves out an answer's {part}",
                    "Mend the row, or give a template that writes it as data.template.",
                    "data.template",
                )

    def _added(self, before: str, after: str) -> str:
        if after.startswith(before):
            return after[len(before) :]
        raise DataError(
            "the chat template changes earlier turns when a later one is added, so the answers cannot be cut out",
            "Set data.loss_on: completion, or give a template that only appends as data.template.",
            "data.template",
        )

    def _ended(self, answer: str, added_stop: str) -> str:
        """Return an answer up to its stop token, the first special token of its end; else ``added_stop`` ends it."""
        end = self._end_pattern.search(answer)
        assert end is not None, "the pattern matches an empty end"
        return answer[: end.end("stop")] if end["stop"] else answer[: end.start()] + added_stop

    @cached_property
    def special_tokens(self) -> list[str]:
        """The texts of the tokenizer's special tokens, which it recognises wherever they stand."""
        added = [str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        return sorted({token for token in (*added, *self.tokenizer.all_special_tokens) if token.strip()})

    @cached_property
    def _end_pattern(self) -> re.Pattern[str]:
        """The white space and special tokens that a text ends with; group ``stop`` is the first of the tokens."""
        either = "|".join(re.escape(token) for token in self.special_tokens)
        return re.compile(rf"(?<!\s)\s*(?:(?P<stop>{either})(?:\s|{either})*)?\Z")

    def _render(self, messages: Sequence[Message], *, prompt: bool) -> str:
        shown = [_as_templates_read(message) for message in messages]
        try:
            text: str = self.tokenizer.apply_chat_template(
                shown, chat_template=self.source, tokenize=False, add_generation_prompt=prompt
            )
        except Exception as error:  # a template is a program: it may divide by zero or make a list too long
            roles = ", ".join(message["role"] for message in messages)
            raise DataError(
                f"the chat template cannot render turns of the roles {roles}: {str(error) or type(error).__name__}",
                "Mend the row, or give another template as data.template.",
                "data.template",
            ) from error
        return text_of(text) or ""


def _as_templates_read(message: Message) -> dict[str, Any]:
    """Return a message with its tool calls as objects, and their arguments too, as templates expect them.

    Raises DataError where the calls are none; reading rows refuses such (``trainers.turns``), so they came another way.
    """
    shown: dict[str, Any] = dict(message)
    if "tool_calls" in message:
        try:
            shown["tool_calls"] = json.loads(message["tool_calls"])
            for call in shown["tool_calls"]:
                function = call.get("function", call)
                if isinstance(function.get("arguments"), str):
                    function["arguments"] = json.loads(function["arguments"] or "{}")
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(
                f"the tool calls {message['tool_calls'][:SHOWN_CHARS]!r} cannot be read: {error}",
                "Write them as a list of objects, each with a function's name and its arguments as JSON.",
            ) from error
    return shown
