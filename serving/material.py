"""A parent's rows and new ones → the files that a child job names, kept in the store under their content.

    old_train.jsonl  old_validation.jsonl  old_test.jsonl     as the parent was made with them, its tests frozen
    new_train.jsonl  new_validation.jsonl  new_test.jsonl     what users said, divided by unit and prompt

New rows are concatenated with the old, each once: a further source of a mixture (``data.mix``) would not count for the
task, and its labels would not be the task's. What a user says of a prompt that the parent was tested with is left out
(``leakage_exact``), what the parent was trained on already is too (``known``). Where it contradicts a row that the
parent was trained on, the old row goes if two units say so; one alone is left out (``contradicts_training``). An old
row that an earlier child was given by a user stays only while the ledger still has that user's words: who was forgotten
is in no further child.
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
from serving.parent import GROUP, LABEL, TRAIN, VALIDATION, turns_of

if TYPE_CHECKING:
    from cluster.store import Store
    from serving.parent import Parent

MATERIAL = "material"
ENOUGH_VOICES = 2
FROM, REQUEST, SOURCE = "endpoint", "request", "source"


class RowCounts(Record):
    """What became of what users said."""

    train: int
    validation: int
    test: int = Field(description="new rows that are never trained on")
    units: int
    replaced: int = Field(description="rows of the parent's training that users corrected, and that are gone")
    forgotten: int = Field(default=0, description="rows of the parent's that came from units who were forgotten since")
    left_out: dict[str, int] = Field(description="reason → judgements or rows")
    unmatched: int = Field(description="feedback at any endpoint on requests that none answered")

    @property
    def usable(self) -> int:
        """How many rows the child gets."""
        return self.train + self.validation + self.test


@dataclass(frozen=True)
class Heard:
    """Which requests of an endpoint the ledger has a judgement of."""

    endpoint: str
    requests: set[str]

    def has_forgotten(self, row: dict[str, Any]) -> bool:
        """Return whether a prepared row came from this endpoint's feedback, and the ledger no longer has it."""
        extra = row["extra"]
        return extra.get(FROM) == self.endpoint and extra.get(REQUEST) not in self.requests


@dataclass(frozen=True)
class Written:
    """What was committed: the key, and how many of the parent's rows are gone, by why."""

    key: str
    replaced: int
    forgotten: int


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


def write_material(parent: Parent, divided: Divided, known: Known, heard: Heard, store: Store) -> Written:
    """Commit the files, unless they are there, and return what they hold."""
    new = [row for part in _parts(divided) for row in part]
    corrected = {row.prompt for row in new if row.prompt in known.trained}
    replaced = _count(parent, [TRAIN], lambda row: prompt_key(turns_of(row)) in corrected) if corrected else 0
    forgotten = _count(parent, [TRAIN, VALIDATION, *parent.tests], heard.has_forgotten)
    shaping = [parent.release.run, forgotten, [[row.request, row.turns, row.answer] for row in new], *_sizes(divided)]
    key = hashlib.sha256(json.dumps(shaping).encode()).hexdigest()[:32]
    if not store.is_committed(MATERIAL, key):
        with store.writing(MATERIAL, key) as directory:
            _write_old(directory, parent, corrected, heard)
            to_record = _new_record(parent, heard.endpoint)
            for name, rows in zip(("train", "validation", "test"), _parts(divided), strict=True):
                _write(directory / f"new_{name}.jsonl", map(to_record, rows))
    return Written(key, replaced, forgotten)


def _count(parent: Parent, splits: Sequence[str], is_counted: Callable[[dict[str, Any]], bool]) -> int:
    return sum(is_counted(row) for split in splits for row in parent.rows(split))


def _write_old(directory: Path, parent: Parent, corrected: set[str], heard: Heard) -> None:
    """Write the parent's rows but for those that are gone; sources of a mixture stay where the job names them."""
    mixed = {str(source["name"]) for source in _mix_of(parent)}

    def own(*splits: str) -> Iterator[dict[str, Any]]:
        for split in splits:
            for row in parent.rows(split):
                if row["source"] not in mixed and not heard.has_forgotten(row):
                    yield row

    trained = (row for row in own(TRAIN) if not corrected or prompt_key(turns_of(row)) not in corrected)
    _write(directory / "old_train.jsonl", map(_old_record, trained))
    _write(directory / "old_validation.jsonl", map(_old_record, own(VALIDATION)))
    _write(directory / "old_test.jsonl", map(_old_record, own(*parent.tests)))


def _parts(divided: Divided) -> tuple[list[FeedbackRow], ...]:
    return divided.train, divided.validation, divided.test


def _sizes(divided: Divided) -> list[int]:
    return [len(part) for part in _parts(divided)]


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
    """Return a prepared row as a line of a file: further columns first, so that none hides one of ours.

    The file that it came from is one, since slices by ``source`` would all be the material's otherwise.
    """
    return (
        {SOURCE: row["where"].rpartition(":")[0]}
        | row["extra"]
        | {
            "messages": row["messages"],
            LABEL: row["label"],
            GROUP: row["group"],
            "references": row["references"],
            "synthetic": row["synthetic"],
        }
    )


def _new_record(parent: Parent, endpoint: str) -> Callable[[FeedbackRow], dict[str, Any]]:
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
            FROM: endpoint,
            REQUEST: row.request,
        }

    return record


def _answers(row: dict[str, Any]) -> list[str]:
    """Return every right answer of a prepared row."""
    return [str(row["messages"][-1].get("content") or ""), *(row["references"] or [])]
