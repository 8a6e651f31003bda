"""A child's job passes the data stage like any job: audited, its tests frozen, nothing close to them trained on."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest

from cluster.progress import Progress
from serving.child_job import carried, child_job
from serving.material import write_material
from serving.retrain import gathered
from tests.parents import World, correction, corrections, old_rows, world
from tests.tiny import write_base
from trainers.prepare import prepare
from trainers.prepared import Prepared


def prepared(made: World, base: Path) -> Prepared:
    found = gathered(made.endpoint, made.settings)
    key = write_material(found.parent, found.parts, found.known, found.heard, made.store).key
    job = child_job(found.parent, found.endpoint.retrain, "support", key, made.store, [f"base={base}"])
    return Prepared(made.store.reading("data", prepare(job, made.store, Progress(StringIO()))))


def asked(found: Prepared, split: str) -> set[str]:
    return {row.prompt[-1]["content"] for row in found.rows(split)}


def test_the_data_stage_takes_it_with_new_classes_and_frozen_tests(tmp_path: Path) -> None:
    made = world(tmp_path)
    near = f"{old_rows(1, 200)[0]['text']} again"
    made.write([*corrections(40), *correction("near", near, "shipping", "someone")])
    found = prepared(made, write_base(tmp_path / "base"))
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
    ],
)
def test_a_parents_rules_hold_on_the_old_tests(rule: str, becomes: list[str]) -> None:
    assert carried([rule], ["test", "old", "new"], ["accuracy", "loss"]) == becomes
