"""Findings and rows → what a report shows of them: masked, shortened around what was found, beside what they repeat.

A finding is believed when it is seen. A copy is shown with the row it copies, a leak with the held-out row, a
contradiction with the other answer, damage with the text around it. Personal data is masked before anything is cut, so
that no cut leaves half of it. Left out: findings about the data as a whole, of which no row is an example.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cluster.personal_data import MASK, find_personal_data, mask_personal_data
from trainers.audit_evidence import MASKED_CHARS, NUM_SHOWN, AuditData, Evidence
from trainers.audit_text import CONTROL, boilerplate, repaired
from trainers.report_records import Example, Excerpt, Turn, Typical

if TYPE_CHECKING:
    from trainers.minhash import NearPairs
    from trainers.rows import Row
    from trainers.turns import Message

ABOUT_THE_WHOLE = frozenset({"small", "class_imbalance"})
ABOUT_LENGTH = frozenset({"length_outlier", "truncated", "target_truncated"})
SHOWN_CHARS = 400
LEAD_CHARS = 80
MAX_TURNS = 6
TYPICAL_TRIES = 50


def _start_of_damage(text: str) -> int:
    fixed = repaired(text)
    changed = next((at for at, pair in enumerate(zip(text, fixed, strict=False)) if pair[0] != pair[1]), -1)
    return changed if changed >= 0 else text.find("\ufffd")


def _start_of_control(text: str) -> int:
    found = CONTROL.search(text)
    return found.start() if found else -1


def _start_of_mask(text: str) -> int:
    found = MASK.search(text)
    return found.start() if found else -1


def _start_of_boilerplate(text: str) -> int:
    phrase = boilerplate(text)
    return text.lower().replace("\u2019", "'").find(phrase) if phrase else -1


FOUND_AT: dict[str, Callable[[str], int]] = {
    "encoding_damaged": _start_of_damage,
    "control_characters": _start_of_control,
    "pii": _start_of_mask,
    "boilerplate": _start_of_boilerplate,
}
"""Where in a text (personal data masked) a finding was made, or -1."""


def finding_examples(evidence: Evidence, data: AuditData) -> list[Example]:
    """Return the rows that the finding names, as they are shown, in its order."""
    if evidence.code in ABOUT_THE_WHOLE:
        return []
    unread = evidence.unread[: NUM_SHOWN - len(evidence.first)]
    places = {data.rows[index].where for index in evidence.first} | set(unread)
    seen = {
        problem.where: mask_personal_data(problem.detail)[:SHOWN_CHARS]
        for problem in data.problems
        if problem.where in places and problem.code == evidence.code
    }
    return [
        *(_example(evidence.code, data, index, seen) for index in evidence.first),
        *(Example(row=Excerpt(where=where), note=seen.get(where, "")) for where in unread),
    ]


def _example(code: str, data: AuditData, index: int, seen: dict[str, str]) -> Example:
    other = _like(code, data, index)
    return Example(
        row=_excerpt(data, index, code),
        like=None if other is None else _excerpt(data, other, code),
        note=seen.get(data.rows[index].where, "") or _lengths_note(code, data, index),
    )


def _lengths_note(code: str, data: AuditData, index: int) -> str:
    if code not in ABOUT_LENGTH or data.tokens is None:
        return ""
    counts = data.tokens
    whole, targets, kept = int(counts.lengths[index]), int(counts.targets[index]), int(counts.kept_targets[index])
    cut = f"; max_length {counts.max_length:,} leaves {kept:,} of its {targets:,} target tokens"
    return f"{whole:,} tokens" + (cut if whole > counts.max_length else "")


def _excerpt(data: AuditData, index: int, code: str) -> Excerpt:
    return excerpt(data.rows[index], data.split_names[int(data.split_of[index])], FOUND_AT.get(code))


def excerpt(row: Row, split: str, found_at: Callable[[str], int] | None = None) -> Excerpt:
    """Return a row as it is shown: personal data masked, long texts cut around what ``found_at`` finds."""
    label = None if row.label is None or row.label == row.completion else _masked(row.label)[:SHOWN_CHARS]
    turns, left_out = shown_turns(row.messages, found_at)
    if len(row.messages) == 1:
        turns = [turns[0].model_copy(update={"role": "text"})]
    return Excerpt(where=row.where, split=split, turns=turns, left_out=left_out, label=label)


def shown_turns(messages: Sequence[Message], found_at: Callable[[str], int] | None = None) -> tuple[list[Turn], int]:
    """Return the first and last few messages as they are shown, and how many between them are left out."""
    left_out = max(0, len(messages) - MAX_TURNS)
    half = MAX_TURNS // 2
    kept = [*messages[:half], *messages[-half:]] if left_out else messages
    return [
        shown_text(message["role"], message["content"] or message.get("tool_calls", ""), found_at) for message in kept
    ], left_out


def shown_text(role: str, whole: str, found_at: Callable[[str], int] | None = None) -> Turn:
    """Return a text as it is shown: personal data masked, cut around what ``found_at`` finds, else at its end."""
    text = _masked(whole)
    start = max(0, (found_at(text) if found_at is not None else 0) - LEAD_CHARS)
    shown = text[start : start + SHOWN_CHARS]
    after = len(text) - start - len(shown) + max(0, len(whole) - MASKED_CHARS)
    return Turn(role=role, text=shown, before=start, after=after)


def _masked(text: str) -> str:
    return mask_personal_data(text[:MASKED_CHARS])


def _like(code: str, data: AuditData, index: int) -> int | None:
    """Return the row that this one repeats, is leaked from or contradicts, the first of several; else None."""
    split = data.split_of[index]
    exact, same_input = data.hashes.exact, data.hashes.input
    match code:
        case "duplicate_exact":
            found = np.flatnonzero((exact == exact[index]) & (data.split_of == split))
        case "conflicting_answers":
            rivals = (same_input == same_input[index]) & (exact != exact[index])
            found = np.flatnonzero(rivals & (data.split_of == split))
        case "leakage_exact":
            same = (exact == exact[index]) | (same_input == same_input[index])
            found = np.flatnonzero(same & (data.split_of > split))
        case "duplicate_near":
            found = [other for other in _near(data.near, index) if data.split_of[other] == split]
        case "leakage_near":
            found = [other for other in _near(data.near, index) if data.split_of[other] > split]
        case _:
            return None
    others = [int(other) for other in found if other != index]
    return others[0] if others else None


def _near(near: NearPairs, index: int) -> list[int]:
    """Return the rows that are near-duplicates of one; identical texts are paired through the first of them only."""
    same = near.jaccard >= 1.0
    twins = _joined_to(near.i[same], near.j[same], np.array([index]))
    reached = _joined_to(near.i, near.j, twins)
    return _joined_to(near.i[same], near.j[same], reached).tolist()


def _joined_to(i: NDArray[np.int64], j: NDArray[np.int64], of: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ``of`` and all that pairs join to them, ascending."""
    return np.unique(np.concatenate([of, j[np.isin(i, of)], i[np.isin(j, of)]]))


def typical_row(rows: Sequence[Row], lengths: NDArray[np.integer]) -> Typical:
    """Return the row of median length, or the nearest to it in length that holds no personal data."""
    order = np.argsort(lengths, kind="stable")
    middle = len(order) // 2
    nearest = sorted(range(len(order)), key=lambda place: abs(place - middle))[:TYPICAL_TRIES]
    candidates = [int(order[place]) for place in nearest]
    clean = (index for index in candidates if not _holds_personal_data(rows[index]))
    index = next(clean, candidates[0])
    return Typical(index=index, where=rows[index].where, tokens=int(lengths[index]))


def _holds_personal_data(row: Row) -> bool:
    return any(find_personal_data(message["content"]) for message in row.messages)
