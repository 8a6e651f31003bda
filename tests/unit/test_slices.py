"""Slices: which examples fall into which, what is scored, and what small ones may never do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cluster.errors import JobFileError
from tests.checked_sets import checked_set
from tests.finished_runs import finished_run, written_page
from tests.page_outline import Outline, refuse_fetching_or_running
from trainers.acceptance import gate_scores
from trainers.evaluation import read_acceptance, read_scored
from trainers.gate import decide
from trainers.look_refusals import refuse_blind_looks
from trainers.metrics import Predictions
from trainers.rows import Row
from trainers.scoring import score
from trainers.slices import NO_VALUE, Members, members, slice_table
from trainers.splits import EvaluationExample, evaluation_examples

REGIONS = {"north": 60, "south": 50, "east": 5}


def labelled(right: list[bool]) -> Predictions:
    """Return predictions of two classes, right or wrong as told."""
    gold = ["a" if place % 2 else "b" for place in range(len(right))]
    said = [label if ok else ("b" if label == "a" else "a") for label, ok in zip(gold, right, strict=True)]
    return Predictions(said, [(label,) for label in gold], gold, ["a", "b"])


def three(right_north: float = 0.9, right_south: float = 0.5) -> tuple[Predictions, Members]:
    """Return 60 northern and 50 southern examples with these accuracies, and 5 eastern ones that are all wrong."""
    right = [place < right_north * 60 for place in range(60)] + [place < right_south * 50 for place in range(50)]
    found = {"north": np.arange(60), "south": np.arange(60, 110), "east": np.arange(110, 115)}
    return labelled(right + [False] * 5), found


def row(text: str, label: str, where: str, **extra: str) -> Row:
    messages = ({"role": "user", "content": text}, {"role": "assistant", "content": label})
    return Row(messages, label=label, where=where, extra=extra)


def test_an_example_of_several_rows_has_the_value_most_of_them_have_and_the_first_of_equals():
    rows = [row("x", "a", "f:1", region="n"), row("x", "a", "f:2", region="s"), row("x", "a", "f:3", region="s")]
    rows += [row("y", "a", "f:4", region="w"), row("y", "a", "f:5", region="n"), row("z", "a", "f:6")]
    found = members(evaluation_examples(rows), rows, "region", [])
    assert found is not None
    assert {value: places.tolist() for value, places in found.items()} == {"s": [0], "w": [1], NO_VALUE: [2]}


def test_a_column_of_the_data_wins_over_a_word_and_words_work_without_one():
    rows = [
        row("x" * size, "ab"[size % 2], f"dir/{'one' if size < 50 else 'two'}.jsonl:{size}") for size in range(1, 101)
    ]
    examples = evaluation_examples(rows)
    by_class, by_source, by_length = (members(examples, rows, word, []) for word in ("class", "source", "length"))
    assert by_class is not None
    assert {value: len(places) for value, places in by_class.items()} == {"a": 50, "b": 50}
    assert by_source is not None
    assert by_source.keys() == {"dir/one.jsonl", "dir/two.jsonl"}
    assert by_length is not None
    assert {value: len(places) for value, places in by_length.items()} == {
        "up to 25 characters": 25,
        "26 to 50 characters": 25,
        "51 to 75 characters": 25,
        "over 75 characters": 25,
    }
    own = [row("x", "a", "f:1", source="web"), row("y", "a", "f:2", source="mail")]
    found = members(evaluation_examples(own), own, "source", [])
    assert found is not None
    assert found.keys() == {"web", "mail"}


def test_inputs_of_one_length_are_one_band():
    examples = [EvaluationExample(({"role": "user", "content": "same"},), ("a",), None, "f:1", (0,))] * 3
    found = members(examples, [row("same", "a", "f:1")], "length", [])
    assert found is not None
    assert sum(map(len, found.values())) == 3
    assert len(found) == 1


def test_a_slice_scores_what_its_examples_alone_would():
    predictions, found = three()
    table = slice_table(predictions, found, ["accuracy", "macro_f1"], 30, 0)
    for name in ("north", "south"):
        alone = score(predictions.at(found[name]), ["accuracy", "macro_f1"])
        assert table.slices[name].metrics == pytest.approx(alone, abs=1e-12)
        span = table.slices[name].intervals["accuracy"]
        assert span.low <= alone["accuracy"] <= span.high
        assert table.slices[name].examples == len(found[name])


def test_a_small_slice_is_undecided_and_neither_the_worst_nor_in_the_gap():
    predictions, found = three()
    table = slice_table(predictions, found, ["accuracy"], 30, 0)
    east = table.slices["east"]
    assert (east.decided, east.metrics, east.intervals) == (False, {}, {})
    assert (table.worst["accuracy"].slice, table.worst["accuracy"].value) == ("south", 0.5)
    assert table.gap["accuracy"].value == pytest.approx(0.4)
    assert (table.undecided, table.undecided_examples) == (1, 5)
    all_large = slice_table(predictions, found, ["accuracy"], 5, 0)
    assert all_large.worst["accuracy"].slice == "east"


def test_the_worst_slice_by_a_loss_is_the_one_with_the_highest():
    predictions = Predictions([], [], nll=np.repeat([1.0, 9.0], 40), target_tokens=np.full(80, 2))
    table = slice_table(predictions, {"low": np.arange(40), "high": np.arange(40, 80)}, ["loss"], 30, 0)
    assert table.worst["loss"].slice == "high"
    assert table.gap["loss"].value == pytest.approx(4.0)


def test_slices_that_hold_less_than_half_of_the_examples_decide_nothing():
    predictions, found = three()
    table = slice_table(predictions, found, ["accuracy"], 55, 0)
    assert table.worst, "60 of 115 examples lie in a slice that is large enough"
    assert not table.gap, "a gap needs two"
    none = slice_table(
        predictions.at(np.arange(20, 115)),
        {"n": np.arange(40), "s": np.arange(40, 90), "e": np.arange(90, 95)},
        ["accuracy"],
        95,
        0,
    )
    assert (none.worst, none.gap, none.undecided) == ({}, {}, 3)


def test_the_interval_of_the_gap_covers_zero_seldom_when_slices_differ_and_grows_when_they_are_small():
    wide = slice_table(*three(), ["accuracy"], 30, 0).gap["accuracy"]
    right = np.tile(np.array([True] * 9 + [False]), 300)
    right[1500:] = np.tile([True, False], 750)
    narrow = slice_table(
        labelled(right.tolist()), {"n": np.arange(1500), "s": np.arange(1500, 3000)}, ["accuracy"], 30, 0
    )
    assert 0 < wide.low < 0.4 < wide.high
    assert narrow.gap["accuracy"].high - narrow.gap["accuracy"].low < (wide.high - wide.low) / 3


FILES = {
    "train": [{"text": f"train {n}", "label": "ab"[n % 2], "region": "north"} for n in range(40)],
    "test": [
        {"text": f"{name} {n} anna.schmidt@firma.de", "label": "ab"[n % 2], "region": name}
        for name, count in REGIONS.items()
        for n in range(count)
    ],
}


def answer(role: str, example: EvaluationExample) -> str:
    """Answer wrong in the south half of the time, and always in the east; the base is always wrong."""
    text, label = example.prompt[0]["content"], str(example.label)
    wrong = role == "base" or text.startswith("east") or (text.startswith("south") and int(text.split()[1]) % 4 < 2)
    return ("b" if label == "a" else "a") if wrong else label


def test_rules_speak_of_the_worst_slice_and_say_what_was_too_small(tmp_path: Path):
    ctx = finished_run(tmp_path, FILES, answer, evaluate={"slices": ["region", "class"]})
    scores = gate_scores(read_scored(ctx), read_acceptance(ctx))
    rules = [
        "worst_slice(region).accuracy >= 0.45",
        "test.worst_slice(region).accuracy >= 0.6",
        "slice_gap(region).accuracy <= 0.1",
        "worst_slice(region).accuracy >= base + 0.4",
        "worst_slice(class).accuracy >= 0.5",
    ]
    outcomes = decide(rules, scores).rules
    assert [outcome.passed for outcome in outcomes] == [True, False, False, True, True]
    assert outcomes[0].left == pytest.approx(0.48)
    assert outcomes[0].note == "worst: south (50 examples); 1 too small to judge, of 5 examples"
    page = written_page(ctx)
    refuse_fetching_or_running(page)
    shown = Outline(page).text
    for said in ("Slices", "undecided: too few", "worst", "Best and worst slice are"):
        assert said in shown


def test_slices_too_small_to_judge_hold_a_rule_and_never_pass_it(tmp_path: Path):
    ctx = finished_run(tmp_path, FILES, answer, evaluate={"slices": ["region"], "min_slice_examples": 90})
    report = decide(["worst_slice(region).accuracy >= 0.0"], gate_scores(read_scored(ctx), read_acceptance(ctx)))
    assert report.decision == "hold"
    assert "3 too small to judge, of 115 examples" in report.rules[0].note


@pytest.mark.parametrize(
    ("asked", "gate", "message"),
    [
        (["regoin"], [], "did you mean region"),
        (["text"], [], "no test row has a value of 'text'"),
        (["tags"], [], "'tags' holds nothing to slice by"),
        (["region"], ["worst_slice(region).accuracy >= 0.1"], "no row of other has a value of 'region'"),
    ],
)
def test_what_no_row_has_is_refused_before_training(tmp_path: Path, asked: list[str], gate: list[str], message: str):
    files = {name: [row | {"tags": ["x"]} for row in rows] for name, rows in FILES.items()}
    files["other"] = [{"text": f"other {n}", "label": "ab"[n % 2]} for n in range(4)]
    checked = checked_set(tmp_path / "set", files)
    job = checked.job.model_copy(
        update={"evaluate": checked.job.evaluate.model_copy(update={"slices": asked}), "gate": gate}
    )
    with pytest.raises(JobFileError, match=message) as refusal:
        refuse_blind_looks(job, checked.prepared)
    assert refusal.value.remedy


def test_the_users_name_of_the_label_slices_by_class(tmp_path: Path):
    checked = checked_set(tmp_path / "set", FILES)
    rows = checked.prepared.rows("test")
    found = members(evaluation_examples(rows), rows, "label", checked.prepared.record.files)
    assert found is not None
    assert found.keys() == {"a", "b"}
