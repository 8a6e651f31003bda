"""Overrides of a job file: what they reach, and that their mistakes are told as theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.errors import JobFileError
from cluster.jobfile import load_job

HEAD = "name: router\nbase: org/model\ndata: rows.jsonl\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(text: str, *overrides: str) -> Any:
    path = Path("job.yaml")
    path.write_text(text, encoding="utf-8")
    return load_job(path, overrides)


def refused(text: str, *overrides: str) -> JobFileError:
    with pytest.raises(JobFileError) as caught:
        load(text, *overrides)
    assert caught.value.remedy
    return caught.value


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("train.epochs=2", "train.epochs", 2.0),
        ("train.eval_every=0.5", "train.eval_every", 0.5),
        ("train.eval_every=10", "train.eval_every", 10),
        ("train.lora.targets=[q_proj, v_proj]", "train.lora.targets", ["q_proj", "v_proj"]),
        ("train.early_stopping=null", "train.early_stopping", None),
        ("train.early_stopping.patience=7", "train.early_stopping.patience", 7),
        ("evaluate={few_shot: 3}", "evaluate.few_shot", 3),
        ("name=other", "name", "other"),
        ("base = org/other", "base", "org/other"),
        ("data=org/rows", "data.train", ["org/rows"]),
        ("data.split.test=0.2", "data.split.test", 0.2),
        ("data.test=org/rows", "data.test", {"test": ["org/rows"]}),
        ("gate=['a > b', 'c > 0.5']", "gate", ["a > b", "c > 0.5"]),
        ("cluster.workers={min: 1, max: 2}", "cluster.workers.max", 2),
        ("data.template='a=b\n'", "data.template", "a=b "),
        ("sweep.space.train.epochs=int(1, 3)", "sweep.space", {"train.epochs": "int(1, 3)"}),
    ],
)
def test_an_override_sets_its_key(override: str, key: str, value: Any):
    found: Any = load(HEAD, override)
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value
    assert type(found) is type(value)


def test_an_override_keeps_its_neighbours_and_the_last_one_wins(here: Path):
    spec = load(f"{HEAD}train: {{epochs: 5, seed: 4}}\ngate: [a > 1, b > 2]\n", "train.epochs=1", "train.epochs=2")
    assert (spec.train.epochs, spec.train.seed, spec.data.train) == (2.0, 4, [str(here / "rows.jsonl")])
    assert load(f"{HEAD}gate: [a > 1, b > 2]\n", "gate.1=c > 3").gate == ["a > 1", "c > 3"]


def test_an_override_reaches_into_an_empty_block(here: Path):
    assert load(f"{HEAD}train:\n", "train.epochs=2").train.epochs == 2


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("override", "word"),
    [
        ("train.epochs=-1", "train.epochs is -1"),
        ("train.epoch=1", "did you mean epochs?"),
        ("trian.epochs=1", "did you mean train?"),
        ("train", "no override"),
        ("=1", "no override"),
        ("train..epochs=1", "no override"),
        ("train.epochs=", "the value is empty"),
        ("train.lora={rank: 0}", "train.lora.rank is 0"),
        ("train.lora={rank: 1, rank: 2}", "rank is given twice"),
        ("train=[1,", "no valid YAML"),
        ("name.x=1", 'name is "router" (at job.yaml:1), not a block'),
        ("gate.0=a > b", "gate is"),
        ("train.zero_stage=9", "at most 3"),
        ("train.seed=\udcff", "not allowed"),
        ("sweep.space.train.epoch=int(1, 3)", "did you mean train.epochs?"),
        ("cluster.max_cost=5", "max_cost needs a price"),
    ],
)
def test_a_mistake_in_an_override_names_the_override(override: str, word: str):
    error = refused(HEAD, override)
    assert error.where == f"--set {override}"
    assert word in str(error)


def test_an_override_past_the_end_of_a_list_is_refused(here: Path):
    assert "the list has 1 items" in str(refused(f"{HEAD}gate: [a > 1]\n", "gate.1=b > 2"))
    assert "the list has 1 items" in str(refused(f"{HEAD}gate: [a > 1]\n", "gate.x=b > 2"))


def test_a_rule_broken_by_an_override_points_at_the_key_to_change(here: Path):
    error = refused(f"{HEAD}train:\n  lora: {{rank: 4}}\n", "train.method=full")
    assert error.where == "job.yaml:5"
    error = refused(f"{HEAD}train:\n  method: full\n", "train.lora.rank=4")
    assert error.where == "--set train.lora.rank=4"


def test_a_corrected_value_is_not_blamed_for_the_files_mistake(here: Path):
    assert load(f"{HEAD}train: {{epochs: wrong}}\n", "train.epochs=1").train.epochs == 1
