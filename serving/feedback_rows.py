"""What users said of answers → rows to train on, and why everything else was left out.

A correction is a row: the prompt as it was kept, and the corrected answer in place of the given one. An answer that a
user called right is one only where the endpoint's ``retrain.confirmed`` says so: a model that is trained on its own
answers learns its own habits. A row needs the consent that came with the request, and the kept text of its prompt, in
which personal data is masked already. Who corrects an answer twice has the last word.

Pure: rows of the ledger in, rows out. How much of one user's word counts is in ``serving.feedback_bounds``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from cluster.personal_data import mask_personal_data
from serving.ledger_rows import Exposure, Outcome

CHAT = "chatcmpl-"
Kind = Literal["correction", "confirmed"]
Turn = tuple[str, str]
"""A role and its words."""


@dataclass(frozen=True, slots=True)
class FeedbackRow:
    """One example that a user gave; ``unit`` is hashed, and shared by all who named none."""

    request: str
    unit: str
    time_s: float
    turns: tuple[Turn, ...]
    answer: str
    kind: Kind
    has_unit: bool = True
    voices: int = 1
    """How many units say the same."""

    @property
    def prompt(self) -> str:
        """What is compared where it matters whether two rows ask the same."""
        return prompt_key(self.turns)


def prompt_key(turns: Iterable[Turn]) -> str:
    """Return turns as they are compared: without personal data, which is masked in live ones, case and white space."""
    return "\x1e".join(f"{role}\x1f{answer_key(words).lower()}" for role, words in turns)


def answer_key(answer: str) -> str:
    """Return an answer as it is compared: personal data masked, as it is in live ones, without runs of white space."""
    return " ".join(mask_personal_data(answer).split())


def feedback_rows(
    judged: Iterable[tuple[Exposure, Outcome]], outcome: str, *, confirmed: bool
) -> tuple[list[FeedbackRow], Counter[str]]:
    """Return the rows by time, one for each request, and how many judgements were left out by reason.

    ``outcome`` is the name under which a value of 1 calls an answer right.
    """
    found: dict[str, FeedbackRow] = {}
    left_out: Counter[str] = Counter()
    for exposure, said in judged:
        row = _row(exposure, said, outcome, confirmed=confirmed)
        if isinstance(row, str):
            left_out[row] += bool(row)
        elif (known := found.get(row.request)) is None or row.kind == "correction":
            left_out["superseded"] += known is not None
            found[row.request] = row
    return sorted(found.values(), key=lambda row: (row.time_s, row.request)), +left_out


def _row(exposure: Exposure, said: Outcome, outcome: str, *, confirmed: bool) -> FeedbackRow | str:
    """Return the row of one judgement, or why it is none; an empty reason where it was never meant to be one."""
    is_right = confirmed and said.correction is None and said.name == outcome and said.value == 1.0
    if said.correction is None and not is_right:
        return ""
    if "shadow_of" in exposure.kept or (is_right and exposure.status != "ok"):
        return ""
    if not exposure.consent:
        return "no_consent"
    if not exposure.request.startswith(CHAT):
        return "no_chat"
    turns = _turns(exposure.kept)
    if turns is None:
        return "no_text"
    answer = said.correction if said.correction is not None else _only_answer(exposure.kept)
    if not answer.strip():
        return "empty"
    kind: Kind = "correction" if said.correction is not None else "confirmed"
    return FeedbackRow(exposure.request, exposure.unit, said.time_s, turns, answer, kind, exposure.has_unit)


def _turns(kept: dict[str, Any]) -> tuple[Turn, ...] | None:
    """Return the prompt's turns; None where they were not kept, or say nothing that could be asked again."""
    if "messages" in kept:
        turns = tuple((str(turn["role"]), str(turn["content"])) for turn in kept["messages"])
    elif isinstance(kept.get("prompt"), str) and kept.get("turns") == 1:
        turns = (("user", str(kept["prompt"])),)
    else:
        return None
    return turns if turns[-1][0] == "user" and all(words.strip() for _, words in turns) else None


def _only_answer(kept: dict[str, Any]) -> str:
    """Return the answer that was given, where it was one."""
    return "" if "answers" in kept else str(kept.get("answer", ""))
