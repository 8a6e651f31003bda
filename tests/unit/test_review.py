"""Answers go to people and come back: what raters see, what is refused, how far they agree, and which rows follow."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import cohen_kappa_score

from cluster.cli import main
from cluster.errors import DataError, UsageError
from cluster.registry import Registry
from cluster.run_context import RunContext
from tests.finished_runs import RUN, finished_run
from trainers.agreement import agreement, krippendorff_alpha
from trainers.review import export_review, import_review
from trainers.review_files import guarded, read_rated
from trainers.sources import read_rows
from trainers.splits import EvaluationExample

FILES = {
    "train": [{"prompt": f"Greet {n}", "completion": f"Hello {n}"} for n in range(10)],
    "test": [{"prompt": f"=Greet guest {n}", "completion": f"Hello guest {n}"} for n in range(30)],
}
# Krippendorff 2011, section C: four observers, twelve units, gaps.
OBSERVERS = {
    "A": [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    "B": [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    "C": [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    "D": [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
}


def answer(role: str, example: EvaluationExample) -> str:
    return f"{role} says hello"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunContext:
    monkeypatch.setattr(Registry, "log_metrics", lambda self, run, metrics: None)
    monkeypatch.setenv("HONE_HOME", str(tmp_path / "home"))
    return finished_run(tmp_path, FILES, answer)


def rate(path: Path, out: Path, said: dict[int, tuple[str, str]], rater: str = "") -> Path:
    """Copy an exported CSV with ratings and corrections of some rows."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        for place, row in enumerate(rows):
            rating, correction = said.get(place, ("", ""))
            writer.writerow(row | {"rating": rating, "correction": correction, "rater": rater})
    return out


def exported(run: RunContext, path: Path, count: int = 6) -> list[dict[str, Any]]:
    export_review(RUN, path, run.settings, count=count, test=None, seed=0)
    if path.suffix == ".json":
        return json.loads(path.read_text())
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_raters_see_the_tuned_answers_of_a_seeded_sample_and_no_scores(run: RunContext, tmp_path: Path):
    rows = exported(run, tmp_path / "a.csv")
    assert len({row["item"] for row in rows}) == 6
    assert {row["answer"] for row in rows} == {"tuned says hello"}
    assert all(row["rating"] == "" for row in rows)
    assert rows == exported(run, tmp_path / "b.csv")
    with pytest.raises(UsageError, match="exists already"):
        exported(run, tmp_path / "b.csv")


def test_no_cell_is_a_formula_and_corrections_come_back_as_they_were(run: RunContext, tmp_path: Path):
    rows = exported(run, tmp_path / "a.csv")
    assert all(row["prompt"].startswith("'=Greet") for row in rows)
    path = rate(tmp_path / "a.csv", tmp_path / "rated.csv", {0: ("1", guarded("=SUM(1)")), 1: ("5", "")})
    assert [one.correction for one in read_rated(path)] == ["=SUM(1)", ""]


def test_ratings_come_back_as_metrics_and_rows_ready_for_a_job(run: RunContext, tmp_path: Path):
    exported(run, tmp_path / "a.csv")
    one = rate(tmp_path / "a.csv", tmp_path / "one.csv", {0: ("5", ""), 1: ("1", "Hello!"), 2: ("2", ""), 3: ("4", "")})
    two = rate(tmp_path / "a.csv", tmp_path / "two.csv", {0: ("4", ""), 1: ("2", "Hello!"), 3: ("5", "Hi")}, "anna")
    report = import_review([one, two], tmp_path / "rows.jsonl", run.settings, accept=4.0)
    assert (report.items, report.raters, report.ratings) == (4, 2, 7)
    assert report.mean_rating.value == pytest.approx((4.5 + 1.5 + 2 + 4.5) / 4)
    assert report.rating == pytest.approx((report.mean_rating.value - 1) / 4)
    assert report.agreement.items == 3
    assert (report.corrections, report.rows) == (3, 3)
    assert run.store.get_json("runs", RUN, "review.json")["items"] == 4
    rows = list(read_rows([str(tmp_path / "rows.jsonl")], run.job.data))
    assert [(row.completion, row.extra["review"]) for row in rows] == [
        ("tuned says hello", "accepted"),
        ("Hello!", "corrected"),
        ("Hi", "corrected"),
    ]
    assert all(row.prompt[0]["content"].startswith("=Greet") for row in rows), "inputs are the test's own"


def test_label_studio_gets_tasks_and_gives_annotations_back(run: RunContext, tmp_path: Path):
    tasks = exported(run, tmp_path / "a.json", 3)
    assert 'toName="answer"' in (tmp_path / "a.xml").read_text()
    assert tasks[0]["data"].keys() == {"item", "prompt", "expected", "answer"}

    def said(rater: int, rating: int, text: str = "") -> dict[str, Any]:
        result = [{"from_name": "rating", "type": "rating", "value": {"rating": rating}}]
        result += [{"from_name": "correction", "type": "textarea", "value": {"text": [text]}}] if text else []
        return {"completed_by": rater, "result": result}

    tasks[0]["annotations"] = [said(1, 5), said(2, 4)]
    tasks[1]["annotations"] = [said(1, 2, "Better"), said(2, 1) | {"was_cancelled": True}]
    tasks[2]["annotations"] = []
    (tmp_path / "done.json").write_text(json.dumps(tasks))
    report = import_review([tmp_path / "done.json"], tmp_path / "rows.jsonl", run.settings, accept=4.0)
    assert (report.items, report.raters, report.ratings, report.rows) == (2, 2, 3, 2)


@pytest.mark.parametrize("rating", [[{"rating": 4}], {"rating": 4}, {"choices": ["4"]}, "4", 4])
@pytest.mark.parametrize("correction", ["Better", ["Better"], {"text": ["Better"]}, [{"text": ["Better", "Good"]}]])
def test_label_studios_small_export_wraps_what_was_said_in_its_own_way(tmp_path: Path, rating: Any, correction: Any):
    # A rating is a list of its results' values; of one choice or one text the bare string is left, of several a dict.
    task = {"id": 1, "item": "a", "annotator": 7, "annotation_id": 3, "lead_time": 2.5}
    tasks = [task | {"rating": rating, "correction": correction}, task | {"rating": rating}, task]
    (tmp_path / "min.json").write_text(json.dumps(tasks))
    found = [(one.item, one.rater, one.rating, one.correction) for one in read_rated(tmp_path / "min.json")]
    assert found == [("a", "7", 4.0, "Better"), ("a", "7", 4.0, "")]


def test_a_task_that_was_rated_twice_by_one_rater_is_refused(tmp_path: Path):
    (tmp_path / "min.json").write_text(json.dumps([{"item": "a", "rating": [{"rating": 4}, {"rating": 2}]}]))
    with pytest.raises(DataError, match="the rating is"):
        read_rated(tmp_path / "min.json")


@pytest.mark.parametrize("rating", ["6", "0", "good", "nan"])
def test_a_rating_off_the_scale_names_its_line(run: RunContext, tmp_path: Path, rating: str):
    exported(run, tmp_path / "a.csv")
    path = rate(tmp_path / "a.csv", tmp_path / "rated.csv", {0: ("3", ""), 1: (rating, "")})
    with pytest.raises(DataError) as refusal:
        import_review([path], tmp_path / "rows.jsonl", run.settings, accept=4.0)
    assert refusal.value.where == f"{path}:3"
    assert "from 1 (bad) to 5" in str(refusal.value)


def test_what_is_no_item_or_not_rated_is_refused(run: RunContext, tmp_path: Path):
    exported(run, tmp_path / "a.csv")
    with pytest.raises(UsageError, match="nothing is rated"):
        import_review([tmp_path / "a.csv"], tmp_path / "rows.jsonl", run.settings, accept=4.0)
    for item in (f"{RUN}:test:999", f"{RUN}:gone:1", "x"):
        (tmp_path / "odd.csv").write_text(f"item,rating\n{item},3\n")
        with pytest.raises(DataError, match="is no item"):
            import_review([tmp_path / "odd.csv"], tmp_path / "rows.jsonl", run.settings, accept=4.0)
    (tmp_path / "odd.csv").write_text("item,score\na,3\n")
    with pytest.raises(DataError, match="no column 'rating'"):
        read_rated(tmp_path / "odd.csv")


def test_alpha_is_krippendorffs_own_example():
    ratings = {
        str(unit): {name: float(row[unit]) for name, row in OBSERVERS.items() if row[unit] is not None}
        for unit in range(12)
    }
    assert krippendorff_alpha(ratings) == pytest.approx(0.849, abs=5e-4)


def test_kappa_is_that_of_two_raters_over_what_both_rated():
    a, b = [1, 2, 3, 4, 5, 5], [1, 3, 3, 4, 4, 5]
    ratings = {str(n): {"a": float(x), "b": float(y)} for n, (x, y) in enumerate(zip(a, b, strict=True))}
    found = agreement(ratings | {"alone": {"a": 1.0}})
    assert found.items == 6
    assert found.cohen_kappa == pytest.approx(cohen_kappa_score(a, b, labels=[1, 2, 3, 4, 5], weights="quadratic"))
    assert agreement({"1": {"a": 3.0, "b": 3.0}}).krippendorff_alpha is None, "nothing varies"
    assert agreement({"1": {"a": 3.0}}) == agreement({})


def test_the_command_exports_and_imports(run: RunContext, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "a.csv"
    assert main(["review", "export", RUN, "--out", str(out), "--count", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["items"] == 4
    rated = rate(out, tmp_path / "rated.csv", {0: ("5", ""), 1: ("3", "")})
    assert main(["review", "import", str(rated)]) == 0
    assert "4.00 of 5" in capsys.readouterr().out
    assert (tmp_path / "rated.rows.jsonl").exists()
    assert main(["review", "export", RUN, "--out", str(tmp_path / "a.txt")]) == 2
