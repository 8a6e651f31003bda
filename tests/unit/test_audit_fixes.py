"""Fixes: what the user named is mended or dropped, nothing else is touched, and the count is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from cluster.audit_spec import UNFIXABLE
from cluster.errors import JobFileError
from cluster.records import FINDING_CODES, Fixed
from cluster.spec import AuditSpec
from tests.audited_rows import audited, chat, clean_chats, clean_labels, labelled
from trainers import audit_fixes
from trainers.audit import audit
from trainers.audit_evidence import TokenCounts
from trainers.rows import Row


def fix_rows(
    parts: dict[str, list[Row]], spec: AuditSpec, count_tokens: Callable[[Sequence[Row]], TokenCounts] | None = None
) -> tuple[dict[str, list[Row]], dict[str, Fixed]]:
    fixed, changed = audit_fixes.fix_rows(parts, spec, count_tokens)
    return {name: list(rows) for name, rows in fixed.items()}, changed


def num_changed(fixed: Mapping[str, Fixed]) -> dict[str, int]:
    return {code: fix.mended + fix.dropped for code, fix in fixed.items()}


def faulty() -> list[Row]:
    rows = clean_chats(300)
    rows[3] = chat("Where?", "In the cafÃ© by the river.", 3)
    rows[4] = chat("What?", "Characters were lost: caf\ufffd.", 4)
    rows[5] = chat("How\x00 many?", "Three\u200b.", 5)
    rows[6] = chat("Who?", "Write to anna@firma.de.", 6, references=("anna@firma.de",))
    rows[7] = chat("Why?", "", 7)
    rows[8] = chat("", "An answer to nothing.", 8)
    return [*rows, rows[10], rows[11]]


def test_without_fix_nothing_changes():
    rows = faulty()
    fixed, changed = fix_rows({"train": rows}, AuditSpec())
    assert fixed == {"train": rows}
    assert changed == {}


@pytest.mark.parametrize(
    ("code", "changed", "mended"),
    [
        ("encoding_damaged", 2, {3: "In the café by the river."}),
        ("control_characters", 1, {5: "Three."}),
        ("pii", 1, {6: "Write to [EMAIL]."}),
    ],
)
def test_mending_changes_only_its_rows(code: str, changed: int, mended: dict[int, str]):
    rows = faulty()
    fixed, counts = fix_rows({"train": rows}, AuditSpec(fix=[code]))
    assert num_changed(counts) == {code: changed}
    by_place = {row.where: row for row in fixed["train"]}
    for place, row in enumerate(rows[:300]):
        if place in mended:
            assert by_place[row.where].completion == mended[place]
        elif row.where in by_place:
            assert by_place[row.where] is row


def test_mending_reaches_prompts_references_and_labels():
    (row,) = fix_rows({"train": [faulty()[6]]}, AuditSpec(fix=["pii"]))[0]["train"]
    assert row.references == ("[EMAIL]",)
    (row,) = fix_rows({"train": [faulty()[5]]}, AuditSpec(fix=["control_characters"]))[0]["train"]
    assert row.messages[0]["content"] == "How many?"
    (row,) = fix_rows({"train": [labelled("text", "la\x00bel")]}, AuditSpec(fix=["control_characters"]))[0]["train"]
    assert (row.label, row.completion) == ("label", "label")


@pytest.mark.parametrize(
    ("code", "dropped"),
    [("target_missing", [7]), ("turn_empty", [8]), ("duplicate_exact", [300, 301]), ("boilerplate", [])],
)
def test_dropping_drops_only_its_rows(code: str, dropped: list[int]):
    rows = faulty()
    fixed, counts = fix_rows({"train": rows}, AuditSpec(fix=[code]))
    assert fixed["train"] == [row for place, row in enumerate(rows) if place not in dropped]
    assert num_changed(counts) == ({code: len(dropped)} if dropped else {})


def test_fixing_all_that_was_found_leaves_nothing_but_notes():
    rows = faulty()
    fix = ["encoding_damaged", "control_characters", "pii", "target_missing", "turn_empty", "duplicate_exact"]
    fixed, counts = fix_rows({"train": rows}, AuditSpec(fix=fix))
    assert num_changed(counts) == dict(zip(fix, (2, 1, 1, 1, 1, 2), strict=True))
    assert audit(audited(fixed), AuditSpec(fix=fix)) == []


def test_what_is_mended_and_what_is_dropped_is_told_apart():
    _, counts = fix_rows({"train": faulty()}, AuditSpec(fix=["encoding_damaged", "pii"]))
    assert counts == {
        "encoding_damaged": Fixed(mended=1, dropped=1, rows=["f.jsonl:3", "f.jsonl:4"]),
        "pii": Fixed(mended=1, rows=["f.jsonl:6"]),
    }


def test_a_leak_is_fixed_on_the_training_side():
    test = clean_chats(60, seed=1)
    parts = {"train": [*clean_chats(300), test[0], test[1]], "test": test}
    fixed, counts = fix_rows(parts, AuditSpec(fix=["leakage_exact"]))
    assert counts == {"leakage_exact": Fixed(dropped=2, rows=["f.jsonl:0", "f.jsonl:1"])}
    assert fixed == {"train": parts["train"][:300], "test": test}


def test_a_row_with_two_faults_is_dropped_and_counted_once():
    rows = [*clean_labels(100), labelled("", "", 100), labelled("", "", 101)]
    fixed, counts = fix_rows({"train": rows}, AuditSpec(fix=["turn_empty", "target_missing", "duplicate_exact"]))
    assert num_changed(counts) == {"turn_empty": 2}
    assert len(fixed["train"]) == 100


def num_words(rows: Sequence[Row]) -> TokenCounts:
    lengths = np.array([len(row.completion.split()) for row in rows])
    return TokenCounts(lengths, lengths, np.minimum(lengths, 40), 40)


def test_truncated_rows_are_dropped_by_their_tokens_and_refused_without():
    rows = clean_chats(50)
    rows[9] = chat("long", "word " * 41, 9)
    fixed, counts = fix_rows({"train": rows}, AuditSpec(fix=["truncated"]), num_words)
    assert [row.where for row in rows if row not in fixed["train"]] == ["f.jsonl:9"]
    assert counts == {"truncated": Fixed(dropped=1, rows=["f.jsonl:9"])}
    with pytest.raises(JobFileError, match="truncated"):
        fix_rows({"train": rows}, AuditSpec(fix=["truncated"]))


@pytest.mark.parametrize("code", sorted(FINDING_CODES - UNFIXABLE))
def test_every_code_that_the_job_file_may_name_can_be_fixed(code: str):
    fixed, _ = fix_rows({"train": clean_labels(60)}, AuditSpec(fix=[code]), num_words)
    assert len(fixed["train"]) == 60
