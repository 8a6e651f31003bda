"""A prepared set is found again only where nothing that the findings name has changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.cli import main
from tests.tiny import ticket_rows, write_base

BROKEN = {"messages": [{"role": "narrator", "content": "x"}]}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def directory(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HONE_HOME", str(tmp_path / "home"))
    (tmp_path / "job.yaml").write_text(f"name: t\nbase: {base}\ndata: train.jsonl\ntrain: {{max_length: 100}}\n")
    return tmp_path


def lines(*records: dict[str, Any]) -> list[str]:
    return [json.dumps(record) for record in records]


def findings(directory: Path, text: list[str], capsys: pytest.CaptureFixture[str], *overrides: str) -> dict[str, Any]:
    """Return code → finding of a check of these lines, and say whether the set was there."""
    (directory / "train.jsonl").write_text("\n".join(text) + "\n")
    arguments = [part for override in overrides for part in ("--set", override)]
    main(["check", str(directory / "job.yaml"), "--json", *arguments])
    shown = capsys.readouterr()
    found = {finding["code"]: finding for finding in json.loads(shown.out)["findings"]}
    return found | {"again": "prepared before" in shown.err}


def places(finding: dict[str, Any]) -> list[int]:
    return [int(where.rpartition(":")[2]) for where in finding["rows"]]


def test_rows_that_moved_are_found_at_their_new_places(directory: Path, capsys: pytest.CaptureFixture[str]):
    rows = lines(*ticket_rows(60))
    rows[4] = rows[9]
    assert places(findings(directory, rows, capsys)["duplicate_exact"]) == [10]
    assert findings(directory, rows, capsys)["again"]
    assert places(findings(directory, ["", "", *rows], capsys)["duplicate_exact"]) == [12]


def test_another_row_that_cannot_be_read_is_another_finding(directory: Path, capsys: pytest.CaptureFixture[str]):
    rows, (broken,) = lines(*ticket_rows(60)), lines(BROKEN)
    assert places(findings(directory, [*rows[:7], broken, *rows[7:], ""], capsys)["roles_broken"]) == [8]
    unread = json.dumps({"messages": [{"role": "ghost", "content": "x"}]})
    second = findings(directory, [*rows[:7], unread, *rows[7:], ""], capsys)
    assert "ghost" in second["roles_broken"]["detail"]
    assert not second["again"]
    assert places(findings(directory, [*rows[:9], broken, *rows[9:], ""], capsys)["roles_broken"]) == [10]


def test_a_row_that_the_template_cannot_render_hides_no_other_finding(
    directory: Path, capsys: pytest.CaptureFixture[str]
):
    rows = ticket_rows(60)
    calls = [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "", "tool_calls": calls}]
    text = [*lines(*rows), *lines(rows[0], {"messages": turns})]
    template = "data.template='{% for m in messages %}{{ m.content }}{% endfor %}'"
    found = findings(directory, text, capsys, template)
    assert places(found["roles_broken"]) == [62]
    assert "leaves out an answer's tool_calls" in found["roles_broken"]["detail"]
    assert places(found["duplicate_exact"]) == [61]
    assert "roles_broken" not in findings(directory, text, capsys, template, "data.audit.fix=[roles_broken]")
