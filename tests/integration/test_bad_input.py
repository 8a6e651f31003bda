"""What is bad is refused in a few lines, with the right exit code, before Ray starts and before a run exists."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.cli import main
from tests.tiny import ticket_rows, write_jsonl

GOOD = "name: tickets\nbase: {base}\ndata: {data}\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HONE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def refused(job: Path, home: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    import ray

    was_up = ray.is_initialized()
    code = main(["train", str(job), *arguments])
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Traceback" not in shown.err
    said = shown.err[shown.err.index("error:") :]
    assert len(said.splitlines()) <= 6
    assert not (home / "runs").exists(), "nothing of a refused run is left"
    assert ray.is_initialized() == was_up
    return code, said


def write_job(tmp_path: Path, base: Path | str, data: Path | str, more: str = "") -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(GOOD.format(base=base, data=data) + more)
    return path


@pytest.mark.parametrize(
    ("more", "seen"),
    [
        ("train: {epoch: 2}\n", "epochs"),
        ("train: {epochs: many}\n", "job.yaml:4"),
        ("train: {learning_rate: -1.0}\n", "-1"),
        ("train: {batch_size: 0}\n", "batch_size"),
        ('gate: ["acuracy >= 0.5"]\n', "accuracy"),
        ("evaluate: {metrics: [rouge_9]}\n", "rouge"),
        ("train: {method: full, lora: {rank: 4}}\n", "lora"),
    ],
)
def test_a_wrong_job_is_refused_with_its_place_or_what_was_meant(
    tmp_path: Path, home: Path, tiny_base: Path, tickets: Path, capsys: pytest.CaptureFixture[str], more: str, seen: str
) -> None:
    code, said = refused(write_job(tmp_path, tiny_base, tickets, more), home, capsys)
    assert code == 2
    assert seen in said


@pytest.mark.parametrize("name", ["../escape", "UPPER", "a/b", ".hidden"])
def test_a_name_that_leads_out_of_the_store_is_refused(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(f"name: {name}\nbase: ./b\ndata: d.jsonl\n")
    assert refused(job, home, capsys)[0] == 2


def test_data_that_cannot_be_read_is_refused_with_file_and_line(
    tmp_path: Path, home: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "rows.jsonl"
    job = write_job(tmp_path, tiny_base, data)
    code, said = refused(job, home, capsys)
    assert code == 2
    assert "rows.jsonl" in said
    data.write_text("")
    assert refused(job, home, capsys)[0] == 2
    lines = [json.dumps(row) for row in ticket_rows(40)]
    data.write_text("\n".join([*lines[:20], '{"text": "broken', *lines[20:]]))
    code, said = refused(job, home, capsys)
    assert code == 2
    assert "rows.jsonl:21" in said


def test_rows_without_any_target_are_refused(
    tmp_path: Path, home: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": row["text"], "completion": ""} for row in ticket_rows(30)]
    job = write_job(tmp_path, tiny_base, write_jsonl(tmp_path / "rows.jsonl", rows))
    code, said = refused(job, home, capsys)
    assert code == 2
    assert "target_missing" in said


def test_targets_that_are_all_truncated_away_are_refused_with_the_length(
    tmp_path: Path, home: Path, tiny_base: Path, tickets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = refused(write_job(tmp_path, tiny_base, tickets, "train: {max_length: 8}\n"), home, capsys)
    assert code == 2
    assert "max_length" in said


def test_a_base_that_is_missing_or_pickled_is_refused(
    tmp_path: Path, home: Path, tickets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = refused(write_job(tmp_path, "./nowhere", tickets), home, capsys)
    assert code == 2
    assert "nowhere" in said
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text("{}")
    (pickled / "pytorch_model.bin").write_bytes(b"x")
    code, said = refused(write_job(tmp_path, pickled, tickets), home, capsys)
    assert code == 2
    assert "pickle" in said


def test_more_workers_than_there_are_is_refused_with_numbers(
    tmp_path: Path, home: Path, tiny_base: Path, tickets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write_job(tmp_path, tiny_base, tickets, "train: {batch_size: 512}\n")
    code, said = refused(job, home, capsys, "--set", "cluster.workers=500")
    assert code == 4
    assert "500" in said


def test_qlora_is_refused_where_there_is_no_gpu(
    tmp_path: Path, home: Path, tiny_base: Path, tickets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("no GPU-less machine: this one could run qlora")
    code, said = refused(write_job(tmp_path, tiny_base, tickets, "train: {method: qlora}\n"), home, capsys)
    assert code in (2, 4)
    assert "GPU" in said
