"""Classes: balance, rarity, absence, and labels that the neighbours contradict."""

from __future__ import annotations

import random

from tests.audited_rows import audited, clean_chats, clean_labels, labelled
from trainers.audit_labels import balance_evidence, suspect_evidence


def test_even_classes_and_data_without_labels_give_nothing():
    assert balance_evidence(audited(clean_labels(300)), 20, 10) == []
    assert balance_evidence(audited(clean_chats(300)), 20, 10) == []
    assert suspect_evidence(audited(clean_chats(300)), 10, 20_000) == []


def test_the_surplus_over_the_ratio_would_have_to_go():
    rows = [labelled(f"text {place}", "many", place) for place in range(250)]
    rows += [labelled(f"other {place}", "few", place) for place in range(12)]
    (found,) = balance_evidence(audited(rows), 20, 10)
    assert (found.code, found.rows.tolist()) == ("class_imbalance", list(range(240, 250)))
    assert balance_evidence(audited(rows), 250 / 12, 10) == []


def test_a_rare_class_is_reported_with_its_rows_and_left_out_of_the_ratio():
    rows = [labelled(f"text {place}", f"class {place % 2}", place) for place in range(400)]
    rows[17] = labelled("text 17", "odd", 17)
    (found,) = balance_evidence(audited(rows), 20, 10)
    assert (found.code, found.rows.tolist()) == ("class_rare", [17])
    assert "odd" in found.detail


def test_a_class_that_no_test_row_has_is_a_warning_that_costs_no_row():
    rows = clean_labels(300, num_classes=3)
    test = [row for row in clean_labels(90, num_classes=3, seed=1) if row.label != "class 2"]
    (found,) = balance_evidence(audited({"train": rows, "test": test}), 20, 10)
    assert (found.code, found.severity, found.count) == ("class_rare", "warning", 0)
    assert "class 2" in found.detail
    assert rows[found.shown[0]].label == "class 2"


def test_test_rows_of_a_class_never_trained_on_would_have_to_go():
    rows = clean_labels(300, num_classes=3)
    test = [*clean_labels(30, num_classes=3, seed=1), labelled("strange", "unknown")]
    (found,) = balance_evidence(audited({"train": rows, "test": test}), 20, 10)
    assert found.rows.tolist() == [330]


def test_flipped_labels_are_found_and_few_others():
    rows = clean_labels(1000)
    rng = random.Random(3)
    flipped = sorted(rng.sample(range(1000), 20))
    for index in flipped:
        number = int((rows[index].label or "").split()[1])
        rows[index] = labelled(rows[index].messages[0]["content"], f"class {(number + 1) % 5}", index)
    (found,) = suspect_evidence(audited(rows), 10, 20_000)
    hits = set(found.rows.tolist()) & set(flipped)
    # Classes share the common words only, so most flipped rows stand among rows of their true class.
    assert len(hits) >= 16
    assert len(hits) >= 0.9 * len(found.rows)


def test_a_few_suspects_are_a_note():
    rows = clean_labels(1000)
    rows[7] = labelled(rows[7].messages[0]["content"], "class 3", 7)
    rows[11] = labelled(rows[11].messages[0]["content"], "class 4", 11)
    (found,) = suspect_evidence(audited(rows), 10, 20_000)
    assert found.severity == "note"
    assert set(found.rows.tolist()) <= {7, 11}


def test_a_rare_class_among_a_crowd_is_not_suspect_for_being_rare():
    rng = random.Random(0)
    words = [f"w{place}" for place in range(200)]
    rows = [labelled(" ".join(rng.choices(words, k=12)), "yes" if place % 20 else "no", place) for place in range(600)]
    assert suspect_evidence(audited(rows), 10, 20_000) == []


def test_a_sample_says_that_it_is_one():
    rows = clean_labels(600)
    for index in range(0, 600, 10):
        rows[index] = labelled(rows[index].messages[0]["content"], "class 1" if index % 5 != 1 else "class 2", index)
    (found,) = suspect_evidence(audited(rows), 10, 400)
    assert "a sample of 400 of 600 rows" in found.detail
    assert found.rows.tolist() == suspect_evidence(audited(rows), 10, 400)[0].rows.tolist()


def test_texts_without_a_common_word_have_no_neighbours():
    rows = [labelled(f"wort{place}", f"class {place % 2}", place) for place in range(50)]
    assert suspect_evidence(audited(rows), 10, 20_000) == []
