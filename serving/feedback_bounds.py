"""Rows that users gave → those that may be trained on: no single user decides, and nobody is believed against others.

Corrections come from strangers, and some of them flood or lie. Three bounds, each counted:

- units that answer one prompt differently are a vote, one unit one voice: what more than half of them say is kept, and
  where no answer has more than half, none is (``conflicting_answers``);
- a unit has at most ``max_rows_per_unit`` rows (``over_unit``), chosen by a hash, so that it cannot choose them itself;
- and at most ``max_unit_frac`` of all rows (``over_share``), but always one.

All who named no unit are one unit here: otherwise leaving the name out would lift the bound. A unit's name is worth
what the key behind it is worth: whoever may invent users may invent many.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from serving.feedback_rows import FeedbackRow, answer_key

UNNAMED = ""


def bounded(
    rows: Sequence[FeedbackRow], max_rows_per_unit: int, max_unit_frac: float
) -> tuple[list[FeedbackRow], Counter[str]]:
    """Return the rows within the bounds, by time, and how many are left out by reason."""
    left_out: Counter[str] = Counter()
    agreed = _agreed(rows, left_out)
    by_unit: defaultdict[str, list[FeedbackRow]] = defaultdict(list)
    for row in agreed:
        by_unit[_voice(row)].append(row)
    kept = {unit: sorted(own, key=_lot)[:max_rows_per_unit] for unit, own in by_unit.items()}
    left_out["over_unit"] += len(agreed) - sum(map(len, kept.values()))
    most = most_of_one([len(own) for own in kept.values()], max_unit_frac)
    left_out["over_share"] += sum(max(0, len(own) - most) for own in kept.values())
    within = [row for own in kept.values() for row in own[:most]]
    return sorted(within, key=lambda row: (row.time_s, row.request)), +left_out


def most_of_one(sizes: Sequence[int], largest_frac: float) -> int:
    """Return the most rows that one unit may keep so that none has more than its share; at least 1."""
    for most in range(max(sizes, default=1), 1, -1):
        if most <= largest_frac * sum(min(size, most) for size in sizes):
            return most
    return 1


def _agreed(rows: Sequence[FeedbackRow], left_out: Counter[str]) -> list[FeedbackRow]:
    """Return one row a prompt, with the answer that most units agree on; of each unit its last word counts."""
    by_prompt: defaultdict[str, dict[str, FeedbackRow]] = defaultdict(dict)
    for row in rows:
        voices = by_prompt[row.prompt]
        left_out["superseded"] += _voice(row) in voices
        voices[_voice(row)] = row
    agreed: list[FeedbackRow] = []
    for voices in by_prompt.values():
        winner = _majority(voices)
        if winner is None:
            left_out["conflicting_answers"] += len(voices)
            continue
        same = [row for row in voices.values() if answer_key(row.answer) == winner]
        left_out["conflicting_answers"] += len(voices) - len(same)
        left_out["repeated"] += len(same) - 1
        first = min(same, key=lambda row: (row.time_s, row.request))
        agreed.append(replace(first, voices=len(same)))
    return agreed


def _majority(voices: Mapping[str, FeedbackRow]) -> str | None:
    """Return the answer that more than half of the units give; None where none is."""
    counts = Counter(answer_key(row.answer) for row in voices.values())
    answer, count = counts.most_common(1)[0]
    return answer if 2 * count > len(voices) else None


def _voice(row: FeedbackRow) -> str:
    return row.unit if row.has_unit else UNNAMED


def _lot(row: FeedbackRow) -> str:
    return hashlib.sha256(row.request.encode()).hexdigest()
