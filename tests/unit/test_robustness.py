"""Drops under changed inputs and agreement of repeats, against counts made by hand."""

from __future__ import annotations

import pytest

from cluster.evaluate_spec import RobustnessSpec
from trainers.metrics import Predictions
from trainers.robustness import changed_examples, consistency, repeated, robustness, sample
from trainers.splits import EvaluationExample

SPEC = RobustnessSpec(kinds=["typos", "distractor"], max_examples=20, repeats=3)


def examples(count: int) -> list[EvaluationExample]:
    system = {"role": "system", "content": "Answer shortly."}
    return [
        EvaluationExample(
            (system, {"role": "user", "content": f"Where is parcel {n}?"}), ("here",), "here", f"f:{n}", (n,)
        )
        for n in range(count)
    ]


def said(texts: list[str], *, labelled: bool = True) -> Predictions:
    gold = ["here"] * len(texts)
    return Predictions(
        texts, [("here",)] * len(texts), gold if labelled else None, ["here", "there"] if labelled else None
    )


def test_the_sample_follows_from_the_seed_and_is_all_there_is_where_that_is_less():
    assert sample(examples(50), SPEC).tolist() == sample(examples(50), SPEC).tolist()
    assert len(set(sample(examples(50), SPEC).tolist())) == 20
    other = SPEC.model_copy(update={"seed": 1})
    assert sample(examples(50), SPEC).tolist() != sample(examples(50), other).tolist()
    assert sample(examples(5), SPEC).tolist() == [0, 1, 2, 3, 4]


def test_only_the_last_user_turn_changes():
    for before, after in zip(examples(9), changed_examples(examples(9), "distractor", 0), strict=True):
        assert after.prompt[0] == before.prompt[0]
        assert after.prompt[1]["content"].endswith(before.prompt[1]["content"])
        assert (after.references, after.label, after.where) == (before.references, before.label, before.where)


def test_a_drop_is_above_zero_where_changed_inputs_do_worse_and_its_interval_is_paired():
    asked = examples(20)
    clean = said(["here"] * 16 + ["there"] * 4)
    worse, same = said(["here"] * 12 + ["there"] * 8), said(["here"] * 16 + ["there"] * 4)
    changed = {"typos": (changed_examples(asked, "typos", 0), worse), "distractor": (asked, same)}
    found = robustness(clean, asked, changed, None, ["accuracy"], SPEC)
    drop = found.kinds["typos"].drop["accuracy"]
    assert drop.value == pytest.approx(0.2)
    assert 0 <= drop.low < 0.2 < drop.high
    assert found.kinds["typos"].changed == 20
    nothing = found.kinds["distractor"]
    assert (nothing.drop["accuracy"].value, nothing.drop["accuracy"].high, nothing.changed) == (0, 0, 0)


def test_labels_agree_pair_by_pair_also_where_they_are_none():
    texts = ["here", "here", "here", "here", " HERE", "there", "nowhere", "nowhere", "here"]
    found = consistency(said(texts), 3)
    assert found is not None
    assert found.value == pytest.approx((1 + 1 / 3 + 1 / 3) / 3)


def test_answers_agree_by_their_overlap():
    texts = ["a red pub", "a red pub", "a red pub", "a blue pub", "...", "..."]
    found = consistency(said(texts, labelled=False), 2)
    assert found is not None
    assert found.value == pytest.approx((1 + 2 / 3 + 1) / 3)


def test_repeats_stand_behind_each_other():
    assert [one.where for one in repeated(examples(2), 3)] == ["f:0"] * 3 + ["f:1"] * 3
