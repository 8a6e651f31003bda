from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.errors import DataError
from cluster.spec import DataSpec
from tests.checked_sets import checked_set
from tests.tiny import ticket_rows
from trainers.dataset import NothingToTrainOn
from trainers.division import divide, drawn_rows, split_names
from trainers.duplicates import NearTexts, row_hashes
from trainers.minhash import near_duplicate_pairs
from trainers.rows import Row


def row(text: str, label: str = "a") -> Row:
    messages = ({"role": "user", "content": text}, {"role": "assistant", "content": label})
    return Row(messages, label=label)


def divided(data: DataSpec, rows: list[Row], given_for: list[str]) -> list[str]:
    places = divide(data, rows, row_hashes(rows), near_duplicate_pairs(NearTexts(rows)), given_for)
    return [split_names(data)[place] for place in places.tolist()]


def distinct_rows(count: int, seed: int = 0) -> list[Row]:
    rng = np.random.default_rng(seed)
    return [row(" ".join(map(str, rng.integers(0, 10**6, size=6)))) for _ in range(count)]


def test_given_files_keep_their_rows_and_are_not_split_off_again() -> None:
    data = DataSpec.model_validate({"train": "t", "validation": "v", "test": {"old": "o", "new": "n"}})
    given_for = ["train"] * 20 + ["validation"] * 3 + ["old"] * 2 + ["new"] * 4
    assert divided(data, distinct_rows(29), given_for) == given_for


def test_what_was_not_given_is_split_off_the_training_rows() -> None:
    data = DataSpec.model_validate({"train": "t", "test": "o"})
    splits = divided(data, distinct_rows(110), ["train"] * 100 + ["test"] * 10)
    assert splits.count("validation") == 10
    assert splits.count("test") == 10
    assert splits[100:] == ["test"] * 10


def test_rows_with_one_input_never_straddle() -> None:
    rows = [copy for one in distinct_rows(60) for copy in (one, one)]
    splits = divided(DataSpec.model_validate({"train": "t"}), rows, ["train"] * 120)
    assert all(splits[place] == splits[place + 1] for place in range(0, 120, 2))


@pytest.mark.parametrize(("weight", "expected"), [(0.5, 50), (1.0, 80), (0.0001, 0)])
def test_a_mixture_draws_its_weight_of_rows_at_most_all(weight: float, expected: int) -> None:
    data = DataSpec.model_validate({"train": "t", "mix": [{"name": "general", "train": "g", "weight": weight}]})
    further = distinct_rows(80, seed=1)
    found, again = (list(drawn_rows(data, 100, {"general": further})["general"]) for _ in range(2))
    assert len(found) == expected
    assert found == again


def test_a_further_source_holds_out_rows_under_its_own_name_and_none_of_them_judge_the_task() -> None:
    data = DataSpec.model_validate({"train": "t", "mix": [{"name": "general", "train": "g", "weight": 1.0}]})
    main, further = distinct_rows(100), distinct_rows(100, seed=1)
    splits = divided(data, [*main, *further], ["train"] * 100 + ["general"] * 100)
    assert set(splits[:100]) == {"train", "validation", "test"}
    assert Counter(splits[100:]) == {"train": 80, "general": 20}


def test_a_further_sources_row_near_a_held_out_row_is_not_trained_on() -> None:
    data = DataSpec.model_validate({"train": "t", "mix": [{"name": "general", "train": "g", "weight": 1.0}]})
    main = distinct_rows(100)
    splits = divided(data, [*main, *main], ["train"] * 100 + ["general"] * 100)
    assert [split == "train" for split in splits[:100]] == [split == "train" for split in splits[100:]]


NO_SPLITS = {"validation": 0, "test": 0}


def questions(num: int, answer: str = "answer") -> list[dict[str, Any]]:
    rng = np.random.default_rng(num)
    return [{"prompt": f"question {rng.integers(10**9)}", "completion": f"{answer} {place}"} for place in range(num)]


def test_rows_without_an_answer_are_in_no_split_and_counted(tmp_path: Path):
    train, test = questions(60), questions(20)
    train[5]["completion"] = ""
    test[3]["completion"] = " "
    made = checked_set(tmp_path, {"train": train, "test": test}, split=NO_SPLITS)
    record = made.prepared.record
    assert {name: count.rows for name, count in record.splits.items()} == {"train": 59, "test": 19}
    assert record.without_target == {"train": 1, "validation": 0, "test": 1}
    assert all(row.completion.strip() for name in record.splits for row in made.prepared.rows(name))
    (found,) = [finding for finding in record.findings if finding.code == "target_missing"]
    assert (found.severity, found.count) == ("warning", 2)
    assert "left out of training and of every split that judges" in found.detail


def test_one_row_without_a_label_leaves_a_classification_one(tmp_path: Path):
    rows: list[dict[str, Any]] = [dict(row) for row in ticket_rows(60)]
    rows[7]["label"] = None
    record = checked_set(tmp_path, {"train": rows}, split=NO_SPLITS).prepared.record
    assert record.task == "classification"
    assert record.labels == sorted({row["label"] for row in rows if row["label"]})
    assert record.splits["train"].rows == 59


def test_a_given_test_without_labels_in_a_classification_is_refused(tmp_path: Path):
    files = {"train": ticket_rows(60), "test": [{"text": row["text"]} for row in ticket_rows(20, seed=1)]}
    with pytest.raises(DataError, match=r"test holds plain text.*classification"):
        checked_set(tmp_path, files)


def test_a_given_test_that_max_length_empties_is_an_error(tmp_path: Path):
    long = [{"prompt": "long " * 200, "completion": "never"}]
    record = checked_set(tmp_path, {"train": questions(60), "test": long}, 100).prepared.record
    assert "test" not in record.splits
    assert any("nothing is left of test" in one.detail for one in record.findings if one.severity == "error")
    assert not any(one.code == "small" and one.detail.startswith("test") for one in record.findings)


def test_fixes_reach_the_rows_of_a_mixture(tmp_path: Path):
    train, general = questions(40), questions(30, "general")
    general[4] = dict(train[3])
    general[6]["completion"] = "write to anna.schmidt@firma.de"
    mix = [{"name": "general", "train": f"{tmp_path}/general.jsonl", "weight": 1.0}]
    fix = {"fix": ["pii", "duplicate_exact"]}
    made = checked_set(tmp_path, {"train": train, "general": general}, mix=mix, audit=fix, split=NO_SPLITS)
    fixed = made.prepared.record.fixed
    assert {code: (one.mended, one.dropped) for code, one in fixed.items()} == {
        "pii": (1, 0),
        "duplicate_exact": (0, 1),
    }
    rows = made.prepared.rows("train")
    assert Counter(row.source for row in rows) == {"train": 40, "general": 29}
    assert "write to [EMAIL]" in [row.completion for row in rows]


def test_a_row_of_a_mixture_that_leaks_into_a_given_test_is_fixed_there(tmp_path: Path):
    train, test = questions(40), questions(30, "tested")
    general = [*questions(20, "general"), dict(test[0])]
    mix = [{"name": "general", "train": f"{tmp_path}/general.jsonl", "weight": 1.0}]
    files = {"train": train, "test": test, "general": general}
    made = checked_set(tmp_path, files, mix=mix, audit={"fix": ["leakage_exact"]}, split=NO_SPLITS)
    assert made.prepared.record.fixed["leakage_exact"].dropped == 1
    assert made.prepared.record.splits["test"].rows == 30


@pytest.mark.parametrize("emptied", ["train", "test"])
def test_fixes_that_drop_every_row_of_a_file_are_named(tmp_path: Path, emptied: str):
    files = {"train": questions(40), "test": questions(10, "tested")}
    for row in files[emptied]:
        row["completion"] = ""
    with pytest.raises(DataError, match=rf"the fixes dropped all \d+ rows of {emptied} .*target_missing \d+"):
        checked_set(tmp_path, files, audit={"fix": ["target_missing"]})


def test_without_a_row_to_train_on_the_findings_come_with_the_error(tmp_path: Path):
    rows = questions(30)
    for row in rows:
        row["completion"] = ""
    with pytest.raises(NothingToTrainOn) as raised:
        checked_set(tmp_path, {"train": rows, "test": questions(20)})
    assert [one.code for one in raised.value.findings if one.severity == "error"] == ["target_missing"]
    assert raised.value.splits["test"].rows == 20


def test_a_weight_that_cannot_be_met_is_a_finding(tmp_path: Path):
    mix = [{"name": "general", "train": f"{tmp_path}/general.jsonl", "weight": 5.0}]
    files = {"train": questions(40), "general": questions(30, "general")}
    record = checked_set(tmp_path, files, mix=mix, split=NO_SPLITS).prepared.record
    assert any("asks for 200 rows, and it has 30" in one.detail for one in record.findings)


def test_a_general_instruction_neither_ties_rows_together_nor_leaks(tmp_path: Path):
    rng = np.random.default_rng(0)
    rows = [
        {"prompt": "Tell me something.", "completion": " ".join(map(str, rng.integers(10**6, size=8)))}
        for _ in range(100)
    ]
    record = checked_set(tmp_path, {"train": rows}).prepared.record
    assert {name: count.rows for name, count in record.splits.items()} == {"train": 80, "validation": 10, "test": 10}
    assert not [one for one in record.findings if one.code.startswith("leakage")]


def test_few_rows_that_leave_a_split_empty_are_warned_about(tmp_path: Path):
    record = checked_set(tmp_path, {"train": questions(3)}).prepared.record
    empty = [one.detail for one in record.findings if one.severity == "warning" and " is empty, " in one.detail]
    assert [detail.split()[0] for detail in empty] == ["validation", "test"]
