"""The whole audit: silent on clean data, one finding for one fault, severities as the contract has them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cluster.records import FINDING_CODES
from cluster.spec import AuditSpec, DataSpec
from tests.audited_rows import audited, chat, clean_chats, clean_labels
from trainers.audit import audit, audit_evidence
from trainers.audit_evidence import AuditData, TokenCounts
from trainers.rows import Row, SourceProblem
from trainers.sources import SourceProblems, read_rows

SPEC = AuditSpec()


@pytest.mark.parametrize("rows", [clean_chats(), clean_labels()], ids=["chats", "labels"])
def test_clean_data_gives_no_finding_at_all(rows: list[Row]):
    parts = {"train": rows[:1200], "validation": rows[1200:1350], "test": rows[1350:]}
    lengths = np.array([20 + place % 30 for place in range(1500)])
    tokens = TokenCounts(lengths, lengths // 2, lengths // 2, 512)
    assert audit(audited(parts, given=["test"], tokens=tokens), SPEC) == []


def test_a_finding_counts_all_rows_and_shows_the_first_five():
    rows = clean_chats(400)
    rows += [rows[place] for place in range(7)]
    (found,) = audit(audited(rows), SPEC)
    assert (found.code, found.severity, found.count) == ("duplicate_exact", "warning", 7)
    assert found.rows == [f"f.jsonl:{place}" for place in range(5)]
    assert found.remedy
    assert found.detail


def test_no_finding_quotes_personal_data():
    rows, test = clean_chats(300), clean_chats(100, seed=1)
    test[0] = chat("Who?", "Write to anna.berg@firma.de or +49 30 901820.")
    findings = audit(audited({"train": [*rows, test[0]], "test": test}, given=["test"]), SPEC)
    assert {found.code for found in findings} == {"leakage_exact", "pii"}
    assert not any("berg" in found.detail or "901820" in found.detail for found in findings)


def test_errors_come_first_and_every_code_is_in_the_contract():
    rows, test = clean_chats(300), clean_chats(60, seed=1)
    rows += [test[0], rows[3], chat("Who?", "Write to anna@firma.de, as an AI language model.")]
    problems = [SourceProblem("turn_empty", "f.jsonl:7", "turn 1 (user)")]
    findings = audit(audited({"train": rows, "test": test}, given=["test"], problems=problems), SPEC)
    assert [found.severity for found in findings] == ["error", *["warning"] * 4, "note"]
    assert findings[0].code == "leakage_exact"
    assert {found.code for found in findings} <= FINDING_CODES


@pytest.mark.parametrize("allow", [["leakage_exact"], ["*"]])
def test_allow_turns_an_error_into_a_warning_and_hides_nothing(allow: list[str]):
    test = clean_chats(100, seed=1)
    data = audited({"train": [*clean_chats(300), test[0]], "test": test}, given=["test"])
    (found,) = audit(data, AuditSpec(allow=allow))
    assert (found.code, found.severity, found.count) == ("leakage_exact", "warning", 1)


def test_allow_of_another_code_changes_nothing():
    test = clean_chats(100, seed=1)
    data = audited({"train": [*clean_chats(300), test[0]], "test": test}, given=["test"])
    assert [found.severity for found in audit(data, AuditSpec(allow=["roles_broken"]))] == ["error"]


@pytest.mark.parametrize(("num_missing", "severity"), [(1, "warning"), (300, "error")])
def test_missing_targets_are_an_error_only_if_no_row_has_one(num_missing: int, severity: str):
    rows = clean_chats(300)
    rows[:num_missing] = [chat(row.messages[0]["content"], "", place) for place, row in enumerate(rows[:num_missing])]
    problems = [SourceProblem("target_missing", f"f.jsonl:{place}", "no answer") for place in range(num_missing)]
    (found,) = [one for one in audit(audited(rows, problems=problems), SPEC) if one.code == "target_missing"]
    assert (found.severity, found.count) == (severity, num_missing)


def test_one_place_in_two_splits_is_two_rows():
    rows = clean_chats(300)
    problems = [SourceProblem("turn_empty", "f.jsonl:7", "turn 1 (user)")] * 2
    evidence = audit_evidence(audited({"train": rows, "test": rows}, problems=problems), SPEC)
    (found,) = [one for one in evidence if one.code == "turn_empty"]
    assert found.rows.tolist() == [7, 307]


def write(path: Path, records: list[object]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def read(path: str) -> AuditData:
    problems = SourceProblems()
    rows = list(read_rows([path], DataSpec(train=[path]), "train", problems))
    return audited(rows, problems=problems)


def test_what_reading_noticed_is_counted_with_rows_that_could_not_be_read(tmp_path: Path):
    def record(place: int, *turns: tuple[str, str]) -> object:
        return {"messages": [{"role": role, "content": content} for role, content in turns]}

    records = [
        record(place, ("user", row.messages[0]["content"]), ("assistant", row.messages[1]["content"]))
        for place, row in enumerate(clean_chats(300))
    ]
    records[10] = record(10, ("user", "asked but not answered"), ("assistant", ""))
    records[20] = record(20, ("user", ""), ("assistant", "an answer to nothing"))
    records[30] = record(30, ("user", "one"), ("user", "two"), ("assistant", "three of them"))
    records[40] = record(40, ("narrator", "once"), ("assistant", "upon a time"))
    records[50] = {"prompt": "another format", "completion": "in the same file"}
    path = write(tmp_path / "train.jsonl", records)
    findings = {found.code: found for found in audit(read(path), SPEC)}
    assert {code: (found.severity, found.count) for code, found in findings.items()} == {
        "target_missing": ("warning", 1),
        "turn_empty": ("warning", 1),
        "roles_broken": ("error", 2),
        "format_mixed": ("warning", 1),
    }
    assert findings["roles_broken"].rows == [f"{path}:31", f"{path}:41"]
    assert "1 row could not be read" in findings["roles_broken"].detail


def test_the_audit_is_deterministic():
    rows = clean_labels(700)
    rows += [rows[4], rows[5]]
    spec = AuditSpec(sample_rows=300)
    assert audit(audited(rows), spec) == audit(audited(rows), spec)


def test_the_real_e2e_set_has_its_known_copies_and_its_references_are_no_conflict(realdata: Path):
    path = str(realdata / "e2e" / "trainset.csv")
    spec = DataSpec(train=[path], columns={"prompt": "mr", "completion": "ref"})
    problems = SourceProblems()
    findings = {found.code: found for found in audit(audited(list(read_rows([path], spec, "train", problems))), SPEC)}
    assert findings["duplicate_exact"].count == 1202  # the count of DataFrame.duplicated()
    assert (findings["conflicting_answers"].severity, findings["conflicting_answers"].count) == ("note", 0)
    assert "of 4,862 inputs" in findings["conflicting_answers"].detail
    assert set(findings) == {"duplicate_exact", "duplicate_near", "conflicting_answers"}
