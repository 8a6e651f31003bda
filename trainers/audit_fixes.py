"""The rows as read → the rows with the faults mended or dropped that ``data.audit.fix`` names, and how many.

Only what the user asked for is changed, and it is counted. Damaged encoding, control characters and personal data are
mended in place, in every turn, the label and the references; a row whose characters are lost for good is dropped. For
every other code the rows that the audit would have go are dropped. Mending comes first, since it can make two rows
equal. Files given for validation and test are fixed as well, except that a leak is always mended in training, and so
are the rows drawn from further sources, which count as training rows here.

Left out: anything that would have to invent text, and a second round (dropping rows can make a class rare).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from cluster.errors import DataError, JobFileError
from cluster.personal_data import mask_personal_data
from cluster.records import Fixed
from trainers.audit_evidence import NUM_SHOWN, AuditData, Evidence, TokenCounts
from trainers.audit_labels import balance_evidence, suspect_evidence
from trainers.audit_languages import language_evidence
from trainers.audit_sets import conflict_evidence, duplicate_evidence, leakage_evidence
from trainers.audit_size import length_evidence, truncation_evidence
from trainers.audit_text import encoding_damage, repaired, text_evidence, without_control_characters
from trainers.duplicates import NearTexts, row_hashes
from trainers.minhash import near_duplicate_pairs
from trainers.row_file import ChainedRows, PickedRows
from trainers.tasks import is_answered
from trainers.turns import order_fault

if TYPE_CHECKING:
    from cluster.spec import AuditSpec
    from trainers.rows import Row

MENDERS: dict[str, Callable[[str], str]] = {
    "encoding_damaged": repaired,
    "control_characters": without_control_characters,
    "pii": mask_personal_data,
}
COUNTED_IN_TOKENS = frozenset({"truncated", "target_truncated"})
Parts = dict[str, Sequence["Row"]]


@dataclass
class Change:
    """What one fix did so far, and the first places."""

    mended: int = 0
    dropped: int = 0
    rows: list[str] = field(default_factory=list[str])


Changes = defaultdict[str, Change]


def fix_rows(
    parts: Mapping[str, Sequence[Row]],
    spec: AuditSpec,
    count_tokens: Callable[[Sequence[Row]], TokenCounts] | None = None,
    keep_mended: Callable[[Iterable[Row]], Sequence[Row]] = list,
    further: Collection[str] = (),
) -> tuple[Parts, dict[str, Fixed]]:
    """Return the rows of every part after the fixes, and code → what it did.

    Parts are ``train``, the splits given as files, and the ``further`` sources that are trained on as well. A row that
    several codes would drop is counted for the first of them in ``spec.fix``; ``keep_mended`` says where rows that
    were mended are kept. Raises JobFileError where rows are to be dropped by their tokens and there is no
    ``count_tokens``.
    """
    if count_tokens is None and (asked := sorted(COUNTED_IN_TOKENS & set(spec.fix))):
        raise JobFileError(
            f"{asked[0]} cannot be fixed here: tokens are counted later",
            "remove it, and raise train.max_length or shorten the rows",
            "data.audit.fix",
        )
    if not spec.fix:
        return dict(parts), {}  # as they are: a view would read them row by row
    names = list(parts)
    rows: Sequence[Row] = ChainedRows(parts.values())
    part_of = np.repeat(np.arange(len(names)), [len(parts[name]) for name in names])
    split_of = np.asarray([0 if name in further else place for place, name in enumerate(names)], np.int64)[part_of]
    changes: Changes = defaultdict(Change)
    if codes := [code for code in spec.fix if code in MENDERS]:
        rows = keep_mended(_all_mended(rows, codes, changes))
    keep = np.ones(len(rows), np.bool_)
    given = [name for name in names[1:] if name not in further]
    for code, gone in _rows_to_drop(rows, split_of, names, given, spec, count_tokens):
        gone = gone[keep[gone]]
        keep[gone] = False
        changes[code].dropped += len(gone)
        changes[code].rows += [rows[index].where for index in gone[:NUM_SHOWN].tolist()]
    fixed: Parts = {
        name: PickedRows(rows, np.flatnonzero((part_of == place) & keep)) for place, name in enumerate(names)
    }
    return fixed, {
        code: Fixed(mended=change.mended, dropped=change.dropped, rows=change.rows[:NUM_SHOWN])
        for code, change in changes.items()
        if change.mended or change.dropped
    }


def refuse_emptied(
    before: Mapping[str, Sequence[Row]], after: Mapping[str, Sequence[Row]], fixed: Mapping[str, Fixed]
) -> None:
    """Raise DataError where the fixes dropped every row of a part, with what each of them dropped."""
    for name, rows in before.items():
        if len(rows) and not len(after[name]):
            dropped = ", ".join(f"{code} {fix.dropped:,}" for code, fix in fixed.items() if fix.dropped)
            raise DataError(
                f"the fixes dropped all {len(rows):,} rows of {name} (in all files: {dropped})",
                "remove a code from audit.fix, or mend the rows in the file",
                "data.audit.fix",
            )


def _all_mended(rows: Iterable[Row], codes: Sequence[str], changes: Changes) -> Iterator[Row]:
    """Yield every row, mended for each code in turn, and note the rows that each changed."""
    for row in rows:
        for code in codes:
            before, row = row, _mended(row, MENDERS[code])
            if row is not before:
                changes[code].mended += 1
                changes[code].rows += [row.where] * (changes[code].mended <= NUM_SHOWN)
        yield row


def _mended(row: Row, mend: Callable[[str], str]) -> Row:
    """Return the row with every text mended; the same object where nothing changed."""
    messages = tuple(message | {"content": mend(message["content"])} for message in row.messages)
    label = None if row.label is None else mend(row.label)
    references = tuple(map(mend, row.references))
    if (messages, label, references) == (row.messages, row.label, row.references):
        return row
    return replace(row, messages=messages, label=label, references=references)


def _rows_to_drop(
    rows: Sequence[Row],
    split_of: np.ndarray[tuple[int], np.dtype[np.int64]],
    names: Sequence[str],
    given: Sequence[str],
    spec: AuditSpec,
    count_tokens: Callable[[Sequence[Row]], TokenCounts] | None,
) -> Iterable[tuple[str, np.ndarray[tuple[int], np.dtype[np.int64]]]]:
    """Yield each code of ``spec.fix`` with the rows it drops."""
    codes = [code for code in spec.fix if code not in ("pii", "control_characters")]
    if not codes:
        return
    tokens = count_tokens(rows) if count_tokens is not None and COUNTED_IN_TOKENS & set(codes) else None
    near = near_duplicate_pairs(
        NearTexts(rows) if {"duplicate_near", "leakage_near"} & set(codes) else [], spec.near_similarity
    )
    data = AuditData(rows, split_of, names, row_hashes(rows), near, given=given, tokens=tokens)
    for code in codes:
        if code in SINGLE_ROW:
            yield code, np.flatnonzero([bool(SINGLE_ROW[code](row)) for row in rows])
        else:
            found = [evidence.rows for evidence in CHECKS[code](data, spec) if evidence.code == code]
            yield code, np.concatenate([np.empty(0, np.int64), *found])


def _has_lost_characters(row: Row) -> bool:
    return any(encoding_damage(message["content"]) for message in row.messages)


def _has_empty_turn(row: Row) -> bool:
    return any(not message["content"].strip() and "tool_calls" not in message for message in row.prompt)


SINGLE_ROW: dict[str, Callable[[Row], object]] = {
    "encoding_damaged": _has_lost_characters,
    "target_missing": lambda row: not is_answered(row),
    "turn_empty": _has_empty_turn,
    "roles_broken": lambda row: order_fault(row.messages),
}
CHECKS: dict[str, Callable[[AuditData, AuditSpec], list[Evidence]]] = {
    "boilerplate": lambda data, spec: text_evidence(data.rows),
    "language_mixed": lambda data, spec: language_evidence(data.rows, spec.language_frac),
    "duplicate_exact": lambda data, spec: duplicate_evidence(data, spec.near_similarity),
    "duplicate_near": lambda data, spec: duplicate_evidence(data, spec.near_similarity),
    "leakage_exact": lambda data, spec: leakage_evidence(data),
    "leakage_near": lambda data, spec: leakage_evidence(data),
    "conflicting_answers": lambda data, spec: conflict_evidence(data),
    "class_rare": lambda data, spec: balance_evidence(data, spec.imbalance_ratio, spec.rare_rows),
    "label_suspect": lambda data, spec: suspect_evidence(data, spec.suspect_neighbours, spec.sample_rows),
    "length_outlier": lambda data, spec: length_evidence(data, spec.outlier_factor),
    "truncated": lambda data, spec: truncation_evidence(data),
    "target_truncated": lambda data, spec: truncation_evidence(data),
}
