"""Across rows: copies, leaks and contradictions are counted as the rows that would have to go."""

from __future__ import annotations

import pytest

from tests.audited_rows import audited, chat, clean_chats, clean_labels, labelled
from trainers.audit_evidence import AuditData, Evidence
from trainers.audit_sets import conflict_evidence, duplicate_evidence, leakage_evidence
from trainers.rows import Row


def codes(evidence: list[Evidence]) -> dict[str, list[int]]:
    return {one.code: one.rows.tolist() for one in evidence}


def near(row: Row) -> Row:
    prompt, answer = (message["content"] for message in row.messages)
    prompt = prompt.replace(" end.", " indeed.")
    return chat(prompt, answer, label=row.label)


def test_every_copy_but_the_first_would_have_to_go():
    rows = clean_chats(100)
    rows += [rows[5], rows[5], rows[9]]
    assert codes(duplicate_evidence(audited(rows), 0.8)) == {"duplicate_exact": [100, 101, 102]}


def test_copies_in_different_splits_are_no_duplicates():
    rows = clean_chats(100)
    assert duplicate_evidence(audited({"train": rows, "test": rows[:3]}), 0.8) == []


@pytest.mark.parametrize("rows", [clean_chats(100), clean_labels(100)], ids=["chats", "labels"])
def test_a_near_copy_would_have_to_go_and_is_no_exact_one(rows: list[Row]):
    assert codes(duplicate_evidence(audited([*rows, near(rows[7])]), 0.8)) == {"duplicate_near": [100]}


def test_in_a_chain_only_rows_near_one_that_stays_have_to_go():
    words = [f"wort{place:02d}" for place in range(40)]
    # Each is near the next (34 of 36 words), the ends are not (32 of 36, below 0.9).
    chain = [chat("?", " ".join(words[: 32 + step])) for step in (0, 2, 4)]
    found = codes(duplicate_evidence(audited([*chain, *clean_chats(100)]), 0.9))
    assert found == {"duplicate_near": [1]}


def test_references_of_one_input_are_no_near_copies_unless_they_are_alike_themselves():
    prompt = "describe " + " ".join(f"attribute{place}" for place in range(40))
    rows = [
        chat(prompt, "A cheap pub by the river."),
        chat(prompt, "Riverside pub, low prices!"),
        chat(prompt, "A cheap pub by the river"),
    ]
    assert codes(duplicate_evidence(audited(rows), 0.8)) == {"duplicate_near": [2]}


def test_similar_inputs_with_different_labels_are_no_duplicates():
    rows = clean_labels(50)
    other = labelled(rows[0].messages[0]["content"].replace(" end.", " indeed."), "class 1")
    assert duplicate_evidence(audited([*rows, other]), 0.8) == []


def leaky() -> tuple[AuditData, list[Row]]:
    rows, test = clean_chats(200), clean_chats(60, seed=1)
    same_input = chat(test[1].messages[0]["content"], rows[0].messages[1]["content"])
    return audited({"train": [*rows, test[0], same_input, near(test[2])], "test": test}, given=["test"]), test


def test_training_rows_that_are_in_the_test_have_to_go():
    data, _ = leaky()
    assert codes(leakage_evidence(data)) == {"leakage_exact": [200, 201], "leakage_near": [202]}


def test_a_leak_into_a_test_of_the_users_is_an_error_and_another_warns():
    data, test = leaky()
    assert {one.severity for one in leakage_evidence(data)} == {"error"}
    parts = {"train": clean_chats(200), "validation": clean_chats(50, seed=2), "test": test}
    parts["train"].append(parts["validation"][0])
    (found,) = leakage_evidence(audited(parts, given=["validation", "test"]))
    assert (found.code, found.severity, found.rows.tolist()) == ("leakage_exact", "warning", [200])


def test_a_validation_row_that_is_in_a_test_has_to_go():
    parts = {"train": clean_chats(100), "validation": clean_chats(50, seed=2), "hard": clean_chats(50, seed=3)}
    parts["validation"][4] = parts["hard"][0]
    (found,) = leakage_evidence(audited(parts, given=["hard"]))
    assert (found.rows.tolist(), found.severity) == ([104], "error")


def test_two_tests_may_share_rows():
    tests = clean_chats(50, seed=3)
    assert leakage_evidence(audited({"train": clean_chats(100), "a": tests, "b": tests}, given=["a", "b"])) == []


def test_a_near_leak_is_found_through_a_copy_in_training():
    rows, test = clean_chats(100), clean_chats(20, seed=1)
    data = audited({"train": [test[0], *rows, near(test[0])], "test": test}, given=["test"])
    assert codes(leakage_evidence(data)) == {"leakage_exact": [0], "leakage_near": [101]}


def test_an_instruction_that_every_row_carries_leaks_nothing():
    answers = [row.messages[1]["content"] for row in clean_chats(300)]
    rows = [chat("Tell me a story.", answer, place) for place, answer in enumerate(answers)]
    assert leakage_evidence(audited({"train": rows[:250], "test": rows[250:]}, given=["test"])) == []


def test_contradicting_labels_go_unless_most_frequent():
    rows = clean_labels(100)
    text = rows[0].messages[0]["content"]
    rows += [labelled(text, "class 0"), labelled(text, "class 1"), labelled(rows[1].messages[0]["content"], "class 4")]
    (found,) = conflict_evidence(audited(rows))
    assert found.rows.tolist() == [101, 102]
    assert found.severity == "warning"


def test_several_references_of_an_input_are_a_note_and_no_row_goes():
    rows = [chat(f"input {place // 3}", f"answer {place}", place) for place in range(30)]
    (found,) = conflict_evidence(audited(rows))
    assert (found.severity, found.count) == ("note", 0)
    assert "10 inputs" in found.detail
    assert "30 answers" in found.detail


def test_plain_text_has_no_input_to_contradict():
    rows = [Row(({"role": "assistant", "content": f"text {place}"},), where=f"f:{place}") for place in range(30)]
    assert conflict_evidence(audited(rows)) == []


def test_a_label_that_is_not_the_answer_hides_no_near_copy():
    rows = [
        chat(*(m["content"] for m in row.messages), label=f"l{place}") for place, row in enumerate(clean_chats(100))
    ]
    copy = near(rows[7])
    rows.append(chat(*(m["content"] for m in copy.messages), label="other"))
    assert codes(duplicate_evidence(audited(rows), 0.8)) == {"duplicate_near": [100]}


def test_labels_that_differ_in_case_are_a_conflict_and_answers_are_not():
    rows = clean_labels(100)
    text = rows[3].messages[0]["content"]
    (found,) = conflict_evidence(audited([*rows, labelled(text, (rows[3].label or "").upper())]))
    assert (found.severity, found.rows.tolist()) == ("warning", [100])
    chats = clean_chats(100)
    prompt, answer = (message["content"] for message in chats[3].messages)
    assert conflict_evidence(audited([*chats, chat(prompt, answer.upper())])) == []
