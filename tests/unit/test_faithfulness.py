"""Values that answers lack and add: what counts as said, what does not, and what the scores are."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import JobFileError
from cluster.evaluate_spec import FaithfulnessSpec
from tests.checked_sets import checked_set
from tests.finished_runs import finished_run
from trainers.acceptance import gate_scores
from trainers.evaluation import read_acceptance, read_predictions, read_scored
from trainers.faithfulness import Faithfulness, Inventory, json_counts, slot_counts, slots_of, words_of
from trainers.gate import decide
from trainers.look_refusals import refuse_blind_looks
from trainers.splits import EvaluationExample

MR = "name[The Mill], food[French], priceRange[£20-25], area[riverside], familyFriendly[no], near[Café Rouge]"
OTHERS = "name[The Eagle], food[English], priceRange[cheap], customer rating[5 out of 5], familyFriendly[yes]"
ALIASES = {"riverside": ["by the river"], "familyFriendly": ["child friendly"]}
SAID = "The Mill by Cafe Rouge is a French place at the riverside, £20 - £25, and not family-friendly."


def asking(text: str) -> tuple[dict[str, str], ...]:
    return ({"role": "user", "content": text},)


INVENTORY = Inventory.of([asking(MR), asking(OTHERS)])


def test_slots_are_names_with_values_wherever_they_stand():
    assert slots_of("Describe: name[Blue Spice], customer rating[5 out of 5], food[]") == [
        ("Describe: name", "Blue Spice"),
        ("customer rating", "5 out of 5"),
    ]
    assert slots_of("plain words") == []


def test_case_accents_hyphens_currency_and_number_words_are_evened_out():
    assert " ".join(words_of("Café-Rouge, £20-25; FIVE out of five isn't")) == "cafe rouge 20 25 5 out of 5 isnt"


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        (SAID, (0, 6, 0, 6)),
        (SAID.replace("French ", ""), (1, 6, 0, 5)),
        (SAID.replace("French", "English"), (1, 6, 1, 6)),
        (SAID.replace("not ", ""), (1, 6, 1, 6)),
        (SAID.replace(", and not family-friendly", ""), (1, 6, 0, 5)),
        (SAID.replace("not family-friendly", "isn't child friendly"), (0, 6, 0, 6)),
        (SAID.replace("at the riverside", "by the river"), (0, 6, 0, 6)),
        (SAID + " Rated five out of 5 and cheap.", (0, 6, 2, 8)),
        ("", (6, 6, 0, 0)),
    ],
)
def test_what_is_lacking_and_what_is_added_is_counted(text: str, counts: tuple[int, ...]):
    assert slot_counts(slots_of(MR), text, INVENTORY, ALIASES) == counts


def test_a_value_within_another_that_was_asked_for_is_no_addition():
    inventory = Inventory.of([asking("name[The Golden Curry], food[Curry]")])
    assert slot_counts([("name", "The Golden Curry")], "The Golden Curry serves food.", inventory, {}) == (0, 1, 0, 1)
    assert slot_counts([("name", "The Golden Curry")], "The Golden Curry has curry.", inventory, {}) == (0, 1, 1, 2)


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ('{"city": "Berlin", "date": "3 May", "items": ["a", "b"]}', (0, 4, 0, 4)),
        ('Sure: {"date": "3 may", "city": "berlin", "items": ["b", "a"]}.', (0, 4, 0, 4)),
        ('{"city": "Bonn", "date": "3 May", "items": ["a"]}', (2, 4, 1, 3)),
        ('{"city": "Berlin", "date": "3 May", "items": ["a", "b"], "who": "me", "note": null}', (0, 4, 1, 5)),
        ("Berlin, 3 May", (4, 4, 0, 0)),
        ('{"city": "Berlin", ', (4, 4, 0, 0)),
    ],
)
def test_an_object_is_held_against_the_right_one_value_by_value(text: str, counts: tuple[int, ...]):
    assert json_counts(['{"city": "Berlin", "date": "3 May", "items": ["a", "b"]}'], text) == counts


def test_the_nearest_of_several_right_objects_counts():
    assert json_counts(['{"a": 1, "b": 2}', '{"a": 1}', "none"], '{"a": 1}') == (0, 1, 0, 1)


def test_the_scores_follow_from_the_counts_and_gate(tmp_path: Path):
    rows = [
        {"prompt": f"name[Pub {n}], food[{'French' if n % 2 else 'English'}]", "completion": f"Pub {n} is fine."}
        for n in range(60)
    ]

    def answer(role: str, example: EvaluationExample) -> str:
        name, food = (value for _, value in slots_of(example.prompt[0]["content"]))
        if role == "base":
            return "Nothing."
        return f"{name} serves {food} food." if int(name.split()[1]) % 4 else f"{name} is French."

    files = {"train": rows[:20], "test": rows[20:]}
    ctx = finished_run(
        tmp_path, files, answer, evaluate={"faithfulness": {}, "slices": ["length"], "min_slice_examples": 5}
    )
    scored = read_scored(ctx)
    tuned = scored.of("tuned")["test"]
    assert tuned["faithfulness"] == pytest.approx(0.75)
    assert tuned["slots_missing"] == pytest.approx(10 / 80)
    assert tuned["slots_added"] == pytest.approx(10 / 80)
    assert scored.of("base")["test"]["slots_missing"] == 1.0
    span = scored.intervals["tuned"]["test"]["faithfulness"]
    assert span.low < 0.75 < span.high
    rules = ["slots_missing <= base - 0.5", "faithfulness >= 0.9", "worst_slice(length).slots_added <= 1.0"]
    scores = gate_scores(scored, read_acceptance(ctx))
    assert [rule.passed for rule in decide(rules, scores).rules] == [True, False, True]
    directory = ctx.store.reading("runs", ctx.run, "evaluation")
    kept = read_predictions(directory / "tuned-test.parquet", [])[1].values
    assert kept is not None
    assert kept.sum(axis=0).tolist() == [10, 80, 10, 80]


def test_a_form_that_no_row_has_is_refused(tmp_path: Path):
    checked = checked_set(
        tmp_path / "set",
        {"train": [{"prompt": "a", "completion": "b"}] * 4, "test": [{"prompt": "c", "completion": "d"}]},
    )
    for form in ("slots", "json"):
        evaluate = checked.job.evaluate.model_copy(update={"faithfulness": FaithfulnessSpec(form=form)})
        with pytest.raises(JobFileError, match="no test row has"):
            refuse_blind_looks(checked.job.model_copy(update={"evaluate": evaluate}), checked.prepared)


@pytest.mark.skipif("HONE_REALDATA" not in os.environ, reason="HONE_REALDATA names the real rows")
def test_on_real_rows_a_value_taken_out_is_missed_and_one_put_in_is_seen():
    path = Path(os.environ["HONE_REALDATA"]) / "e2e" / "devset.csv"
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[::20]
    inventory = Inventory.of([asking(row["mr"]) for row in rows])
    whole = [row for row in rows if slot_counts(slots_of(row["mr"]), row["ref"], inventory, {})[0] == 0]
    assert len(whole) > 50
    found = []
    for row in whole:
        slots = slots_of(row["mr"])
        name = next(value for slot, value in slots if slot == "name")
        without = slot_counts(slots, row["ref"].replace(name, "it"), inventory, {})[0]
        before = slot_counts(slots, row["ref"], inventory, {})[2]
        other = next(value for value in inventory.spoken if all(value != own for _, own in slots))
        more = slot_counts(slots, f"{row['ref']} {other}.", inventory, {})[2]
        found.append((without >= 1, more == before + 1))
    assert np.mean(found, axis=0).min() > 0.97


def test_an_input_without_slots_requires_nothing():
    plain = EvaluationExample(asking("plain"), ("x",), None, "f:1")
    assert not Faithfulness(FaithfulnessSpec(), INVENTORY).has_values([plain])
