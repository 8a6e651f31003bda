from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.spec import AuditSpec
from tests.audited_rows import audited, chat, clean_chats, clean_labels, labelled
from trainers.audit import audit_evidence, weighed
from trainers.audit_evidence import AuditData
from trainers.excerpts import SHOWN_CHARS, excerpt, finding_examples, typical_row
from trainers.report_records import MAX_BINS, Example, Histogram
from trainers.rows import Row, SourceProblem

SPEC = AuditSpec()


def examples(data: AuditData, code: str) -> list[Example]:
    (found,) = [evidence for evidence in audit_evidence(data, SPEC) if evidence.code == code]
    return finding_examples(found, data)


def test_examples_are_those_that_the_finding_names():
    rows = clean_chats(300)
    data = audited([*rows, *(rows[place] for place in range(9))])
    for finding, evidence in weighed(data, SPEC):
        assert [example.row.where for example in finding_examples(evidence, data)] == finding.rows


def test_a_copy_is_shown_with_the_row_it_copies():
    rows = clean_chats(300)
    rows.append(chat(rows[7].messages[0]["content"], rows[7].completion, 300))
    (example,) = examples(audited(rows), "duplicate_exact")
    assert (example.row.where, example.like and example.like.where) == ("f.jsonl:300", "f.jsonl:7")


def test_a_near_copy_is_shown_with_the_row_it_resembles():
    rows = clean_chats(300)
    rows.append(chat(rows[7].messages[0]["content"], rows[7].completion.replace(" end.", " end!"), 300))
    (example,) = examples(audited(rows), "duplicate_near")
    assert (example.row.where, example.like and example.like.where) == ("f.jsonl:300", "f.jsonl:7")


@pytest.mark.parametrize(("ending", "code"), [(" end.", "leakage_exact"), (" end!", "leakage_near")])
def test_a_leak_is_shown_with_the_held_out_row(ending: str, code: str):
    rows, test = clean_chats(300), clean_chats(60, seed=1)
    asked = test[5].messages[0]["content"] + ("" if code == "leakage_exact" else " please")
    leaked = chat(asked, test[5].completion.replace(" end.", ending), 300)
    (example,) = examples(audited({"train": [*rows, leaked], "test": test}, given=["test"]), code)
    assert example.row.split == "train"
    assert example.like is not None
    assert (example.like.split, example.like.where) == ("test", "f.jsonl:5")


def test_a_contradiction_is_shown_with_the_other_answer():
    rows = clean_labels(300)
    text = rows[3].messages[0]["content"]
    (example,) = examples(audited([*rows, labelled(text, "class 0", 300)]), "conflicting_answers")
    assert example.like is not None
    assert {example.row.turns[-1].text, example.like.turns[-1].text} == {"class 0", rows[3].completion}


def test_text_around_the_fault_is_shown_however_far_it_lies():
    rows = clean_chats(300)
    far = "word " * 500
    rows[3] = chat("Where?", f"{far}In the cafÃ© by the river. {far}", 3)
    rows[5] = chat("How many?", f"{far}Three\u200b pieces. {far}", 5)
    rows[6] = chat("Who?", f"{far}Write to anna@firma.de. {far}", 6)
    rows[7] = chat("Why?", f"{far}As an AI language model I cannot. {far}", 7)
    data = audited(rows)
    for code, seen in (
        ("encoding_damaged", "cafÃ©"),
        ("control_characters", "Three\u200b"),
        ("pii", "[EMAIL]"),
        ("boilerplate", "As an AI language model"),
    ):
        (example,) = examples(data, code)
        turn = example.row.turns[-1]
        assert seen in turn.text
        assert len(turn.text) <= SHOWN_CHARS
        assert turn.before + len(turn.text) + turn.after >= 2 * len(far)


@pytest.mark.parametrize("num_chars", range(SHOWN_CHARS - 30, SHOWN_CHARS + 5))
def test_no_cut_leaves_half_of_an_address(num_chars: int):
    text = "x" * num_chars + " anna.schmidt@firma.de and more"
    (turn, _) = excerpt(chat(text, "yes"), "train").turns
    assert "anna" not in turn.text
    assert "firma" not in turn.text


def test_no_cut_leaves_half_of_a_private_key():
    body = "\n".join("MIIEvQIBADANBgkqhkiG9w0BAQEFAASC" * 2 for _ in range(50))
    key = f"-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----"
    (turn, _) = excerpt(chat(f"My key: {key}", "Thanks."), "train").turns
    assert turn.text == "My key: [KEY]"


def test_a_record_that_was_not_read_is_named_with_the_reason():
    problems = [SourceProblem("format_mixed", "f.jsonl:900", "column 'text' holds a dict of anna@firma.de, not text")]
    (example,) = examples(audited(clean_chats(300), problems=problems), "format_mixed")
    assert (example.row.where, example.row.turns) == ("f.jsonl:900", [])
    assert example.note == "column 'text' holds a dict of [EMAIL], not text"


def test_findings_about_the_whole_have_no_examples():
    data = audited(clean_chats(50))
    assert examples(data, "small") == []


def test_a_long_conversation_shows_its_ends():
    turns = tuple({"role": ("user", "assistant")[place % 2], "content": f"turn {place}"} for place in range(20))
    found = excerpt(Row(turns, where="f:1"), "train")
    assert [turn.text for turn in found.turns] == ["turn 0", "turn 1", "turn 2", "turn 17", "turn 18", "turn 19"]
    assert found.left_out == 14


def test_the_typical_row_has_the_median_length_and_no_personal_data():
    rows = [chat("question", f"answer {place}", place) for place in range(11)]
    lengths = np.arange(11)[::-1].copy()
    assert typical_row(rows, lengths).index == 5
    rows[5] = chat("question", "anna@firma.de", 5)
    found = typical_row(rows, lengths)
    assert (found.index, found.where, found.tokens) in ((4, "f.jsonl:4", 6), (6, "f.jsonl:6", 4))
    assert found == typical_row(rows, lengths)


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=300), st.integers(1, 50))
def test_a_histogram_counts_every_row_once(values: list[int], scale: int):
    numbers = np.asarray(values) * scale
    found = Histogram.of(numbers)
    assert sum(found.counts) == len(values)
    assert len(found.counts) <= MAX_BINS
    assert str(found.width).rstrip("0") in ("1", "2", "5")
    edges = [*(place * found.width for place in range(len(found.counts))), np.inf]
    assert found.counts == np.histogram(numbers, edges)[0].tolist()
    assert found.is_open == bool(numbers.max() >= len(found.counts) * found.width)


def test_one_outlier_does_not_squeeze_the_others_into_one_bar():
    found = Histogram.of(np.asarray([*range(10, 60), *range(10, 60), *range(10, 60), 100_000]))
    assert found.is_open
    assert sum(count > 0 for count in found.counts) > 10
