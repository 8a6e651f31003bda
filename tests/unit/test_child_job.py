"""A child's job passes the data stage like any job: audited, its tests frozen, nothing close to them trained on."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest

from cluster.progress import Progress
from cluster.spec import JobSpec
from serving.child_job import carried, child_job
from serving.material import write_material
from serving.retrain import gathered
from tests.parents import World, correction, corrections, old_rows, world
from tests.tiny import write_base
from trainers.prepare import prepare
from trainers.prepared import Prepared


def prepared(made: World, base: Path) -> tuple[Prepared, JobSpec]:
    found = gathered(made.endpoint, made.settings)
    key = write_material(found.parent, found.parts, found.known, found.heard, made.store).key
    job = child_job(found.parent, found.endpoint.retrain, "support", key, made.store, [f"base={base}"])
    return Prepared(made.store.reading("data", prepare(job, made.store, Progress(StringIO())))), job


def asked(found: Prepared, split: str) -> set[str]:
    return {row.prompt[-1]["content"] for row in found.rows(split)}


def test_the_data_stage_takes_it_with_new_classes_and_frozen_tests(tmp_path: Path) -> None:
    made = world(tmp_path)
    near = f"{old_rows(1, 200)[0]['text']} again"
    made.write([*corrections(40), *correction("near", near, "shipping", "someone")])
    found, _ = prepared(made, write_base(tmp_path / "base"))
    record = found.record
    assert (record.task, record.tests) == ("classification", ["old", "new"])
    assert {"billing", "access", "bugs", "shipping", "returns"} <= set(record.labels)
    assert asked(found, "old") == {row["text"] for row in old_rows(9, 200)}, "every row, and no other"
    assert not asked(found, "new") & (asked(found, "train") | asked(found, "validation"))
    assert all(finding.severity != "error" for finding in record.findings), record.findings
    groups = {row.group for row in found.rows("train") if row.group}
    assert groups
    assert not groups & {row.group for row in found.rows("new")}


def test_new_rows_close_to_an_old_test_row_are_dropped_and_counted(tmp_path: Path) -> None:
    made = world(tmp_path)
    words = " ".join(f"word{n}" for n in range(60))
    made.write([*corrections(40), *correction("a", words, "shipping", "near1")])
    found = gathered(made.endpoint, made.settings)
    assert "near1" in {row.unit for row in found.parts.train}
    key = write_material(found.parent, found.parts, found.known, found.heard, made.store).key
    base = write_base(tmp_path / "base")
    job = child_job(found.parent, made.endpoint.retrain, "support", key, made.store, [f"base={base}"])
    test = Path(job.data.test["old"][0])
    copied = tmp_path / "old_test.jsonl"
    copied.write_text(test.read_text() + test.read_text().splitlines()[0].replace(
        old_rows(1, 200)[0]["text"], words.replace("word30", "other")) + "\n")  # fmt: skip
    near = job.model_copy(update={"data": job.data.model_copy(update={"test": job.data.test | {"old": [str(copied)]}})})
    after = Prepared(made.store.reading("data", prepare(near, made.store, Progress(StringIO()))))
    assert words not in asked(after, "train") | asked(after, "validation")
    assert after.record.fixed["leakage_near"].dropped >= 1


def test_a_parent_that_is_judged_by_slices_has_a_child(tmp_path: Path) -> None:
    asks = {"evaluate": {"slices": ["intent", "source"]}, "gate": ["worst_slice(intent).accuracy >= 0.4"]}
    made = world(tmp_path, label="intent", job=asks)
    made.write(corrections(40))
    found, job = prepared(made, write_base(tmp_path / "base"))
    assert job.evaluate.slices == ["label", "source"]
    assert "old.worst_slice(label).accuracy >= 0.4" in job.gate
    assert {Path(row.extra["source"]).name for row in found.rows("old")} == {"test.jsonl"}, "the parent's own file"


def test_no_fix_drops_rows_of_the_frozen_tests(tmp_path: Path) -> None:
    fixes = ["class_rare", "label_suspect", "length_outlier", "language_mixed", "boilerplate"]
    fixes += ["duplicate_exact", "duplicate_near", "conflicting_answers", "target_missing"]
    long = " ".join(f"word{n}" for n in range(25))
    made = world(tmp_path, fix=fixes, tested=[{"text": long, "label": "bugs"}])
    near = [row for n, old in enumerate(old_rows(9, 200)) for row in correction(f"s{n}", old["text"] + " again",
                                                                                 "shipping", f"said{n}")]  # fmt: skip
    made.write([*corrections(60), *near])
    found, job = prepared(made, write_base(tmp_path / "base"))
    assert "target_missing" in job.data.audit.fix
    assert asked(found, "old") == {row["text"] for row in old_rows(9, 200)} | {long}, "every row, and no other"


def test_a_prompt_that_the_parent_was_tested_with_is_known_behind_its_mask(tmp_path: Path) -> None:
    asked_s = "reset the password of {} please"
    made = world(tmp_path, tested=[{"text": asked_s.format("anna.smith@example.com"), "label": "access"}])
    made.write([*corrections(40), *correction("masked", asked_s.format("[EMAIL]"), "shipping", "someone")])
    found = gathered(made.endpoint, made.settings)
    assert found.counts.left_out["leakage_exact"] == 1
    assert "someone" not in {row.unit for part in (found.parts.train, found.parts.test) for row in part}


@pytest.mark.parametrize(
    ("rule", "becomes"),
    [
        ("accuracy >= 0.7", ["old.accuracy >= 0.7"]),
        ("accuracy >= base + 0.1", ["old.accuracy >= base + 0.1"]),
        ("test.accuracy >= 0.7", ["old.accuracy >= 0.7"]),
        ("old.accuracy >= champion - 0.02", []),
        ("new.accuracy > champion", []),
        ("old.accuracy >= 0.7", ["old.accuracy >= 0.7"]),
        ("p95_latency_s <= 2", ["p95_latency_s <= 2"]),
        ("general.perplexity <= base", ["general.perplexity <= base"]),
        ("worst_slice(region).accuracy >= 0.6", ["old.worst_slice(region).accuracy >= 0.6"]),
        ("test.slice_gap( intent ).accuracy<=0.2", ["old.slice_gap(label).accuracy<=0.2"]),
        ("robustness_drop(typos).accuracy <= 0.1", ["old.robustness_drop(typos).accuracy <= 0.1"]),
        ("consistency >= 0.8", ["old.consistency >= 0.8"]),
        ("0.7 <= test.accuracy", ["0.7 <= old.accuracy"]),
        ("accuracy + 0.1 >= base", ["old.accuracy + 0.1 >= base"]),
        ("champion <= old.accuracy", []),
        ("test.accuracy >= old.accuracy - 0.1", []),
        ("general_drop(loss) <= 0.1", ["general_drop(loss) <= 0.1"]),
        ("memorised <= 0.05", ["memorised <= 0.05"]),
    ],
)
def test_a_parents_rules_hold_on_the_old_tests(rule: str, becomes: list[str]) -> None:
    assert carried([rule], ["test", "old", "new"], {"intent": "label"}) == becomes
