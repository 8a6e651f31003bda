"""Which examples show what tuning did: every example in one group, every choice the same each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.answered import MAX_LOOKED_AT, MAX_SHOWN, Answered, Group, grouped, measured, spread
from trainers.evaluation import read_predictions, write_predictions
from trainers.metrics import Predictions
from trainers.splits import EvaluationExample

LABELS = ["yes", "no"]


def examples(count: int, *, label: str | None = "yes", prompt: bool = True) -> list[EvaluationExample]:
    asked = ({"role": "user", "content": "q"},) if prompt else ()
    return [EvaluationExample(asked, ("a b c d", "a b c e"), label, f"t.jsonl:{place}") for place in range(count)]


def labelled(texts: list[str]) -> Predictions:
    return Predictions(texts, [("yes",)] * len(texts), labels=["yes"] * len(texts), label_names=LABELS)


def groups_of(answered: Answered) -> dict[str, Group]:
    return {group.name: group for group in grouped(measured(answered), answered.task)}


def classified(base: list[bool], tuned: list[bool]) -> Answered:
    words = {True: "yes", False: "no"}
    said = [labelled([words[right] for right in answers]) for answers in (tuned, base)]
    return Answered("test", examples(len(base)), *said)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_labels_fall_into_fixed_broken_and_unchanged(pairs: list[tuple[bool, bool]]):
    base, tuned = ([pair[side] for pair in pairs] for side in (0, 1))
    found = groups_of(classified(base, tuned))
    expected = {
        "fixed": (False, True),
        "broken": (True, False),
        "still wrong": (False, False),
        "right before and after": (True, True),
    }
    assert {name: group.count for name, group in found.items()} == {
        name: pairs.count(pair) for name, pair in expected.items()
    }
    for name, group in found.items():
        assert all(pairs[place] == expected[name] for place in group.places)
    shown = [place for group in found.values() for place in group.places]
    assert len(shown) == len(set(shown)) == min(MAX_SHOWN, len(pairs))
    assert found == groups_of(classified(base, tuned)), "the same every time"


def test_each_group_has_its_share_and_small_ones_leave_theirs_to_the_others():
    pairs = [(False, True)] * 100 + [(True, False)] + [(False, False)] * 100
    found = groups_of(classified(*([pair[side] for pair in pairs] for side in (0, 1))))
    assert [len(found[name].places) for name in ("fixed", "broken", "still wrong")] == [6, 1, 5]


def test_answers_with_references_are_measured_against_the_best_one():
    tuned = Predictions(["a b c e", "x", "a b c d"], [("a b c d", "a b c e")] * 3)
    base = Predictions(["x", "a b c d", "a b c d"], [("a b c d", "a b c e")] * 3)
    answered = Answered("test", examples(3, label=None), tuned, base)
    scores = measured(answered)
    assert scores.after.tolist() == [1.0, 0.0, 1.0]
    found = groups_of(answered)
    assert {name: group.places for name, group in found.items()} == {
        "better": [0],
        "worse": [1],
        "about the same": [2],
    }


def test_plain_text_is_measured_by_its_loss_per_token():
    def likely(*nll: float) -> Predictions:
        return Predictions([], [], nll=np.array(nll), target_tokens=np.array([2, 2, 0]))

    answered = Answered("test", examples(3, label=None, prompt=False), likely(1.0, 9.0, 0.0), likely(4.0, 2.0, 0.0))
    assert answered.task == "text"
    scores = measured(answered)
    assert scores.after.tolist() == [-0.5, -4.5, 0.0]
    assert [group.places for group in groups_of(answered).values()] == [[0], [1], [2]]


def test_losses_that_are_both_infinite_belong_to_no_group():
    def infinite() -> Predictions:
        return Predictions([], [], nll=np.array([np.inf, 1.0]), target_tokens=np.array([1, 1]))

    found = groups_of(Answered("test", examples(2, label=None, prompt=False), infinite(), infinite()))
    assert [group.count for group in found.values()] == [0, 0, 1]


def test_without_a_base_right_and_wrong_answers_are_shown():
    found = groups_of(Answered("test", examples(3), labelled(["yes", "no", "maybe"])))
    assert {name: group.places for name, group in found.items()} == {"wrong": [1, 2], "right": [0]}
    text = Predictions(["a b c d", "x"], [("a b c d",)] * 2)
    (group,) = groups_of(Answered("test", examples(2, label=None), text)).values()
    assert group.places == [1, 0]


def test_no_more_answers_are_compared_than_take_seconds():
    count = MAX_LOOKED_AT + 500
    text = Predictions(["a"] * count, [("a",)] * count)
    scores = measured(Answered("test", examples(count, label=None), text, text))
    assert len(scores.places) == MAX_LOOKED_AT
    assert (scores.places[0], scores.places[-1]) == (0, count - 1)


@given(st.integers(0, 100), st.integers(1, 30))
def test_a_spread_has_its_first_and_last_and_none_twice(count: int, most: int):
    found = spread(range(count), most)
    assert found == sorted(set(found))
    assert len(found) == min(count, most)
    if count and most > 1:
        assert (found[0], found[-1]) == (0, count - 1)


@pytest.mark.parametrize("kind", ["labels", "texts", "plain"])
def test_predictions_are_read_as_they_were_written(tmp_path: Path, kind: str):
    given_examples = examples(3, label="yes" if kind == "labels" else None, prompt=kind != "plain")
    written = Predictions(
        texts=[] if kind == "plain" else ["yes", "", "no\n"],
        references=[] if kind == "plain" else [example.references for example in given_examples],
        labels=["yes"] * 3 if kind == "labels" else None,
        label_names=LABELS if kind == "labels" else None,
        label_scores=np.full((3, 2), 0.5) if kind == "labels" else None,
        nll=np.array([1.0, 2.0, 3.0]),
        target_tokens=np.array([1, 2, 3]),
    )
    write_predictions(tmp_path / "p.parquet", given_examples, written)
    found_examples, found = read_predictions(tmp_path / "p.parquet", LABELS)
    assert found_examples == given_examples
    assert (found.texts, found.references) == (written.texts, written.references)
    assert (found.labels, found.label_names) == (written.labels, written.label_names)
    assert found.nll is not None
    assert found.target_tokens is not None
    assert (found.nll.tolist(), found.target_tokens.tolist()) == ([1.0, 2.0, 3.0], [1, 2, 3])
