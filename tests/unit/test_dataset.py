from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from cluster.spec import DataSpec
from trainers.dataset import divide, drawn_rows, split_names
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
