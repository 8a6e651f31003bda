"""One raw record of a file → one row of messages, with what is wrong with it on record.

A fault of a single row is for the audit to count, not to raise: a row without an answer is still a row, and so is a
record written in another format than the file's, as long as it can be read. Only what cannot be read is skipped, and
that is recorded too. Left out: which format it is (``trainers.formats``) and what turns mean (``trainers.turns``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from cluster.errors import DataError
from trainers.formats import COLUMNS, FormatChoice, Layout, infer_format
from trainers.turns import BrokenTurnError, Message, NotTextError, messages_of, order_fault, text_of

ProblemCode = Literal["target_missing", "turn_empty", "roles_broken", "format_mixed"]
EXTRA_CHARS = 200
YES, NO = ("true", "1", "yes", "y"), ("false", "0", "no", "n", "")


@dataclass(frozen=True, slots=True)
class Row:
    """One example: messages of which the last is the assistant's answer, and where it comes from.

    Plain text is a single assistant message. ``label`` is the class in classification, or the column named as label.
    ``references`` are further right answers. ``extra`` holds the other columns with short values, for slices.
    """

    messages: tuple[Message, ...]
    label: str | None = None
    references: tuple[str, ...] = ()
    group: str | None = None
    source: str = ""
    where: str = ""
    synthetic: bool = False
    extra: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The messages before the answer."""
        return self.messages[:-1]

    @property
    def completion(self) -> str:
        """The answer's text; the JSON of its tool calls where it says nothing else; empty where there is no answer."""
        return self.messages[-1]["content"] or self.messages[-1].get("tool_calls", "")

    @property
    def is_labelled(self) -> bool:
        """True where the answer is the row's label."""
        return self.label is not None and self.label == self.completion


class SourceProblem(NamedTuple):
    """What is wrong with one row: a finding code, the place, and what was seen."""

    code: ProblemCode
    where: str
    detail: str


@dataclass
class FileReading:
    """How one file is read: the source its rows go to, the format chosen, the column names seen, and how many rows."""

    name: str
    source: str
    choice: FormatChoice
    columns_seen: dict[str, None]
    num_records: int = 0
    num_rows: int = 0


class SourceProblems(list[SourceProblem]):
    """The problems of all rows read so far, and how each file was read."""

    def __init__(self) -> None:
        super().__init__()
        self.files: list[FileReading] = []

    @property
    def columns_seen(self) -> set[str]:
        """Every column name of every file."""
        return {name for file in self.files for name in file.columns_seen}


class RowMaker:
    """Turns the records of one file into rows, and records what is wrong with each and which columns there are."""

    def __init__(self, data: Layout, choice: FormatChoice, source: str, problems: SourceProblems) -> None:
        self.data = data
        self.choice = choice
        self.source = source
        self.problems = problems
        self.columns_seen: dict[str, None] = {}

    def row(self, record: Mapping[str, object], where: str) -> Row | None:
        """Return the record as a row, or None where it cannot be read, which is then in ``problems``."""
        choice = self.choice
        first = choice.columns[next(iter(COLUMNS[choice.format]))]
        if not record.keys() <= self.columns_seen.keys():
            self.columns_seen.update(dict.fromkeys(record))
        try:
            if first not in record:
                choice = self._other_choice(record, where)
            row = self._whole(record, choice, where)
        except BrokenTurnError as error:
            self.problems.append(SourceProblem("roles_broken", where, str(error)))
            return None
        except (NotTextError, DataError) as error:
            detail = error.what if isinstance(error, DataError) else str(error)
            self.problems.append(SourceProblem("format_mixed", where, detail))
            return None
        self._note_faults(row)
        return row

    def _other_choice(self, record: Mapping[str, object], where: str) -> FormatChoice:
        """Return the format of a record that is not written like the others, and note that."""
        choice = infer_format(record.keys(), self.data, where)
        detail = f"{choice.format} among rows of {self.choice.format}"
        self.problems.append(SourceProblem("format_mixed", where, detail))
        return choice

    def _whole(self, record: Mapping[str, object], choice: FormatChoice, where: str) -> Row:
        columns = choice.columns
        references = _references(record.get(columns["references"]))
        label = (_text(record, columns.get("label")) or "").strip() or None
        messages = _messages(record, choice, label, references)
        system = _text(record, columns["system"])
        if system and len(messages) > 1 and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": system})
        return Row(
            tuple(messages),
            label,
            references,
            (_text(record, columns.get("group")) or "").strip() or None,
            self.source,
            where,
            self._is_synthetic(_text(record, columns["synthetic"]), where),
            _extra(record, columns),
        )

    def _is_synthetic(self, value: str | None, where: str) -> bool:
        """Return what the column says; what is neither yes nor no means no, and is noted where the column is named."""
        said = (value or "").strip().lower()
        if said not in (*YES, *NO) and "synthetic" in self.data.columns:
            detail = (
                f"column {self.data.columns['synthetic']!r} (synthetic) holds {said[:EXTRA_CHARS]!r}, not yes or no"
            )
            self.problems.append(SourceProblem("format_mixed", where, detail))
        return said in YES

    def _note_faults(self, row: Row) -> None:
        if not row.completion.strip():
            self.problems.append(SourceProblem("target_missing", row.where, "the row has no answer"))
        for place, message in enumerate(row.prompt, start=1):
            if not message["content"].strip() and "tool_calls" not in message:
                self.problems.append(
                    SourceProblem("turn_empty", row.where, f"turn {place} ({message['role']}) is empty")
                )
                break
        if fault := order_fault(row.messages):
            self.problems.append(SourceProblem("roles_broken", row.where, fault))


def _messages(
    record: Mapping[str, object], choice: FormatChoice, label: str | None, references: tuple[str, ...]
) -> list[Message]:
    """Return the messages of a record, the answer last."""
    columns = choice.columns
    if "messages" in COLUMNS[choice.format]:
        messages = messages_of(record.get(columns["messages"]))
        if messages[-1]["role"] != "assistant":
            messages.append(_said("assistant", references[0] if references else ""))
        return messages
    if choice.format == "text":
        return [_said("assistant", _text(record, columns["text"]) or "")]
    if choice.format == "classification":
        return [_said("user", _text(record, columns["text"]) or ""), _said("assistant", label or "")]
    asked = _turns(record.get(columns["prompt"]), "user", columns["prompt"])
    if choice.format == "alpaca" and (given := _text(record, "input")):
        asked[-1] = _said("user", f"{asked[-1]['content']}\n\n{given}")
    answer = _turns(record.get(columns["completion"]), "assistant", columns["completion"])
    if references and not answer[-1]["content"]:
        answer = [_said("assistant", references[0])]
    return asked + answer


def _turns(value: object, role: str, column: str) -> list[Message]:
    """Return a prompt or completion as messages; it is text, or a list of turns (as TRL writes conversations)."""
    if isinstance(value, list) and value:
        turns = messages_of(value)
        if role != "assistant" or turns[-1]["role"] == "assistant":
            return turns
        raise BrokenTurnError(f"column {column!r} ends with the role {turns[-1]['role']}, not assistant")
    try:
        return [_said(role, text_of(value) or "")]
    except NotTextError as error:
        raise NotTextError(f"column {column!r} holds {error}") from error


def _references(value: object) -> tuple[str, ...]:
    """Return the references that a column lists: a list, text, or a list as JSON text."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            return (value,)
    values = value if isinstance(value, list) else [value]
    return tuple(text for text in map(text_of, values) if text)


def _extra(record: Mapping[str, object], columns: Mapping[str, str]) -> dict[str, str]:
    used = columns.values()
    extra: dict[str, str] = {}
    for name, value in record.items():
        if name in used or value is None or isinstance(value, dict | list | tuple | bytes):
            continue
        text = text_of(value)
        if text is not None and len(text) <= EXTRA_CHARS:
            extra[name] = text
    return extra


def _text(record: Mapping[str, object], column: str | None) -> str | None:
    try:
        return None if column is None else text_of(record.get(column))
    except NotTextError as error:
        raise NotTextError(f"column {column!r} holds {error}") from error


def _said(role: str, content: str) -> Message:
    return {"role": role, "content": content}
