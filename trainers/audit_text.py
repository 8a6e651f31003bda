"""The audit row by row: damaged encoding, control characters, boilerplate, personal data.

One pass over the rows. Each check has a filter that costs about a microsecond, and only what passes it meets the
expensive test; what a text showed is remembered for a while, since instructions and copies repeat. Encoding is damaged
where ``ftfy`` would change the text (its heuristic leaves correct accents and emoji alone) or where it holds U+FFFD,
which nothing can undo.

A tokenizer's special token written in a text is read as the token itself: an answer may end there, or a turn begin. It
counts as a control character.

Left out: spelling, toxicity, and anything that needs a model; languages have a module of their own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from cluster.personal_data import find_personal_data
from trainers.audit_evidence import Evidence, counted, shortened
from trainers.rows import Row

# C0 and C1 without tab, line feed, carriage return and NEL; zero-width space, word joiner, byte-order mark,
# directional overrides and isolates, interlinear and tag characters. Joiners (U+200C, U+200D) belong to Persian,
# Indic scripts and emoji, marks U+200E and U+200F to Arabic and Hebrew.
CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069\ufff9-\ufffb"
    "\U000e0001\U000e0020-\U000e007e]"
)
FLAG_TAGS = re.compile("\U0001f3f4[\U000e0020-\U000e007e]+\U000e007f")  # the flags of Scotland, Wales and England
REMEMBERED_TEXTS, REMEMBERED_CHARS = 4096, 4000
UNSPACED = re.compile("[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff]")  # scripts that mark word breaks with U+200B
BOILERPLATE = """\
as an ai language model
as a language model, i
as a large language model, i
as an ai assistant, i
as an ai, i
i'm just an ai
i am just an ai
i'm an ai language
i am an ai language
i'm an ai assistant
i am an ai assistant
i'm a language model
i am a language model
i'm a large language model
i am a large language model
my knowledge cutoff
my last knowledge update
my training cutoff
as of my last update
i don't have personal opinions
i do not have personal opinions
i cannot fulfill that request
i can't fulfill that request
i cannot fulfill this request
i can't fulfill this request
i cannot fulfill your request
i can't assist with that
i cannot assist with that
i'm sorry, but i can't
i'm sorry, but i cannot
i am sorry, but i cannot
i'm unable to assist with
regenerate response
lorem ipsum dolor
i was trained by openai
i was developed by openai
i was created by openai
i am chatgpt
i'm chatgpt
created by anthropic to be helpful
""".splitlines()


def encoding_damage(text: str) -> str | None:
    """Return the first damaged line of a text, or None where its characters are as they were meant."""
    if text.isascii() or ("\ufffd" not in text and repaired(text) == text):
        return None
    return next((line for line in text.split("\n") if "\ufffd" in line or repaired(line) != line), None)


def repaired(text: str) -> str:
    """Return the text with its mojibake undone, line by line; U+FFFD stays, what it stood for is lost."""
    if text.isascii():
        return text
    from ftfy import fix_encoding
    from ftfy.badness import is_bad  # what fix_encoding asks first, at a tenth of its time

    if not is_bad(text):
        return text
    return "\n".join(fix_encoding(line) for line in text.split("\n"))


def control_characters(text: str) -> list[str]:
    """Return the invisible characters that have no business in a text, in order.

    C1 characters of a damaged text are halves of letters (``repaired`` needs them) and not counted.
    """
    if not CONTROL.search(text):
        return []
    fine = {"\u200b"} if UNSPACED.search(text) else set[str]()
    if repaired(text) != text:
        fine |= {chr(code) for code in range(0x80, 0xA0)}
    return [letter for letter in CONTROL.findall(FLAG_TAGS.sub("", text)) if letter not in fine]


def without_control_characters(text: str) -> str:
    """Return the text without what ``control_characters`` finds, and nothing else changed."""
    found = set(control_characters(text))
    if not found:
        return text
    flags = FLAG_TAGS.findall(text)
    parts = [part.translate(dict.fromkeys(map(ord, found))) for part in FLAG_TAGS.split(text)]
    return "".join(part + flag for part, flag in zip(parts, [*flags, ""], strict=True))


def boilerplate(answer: str) -> str | None:
    """Return the phrase of a chat assistant's stock text that an answer holds, or None."""
    lowered = answer.lower().replace("\u2019", "'")
    held = (phrase for phrase in BOILERPLATE if phrase in lowered)
    return next((phrase for phrase in held if re.search(rf"\b{phrase}\b", lowered)), None)


@dataclass
class Tally:
    """The rows in which something was seen, how often each value, and one example."""

    rows: list[int] = field(default_factory=list[int])
    values: Counter[str] = field(default_factory=Counter[str])
    example: str = ""

    def add(self, index: int, values: Sequence[str], example: str = "") -> None:
        """Note the values seen in a row; nothing where there are none."""
        if values:
            self.rows.append(index)
            self.values.update(values)
            self.example = self.example or example

    def evidence(self, code: str, detail: str, remedy: str) -> list[Evidence]:
        """Return a warning about the rows, or nothing where there are none."""
        return [Evidence(code, "warning", np.array(self.rows, np.int64), detail, remedy)] if self.rows else []

    def listed(self, num: int = 4) -> str:
        """Return the most frequent values with their counts."""
        ranked = sorted(self.values.items(), key=lambda item: (-item[1], item[0]))
        rest = f", and {counted(len(ranked) - num, 'other')}" if len(ranked) > num else ""
        return ", ".join(f"{value} ×{times:,}" for value, times in ranked[:num]) + rest


@dataclass(frozen=True, slots=True)
class Noticed:
    """What one text shows: its first damaged line, control characters, masked personal data."""

    damaged: str | None
    control: list[str]
    personal: list[str]


def _noticed(text: str) -> Noticed:
    return Noticed(
        encoding_damage(text),
        [f"U+{ord(letter):04X}" for letter in control_characters(text)],
        [f"{found.kind} {found.masked}" for found in find_personal_data(text)],
    )


class SpecialTokens:
    """The rows in which a special token of the tokenizer is written out as text."""

    def __init__(self, tokens: Collection[str]) -> None:
        longest_first = sorted(tokens, key=lambda token: (-len(token), token))
        self._any = re.compile("|".join(map(re.escape, longest_first))) if tokens else None
        self._tally = Tally()

    def look(self, index: int, texts: Sequence[str]) -> None:
        """Note the special tokens in a row's texts."""
        if self._any is not None:
            self._tally.add(index, [f"“{token}”" for text in texts for token in self._any.findall(text)])

    def evidence(self) -> list[Evidence]:
        """Return a warning about the rows, or nothing where there are none."""
        return self._tally.evidence(
            "control_characters",
            f"special tokens of the base's tokenizer written as text: {self._tally.listed()}",
            "Take them out of the texts (the template adds them): here each is read as the token, which can end an "
            "answer or begin another turn.",
        )


def text_evidence(rows: Iterable[Row], special_tokens: Collection[str] = ()) -> list[Evidence]:
    """Return what the texts of single rows show; ``special_tokens`` are those of the base's tokenizer."""
    damage, control, stock, personal = Tally(), Tally(), Tally(), Tally()
    written = SpecialTokens(special_tokens)
    remembered = lru_cache(REMEMBERED_TEXTS)(_noticed)
    for index, row in enumerate(rows):
        texts = [message["content"] for message in row.messages]
        seen = [(remembered if len(text) <= REMEMBERED_CHARS else _noticed)(text) for text in texts]
        if damaged := next((one.damaged for one in seen if one.damaged), None):
            damage.add(index, [damaged], damaged)
        control.add(index, next((one.control for one in seen if one.control), []))
        said = (message["content"] for message in row.messages if message["role"] == "assistant")
        if phrase := next(filter(None, map(boilerplate, said)), None):
            stock.add(index, [f"“{phrase}”"])
        personal.add(index, [item for one in seen for item in one.personal])
        written.look(index, texts)
    return [
        *damage.evidence(
            "encoding_damaged",
            _damage_detail(damage.example),
            "Read the file in the encoding it was written in, or mend the rows: audit: {fix: [encoding_damaged]}.",
        ),
        *control.evidence(
            "control_characters",
            f"invisible characters {control.listed()}",
            "Strip them: audit: {fix: [control_characters]}.",
        ),
        *written.evidence(),
        *stock.evidence(
            "boilerplate",
            f"answers with a chat assistant's stock text: {stock.listed()}",
            "Rewrite these answers, or drop the rows: audit: {fix: [boilerplate]}; the model learns to say this.",
        ),
        *personal.evidence(
            "pii",
            f"personal data or keys, masked here: {personal.listed()}",
            "Mask them: audit: {fix: [pii]}; revoke any key that is real.",
        ),
    ]


def _damage_detail(line: str) -> str:
    fixed = repaired(line)
    place = next((at for at, pair in enumerate(zip(line, fixed, strict=False)) if pair[0] != pair[1]), None)
    start = max(0, (line.find("\ufffd") if place is None else place) - 15)
    seen = shortened(line[start:], 30)
    meant = (
        "U+FFFD stands where characters were lost"
        if fixed == line
        else f"was meant to be {shortened(fixed[start:], 30)}"
    )
    return f"{seen} {meant}"
