"""What `hone check` refuses, with which exit code, and that it shows what it found all the same."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from cluster.cli import main
from cluster.errors import DataError
from cluster.jobfile import load_job
from cluster.progress import Progress
from cluster.session import Settings
from tests.tiny import ticket_rows, write_base, write_jsonl
from trainers.prepare import ready
from trainers.templates import load_tokenizer

Shown = tuple[int, dict[str, Any], str]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def job(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HONE_HOME", str(tmp_path / "home"))
    write_jsonl(tmp_path / "train.jsonl", ticket_rows(60))
    path = tmp_path / "job.yaml"
    path.write_text(f"name: t\nbase: {base}\ndata: {{train: train.jsonl}}\ntrain: {{max_length: 100}}\n")
    return path


def checked(capsys: pytest.CaptureFixture[str], job: Path, *overrides: str) -> Shown:
    """Return the exit code, the JSON object printed and what was said on stderr."""
    arguments = [part for override in overrides for part in ("--set", override)]
    code = main(["check", str(job), "--json", *arguments])
    shown = capsys.readouterr()
    return code, json.loads(shown.out) if shown.out else {}, shown.err


def errors(report: dict[str, Any]) -> set[str]:
    return {finding["code"] for finding in report["findings"] if finding["severity"] == "error"}


def test_a_refused_plan_still_shows_findings_and_splits(job: Path, capsys: pytest.CaptureFixture[str]):
    code, report, said = checked(capsys, job, "cluster.workers=999")
    assert (code, report["plan"], report["ok"]) == (4, None, True)
    assert report["splits"]["train"]["rows"] > 0
    assert report["findings"]
    assert "999 workers asked" in said
    assert main(["check", str(job), "--set", "cluster.workers=999"]) == 4
    assert "but the run is refused" in capsys.readouterr().out


def test_training_rows_without_a_target_token_are_shown_before_the_error(job: Path, capsys: pytest.CaptureFixture[str]):
    code, report, said = checked(capsys, job, "train.max_length=8")
    assert (code, report["plan"], report["ok"]) == (2, None, False)
    assert errors(report) == {"target_truncated"}
    assert "no training row" in said
    page = job.with_suffix(".html")
    assert main(["check", str(job), "--set", "train.max_length=8", "--report", str(page)]) == 2
    shown = page.read_text(encoding="utf-8")
    assert "Nothing to train on" in shown
    assert "target_truncated" in shown
    assert "train.jsonl:1" in shown, "the finding's rows are shown"


def test_a_given_test_without_a_usable_row_is_refused_whatever_is_allowed(
    job: Path, capsys: pytest.CaptureFixture[str]
):
    write_jsonl(job.parent / "test.jsonl", [{"text": "Where is it?", "label": ""}])
    asked = [f"data.test={job.parent / 'test.jsonl'}", "data.audit.allow=['*']"]
    code, report, _ = checked(capsys, job, *asked)
    assert (code, report["ok"], errors(report)) == (2, False, {"target_missing"})


def test_a_special_token_written_in_a_row_is_found(job: Path, base: Path, capsys: pytest.CaptureFixture[str]):
    eos = load_tokenizer(str(base)).eos_token
    write_jsonl(job.parent / "train.jsonl", [*ticket_rows(60), {"text": f"It said {eos} and stopped", "label": "bug"}])
    _, report, _ = checked(capsys, job)
    (found,) = [finding for finding in report["findings"] if finding["code"] == "control_characters"]
    assert (found["severity"], found["count"]) == ("warning", 1)
    assert eos in found["detail"]
    assert found["rows"][0].endswith("train.jsonl:61")


@pytest.mark.parametrize(
    ("rule", "overrides", "said"),
    [
        ("accuracy >= 0.5", ["data.split.test=0"], "needs a test"),
        ("rouge_l >= 0.5", [], "does not compute 'rouge_l'"),
        ("old.accuracy >= 0.5", [], "'old' is no test"),
        ("accuracy >= base", ["evaluate.base=false"], "needs the base's scores"),
    ],
)
def test_a_gate_rule_that_can_never_be_decided_is_refused(
    job: Path, capsys: pytest.CaptureFixture[str], rule: str, overrides: list[str], said: str
):
    code, _, err = checked(capsys, job, f"gate=['{rule}']", *overrides)
    assert code == 2
    assert "error: gate: " in err
    assert said in err


def test_what_the_fixes_did_is_told(job: Path, capsys: pytest.CaptureFixture[str]):
    rows = ticket_rows(60)
    write_jsonl(job.parent / "train.jsonl", [*rows, rows[0], rows[1]])
    code, report, _ = checked(capsys, job, "data.audit.fix=[duplicate_exact]")
    assert (code, report["fixed"]["duplicate_exact"]["dropped"]) == (0, 2)
    main(["check", str(job), "--set", "data.audit.fix=[duplicate_exact]"])
    assert "fixed    duplicate_exact: 2 rows dropped" in capsys.readouterr().out


def test_a_column_that_a_source_of_the_mixture_does_not_have_is_refused(job: Path, capsys: pytest.CaptureFixture[str]):
    mix = "data.mix=[{name: more, train: train.jsonl, weight: 1, columns: {group: gruop}}]"
    code, _, said = checked(capsys, job, mix)
    assert code == 2
    assert "data.mix, source more: there is no column 'gruop'" in said


def test_a_run_names_the_emptied_test_before_the_gate_rule_that_lacks_it(job: Path):
    write_jsonl(job.parent / "test.jsonl", [{"text": "long " * 200, "label": row["label"]} for row in ticket_rows(5)])
    spec = load_job(job, ["data.test=test.jsonl", "gate=['accuracy >= 0.5']"])
    with pytest.raises(DataError, match="target_truncated in 5 rows"):
        ready(spec, Settings.from_env({}, job.parent), Progress(io.StringIO()))
