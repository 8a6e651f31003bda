"""A parent's rows and new ones → the files that a child job names, kept in the store under their content.

    old_train.jsonl  old_validation.jsonl  old_test.jsonl     as the parent was made with them, its tests frozen
    new_train.jsonl  new_validation.jsonl  new_test.jsonl     what users said, divided by unit and prompt

New rows are concatenated with the old, each once: a further source of a mixture (``data.mix``) would not count for the
task, and its labels would not be the task's. What a user says of a prompt that the parent was tested with is left out
(``leakage_exact``), what the parent was trained on already is too (``known``). Where it contradicts a row that the
parent was trained on, the old row goes if two units say so; one alone is left out (``contradicts_training``).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from cluster.records import Record
from serving.feedback_rows import FeedbackRow, answer_key, prompt_key
from serving.feedback_split import Divided
from serving.parent import TRAIN, VALIDATION, turns_of

if TYPE_CHECKING:
    from cluster.store import Store
    from serving.parent import Parent

MATERIAL = "material"
ENOUGH_VOICES = 2
LABEL, GROUP = "label", "group"


class RowCounts(Record):
    """What became of what users said."""

    train: int
    validation: int
    test: int = Field(description="new rows that are never trained on")
    units: int
    replaced: int = Field(description="rows of the parent's training that users corrected, and that are gone")
    left_out: dict[str, int] = Field(description="reason → judgements or rows")
    unmatched: int = Field(description="feedback on requests that no endpoint answered")

    @property
    def usable(self) -> int:
        """How many rows the child gets."""
        return self.train + self.validation + self.test


@dataclass(frozen=True)
class Known:
    """What the parent's rows say of the prompts that new rows ask: prompt → answers, of training and of its judges."""

    trained: Mapping[str, set[str]]
    judged: Mapping[str, set[str]]

    @classmethod
    def of(cls, parent: Parent, prompts: set[str]) -> Known:
        """Read the parent's rows once."""
        found: dict[str, defaultdict[str, set[str]]] = {"trained": defaultdict(set), "judged": defaultdict(set)}
        for split in (TRAIN, VALIDATION, *parent.tests):
            answers = found["trained" if split == TRAIN else "judged"]
            for row in parent.rows(split):
                if (key := prompt_key(turns_of(row))) in prompts:
                    answers[key].update(map(answer_key, _answers(row)))
        return cls(found["trained"], found["judged"])


def unknown(rows: Sequence[FeedbackRow], known: Known) -> tuple[list[FeedbackRow], Counter[str]]:
    """Return the rows that say something new, and how many are left out by reason."""
    left_out: Counter[str] = Counter()
    new: list[FeedbackRow] = []
    for row in rows:
        trained = known.trained.get(row.prompt, set())
        if row.prompt in known.judged:
            left_out["leakage_exact"] += 1
        elif answer_key(row.answer) in trained:
            left_out["known"] += 1
        elif trained and row.voices < ENOUGH_VOICES:
            left_out["contradicts_training"] += 1
        else:
            new.append(row)
    return new, left_out


def write_material(parent: Parent, divided: Divided, known: Known, store: Store) -> tuple[str, int]:
    """Commit the files and return their key, and how many old rows were replaced."""
    new = [*divided.train, *divided.validation, *divided.test]
    corrected = {row.prompt for row in new if row.prompt in known.trained}
    shaping = [parent.release.run, [[row.request, row.turns, row.answer] for part in _parts(divided) for row in part]]
    key = hashlib.sha256(json.dumps(shaping).encode()).hexdigest()[:32]
    replaced = sum(prompt_key(turns_of(row)) in corrected for row in parent.rows(TRAIN)) if corrected else 0
    if store.is_committed(MATERIAL, key):
        return key, replaced

    def stays(row: dict[str, Any]) -> bool:
        return not corrected or prompt_key(turns_of(row)) not in corrected

    mixed = {str(source["name"]) for source in _mix_of(parent)}
    with store.writing(MATERIAL, key) as directory:
        own = (row for row in parent.rows(TRAIN) if row["source"] not in mixed and stays(row))
        _write(directory / "old_train.jsonl", map(_old_record, own))
        own = (row for row in parent.rows(VALIDATION) if row["source"] not in mixed)
        _write(directory / "old_validation.jsonl", map(_old_record, own))
        _write(directory / "old_test.jsonl", (_old_record(row) for test in parent.tests for row in parent.rows(test)))
        to_record = _new_record(parent)
        for name, rows in zip(("train", "validation", "test"), _parts(divided), strict=True):
            _write(directory / f"new_{name}.jsonl", map(to_record, rows))
    return key, replaced


def _parts(divided: Divided) -> tuple[list[FeedbackRow], ...]:
    return divided.train, divided.validation, divided.test


def _mix_of(parent: Parent) -> list[dict[str, Any]]:
    data: Any = parent.release.job["data"]
    return list(data.get("mix") or [])


def _write(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write records as lines of JSON; no file for none of them."""
    lines: Iterator[str] = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    first = next(lines, None)
    if first is None:
        return
    with path.open("w", encoding="utf-8") as file:
        file.write(first)
        file.writelines(lines)


def _old_record(row: dict[str, Any]) -> dict[str, Any]:
    """Return a prepared row as a line of a file: further columns first, so that none hides one of ours."""
    return row["extra"] | {
        "messages": row["messages"],
        LABEL: row["label"],
        GROUP: row["group"],
        "references": row["references"],
        "synthetic": row["synthetic"],
    }


def _new_record(parent: Parent) -> Callable[[FeedbackRow], dict[str, Any]]:
    """Return how a new row is written: in classification its answer is its label."""
    is_labelled = parent.task == "classification"

    def record(row: FeedbackRow) -> dict[str, Any]:
        answer = row.answer.strip() if is_labelled else row.answer
        turns = [{"role": role, "content": words} for role, words in row.turns]
        return {
            "messages": [*turns, {"role": "assistant", "content": answer}],
            LABEL: answer if is_labelled else None,
            GROUP: row.unit,
            "references": [],
            "synthetic": row.kind == "confirmed",
            "feedback": row.kind,
            "request": row.request,
        }

    return record


def _answers(row: dict[str, Any]) -> list[str]:
    """Return every right answer of a prepared row."""
    return [str(row["messages"][-1].get("content") or ""), *(row["references"] or [])]
