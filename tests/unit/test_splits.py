"""Splits never separate what belongs together, keep the shares, and hardly move when rows are added."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cluster.errors import DataError
from cluster.spec import DataSpec, SplitSpec
from trainers.duplicates import GENERAL_ROWS, NearTexts, row_hashes
from trainers.minhash import NearPairs, near_duplicate_pairs
from trainers.rows import Row
from trainers.sources import read_rows
from trainers.splits import TEST, TRAIN, VALIDATION, assign_splits, evaluation_examples, inseparable_groups

NO_PAIRS = NearPairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))


def row(prompt: str, completion: str = "x", label: str | None = None, group: str | None = None, **keys: object) -> Row:
    turns = [{"role": "user", "content": prompt}] if prompt else []
    return Row((*turns, {"role": "assistant", "content": label or completion}), label=label, group=group, **keys)  # type: ignore[arg-type]


def split(rows: list[Row], near: NearPairs = NO_PAIRS, **keys: object) -> NDArray[np.int64]:
    hashes = row_hashes(rows)
    spec = SplitSpec.model_validate(keys)
    return assign_splits(rows, hashes, inseparable_groups(rows, hashes, near), spec)


ROWS = st.lists(
    st.builds(
        row,
        st.integers(0, 20).map(str),
        st.sampled_from(["x", "y"]),
        st.sampled_from([None, "a", "b", "c"]),
        st.sampled_from([None, None, "g", "h"]),
    ),
    min_size=8,
    max_size=80,
)


@settings(deadline=None, max_examples=150)
@given(ROWS, st.data(), st.integers(0, 3), st.sampled_from([0.0, 0.1, 0.3]), st.sampled_from([0.0, 0.2, 0.3]))
def test_nothing_that_belongs_together_straddles(
    rows: list[Row], data: st.DataObject, seed: int, validation: float, test: float
):
    places = st.integers(0, len(rows) - 1)
    near = data.draw(st.lists(st.tuples(places, places), max_size=5))
    pairs = NearPairs(np.asarray([i for i, _ in near], int), np.asarray([j for _, j in near], int), np.ones(len(near)))
    split_of = split(rows, pairs, seed=seed, validation=validation, test=test)
    side: dict[object, int] = {}
    inputs = Counter(one.prompt[0]["content"] for one in rows)
    for place, one in enumerate(rows):
        asked = one.prompt[0]["content"]
        # What twenty rows of at most eighty ask is an instruction; only equal rows of it belong together.
        own = ("input", asked) if inputs[asked] < GENERAL_ROWS else ("equal", asked, one.completion)
        for key in (own, ("group", one.group) if one.group else ("row", place)):
            assert side.setdefault(key, split_of[place]) == split_of[place]
    assert all(split_of[i] == split_of[j] for i, j in near)
    for name, fraction in ((VALIDATION, validation), (TEST, test)):
        assert (split_of == name).sum() <= fraction * len(rows) + 0.5 * (fraction > 0)


@settings(deadline=None, max_examples=50)
@given(st.integers(10, 3000), st.integers(0, 5), st.sampled_from([0.0, 0.05, 0.1, 0.25]))
def test_fractions_are_met_where_rows_are_single(count: int, seed: int, fraction: float):
    split_of = split([row(str(i)) for i in range(count)], seed=seed, validation=fraction, test=fraction)
    assert abs((split_of == TEST).sum() - fraction * count) <= 0.5
    assert abs((split_of == VALIDATION).sum() - fraction * count) <= 0.5


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.integers(0, 5))
def test_every_class_has_its_share_within_rounding(sizes: list[int], seed: int):
    rows = [row(f"{label} {i}", label=str(label)) for label, size in enumerate(sizes) for i in range(size)]
    if len(rows) < 3:
        return
    split_of = split(rows, seed=seed, validation=0.1, test=0.2)
    for name, fraction in ((VALIDATION, 0.1), (TEST, 0.2)):
        counts = Counter(rows[place].label for place in np.flatnonzero(split_of == name).tolist())
        for label, size in enumerate(sizes):
            # Half a row from rounding, and up to one that the class before had no room for.
            assert abs(counts[str(label)] - fraction * size) <= 1.5 + 1e-9
        assert -1.5 <= counts.total() - fraction * len(rows) <= 0.5 + 1e-9


def test_small_classes_of_pairs_still_reach_the_test_split():
    rows = [row(f"{label} {i // 2}", label=str(label)) for label in range(16) for i in range(10)]
    split_of = split(rows, validation=0.0, test=0.1)
    assert (split_of == TEST).sum() == pytest.approx(16, abs=2)


def test_a_class_that_is_one_large_group_stays_in_training_and_takes_no_room_from_others():
    rows = [row(str(i), label="a", group="all") for i in range(1000)] + [row(f"b{i}", label="b") for i in range(1000)]
    split_of = split(rows, validation=0.0, test=0.1)
    assert (split_of[:1000] == TRAIN).all()
    assert (split_of[1000:] == TEST).sum() == pytest.approx(100, abs=2)


def test_stratify_can_be_switched_off_and_needs_labels():
    rows = [row(str(i), label="a" if i < 990 else "b") for i in range(1000)]
    seeds = range(20)
    stratified = [(split(rows, seed=seed)[990:] == TEST).sum() for seed in seeds]
    plain = [(split(rows, seed=seed, stratify=False)[990:] == TEST).sum() for seed in seeds]
    assert set(stratified) == {1}
    assert len(set(plain)) > 1
    with pytest.raises(DataError, match="no row has a label"):
        split([row(str(i)) for i in range(10)], stratify=True)


def test_the_same_rows_fall_the_same_way_in_any_order():
    rows = [row(str(i // 2), str(i), group="g" if i % 37 == 0 else None) for i in range(400)]
    shuffled = np.random.default_rng(0).permutation(400)
    straight, mixed = split(rows), split([rows[place] for place in shuffled.tolist()])
    assert np.array_equal(straight[shuffled], mixed)


def test_another_seed_divides_otherwise():
    rows = [row(str(i)) for i in range(200)]
    assert not np.array_equal(split(rows, seed=0), split(rows, seed=1))


def test_a_few_more_rows_move_few():
    rows = [row(str(i)) for i in range(1000)]
    before, after = split(rows), split(rows + [row(f"new {i}") for i in range(20)])
    # 20 rows shift each of the two borders between splits by at most about their number.
    assert (before != after[:1000]).sum() <= 20


def test_fractions_that_leave_nothing_to_train_on_are_refused():
    with pytest.raises(DataError, match="none to train on"):
        split([row("one")], validation=0.0, test=0.9)
    assert len(split([])) == 0


def test_e2e_inputs_and_near_duplicates_do_not_straddle(realdata: Path):
    data = DataSpec.model_validate(
        {"train": [str(realdata / "e2e" / "trainset.csv")], "columns": {"prompt": "mr", "completion": "ref"}}
    )
    rows = list(read_rows(data.train, data))
    near = near_duplicate_pairs(NearTexts(rows))
    split_of = split(rows, near)
    inputs = [{rows[i].prompt[0]["content"] for i in np.flatnonzero(split_of == s).tolist()} for s in range(3)]
    assert sum(map(len, inputs)) == 4862, "every input lies in one split"
    assert (split_of[near.i] == split_of[near.j]).all()
    assert np.bincount(split_of) / len(rows) == pytest.approx([0.8, 0.1, 0.1], abs=0.001)


def test_rows_of_one_input_are_one_example_with_all_references():
    rows = [
        row("Hi", "Hello"),
        row("Bye", "See you"),
        row("Hi", "Hey", references=("Hello", "Hi you")),
        row("Hi", "Hello", where="rows:4"),
    ]
    first, second = evaluation_examples(rows)
    assert first.prompt == ({"role": "user", "content": "Hi"},)
    assert first.references == ("Hello", "Hey", "Hi you")
    assert first.rows == (0, 2, 3)
    assert (second.references, second.rows) == (("See you",), (1,))


def test_the_label_of_an_example_is_the_one_most_rows_give():
    rows = [row("x", label=label) for label in ("a", "b", "b")]
    (example,) = evaluation_examples(rows)
    assert (example.label, example.references) == ("b", ("a", "b"))


def test_plain_texts_are_examples_of_their_own():
    examples = evaluation_examples([row("", "Once"), row("", "Once")])
    assert [example.references for example in examples] == [("Once",), ("Once",)]


def test_a_general_instruction_ties_no_rows_but_equal_ones():
    rows = [row("Say something.", str(place // 2)) for place in range(200)]
    split_of = split(rows, validation=0.0, test=0.1)
    assert (split_of == TEST).sum() == 20
    assert np.array_equal(split_of[::2], split_of[1::2])
