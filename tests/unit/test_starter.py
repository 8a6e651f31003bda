"""The starter job file loads as it stands, and what it shows as a default is the default."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.errors import UsageError
from cluster.jobfile import load_job
from cluster.spec import JobSpec
from cluster.starter import starter_job

DEFAULTS = JobSpec.model_validate({"name": "my-model", "base": "org/model", "data": "org/rows"})


def loaded(text: str, directory: Path) -> JobSpec:
    path = directory / "job.yaml"
    path.write_text(text, encoding="utf-8")
    return load_job(path)


def uncommented(text: str) -> str:
    """Turn every commented key and list item of the starter into a live one; sentences stay comments."""
    return re.sub(r"(?m)^(\s*)# (\s*(?:[a-z_.]+:(?: .*)?|- .*))$", r"\1\2", text)


def without_data_block(text: str) -> str:
    return re.sub(r"(?ms)^# Instead of the one line.*?(?=^train:)", "", text)


def test_the_starter_loads_with_nothing_but_defaults(tmp_path: Path):
    assert loaded(starter_job("my-model", "org/model", "org/rows"), tmp_path) == DEFAULTS


def test_every_commented_key_shows_its_default(tmp_path: Path):
    text = uncommented(without_data_block(starter_job("my-model", "org/model", "org/rows")))
    spec = loaded(text, tmp_path)
    assert spec.train == DEFAULTS.train
    assert spec.cluster == DEFAULTS.cluster
    assert spec.evaluate.model_copy(update={"batch_size": 16}) == DEFAULTS.evaluate
    assert spec.gate == ["accuracy >= 0.70", "accuracy >= base + 0.10"]
    assert spec.sweep is not None
    assert set(spec.sweep.dimensions()) == {"train.learning_rate", "train.batch_size"}


def test_the_commented_data_block_loads_in_place_of_the_line(tmp_path: Path):
    text = starter_job("my-model", "org/model", "org/rows").replace("\ndata: org/rows ", "\n# one line ")
    spec = loaded(uncommented(text), tmp_path)
    assert spec.data.train == ["org/rows"]
    assert set(spec.data.test) == {"old", "new"}
    assert spec.data.split == DEFAULTS.data.split


def test_every_key_of_training_is_within_sight():
    text = starter_job("my-model", "org/model", "org/rows")
    for key in type(DEFAULTS.train).model_fields:
        assert re.search(rf"(?m)^  (# )?{key}:", text), key


def test_lines_are_short_enough_to_read():
    assert max(map(len, starter_job("my-model", "./models/base", "data.jsonl").splitlines())) <= 120


PRINTABLE = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1) | st.sampled_from(
    ["null", "1e-4", "a: b", "# x", "{a}", "'", '"', "- a", "s3://b/x.csv", "off", "my data.csv", "*.csv", "~"]
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(base=PRINTABLE, data=PRINTABLE)
def test_any_base_and_data_load_as_they_were_given(tmp_path: Path, base: str, data: str):
    spec = loaded(starter_job("m", "hub:" + base, "https://h/" + data), tmp_path)
    assert spec.data.train == ["https://h/" + data]
    loaded(starter_job("m", base, data), tmp_path)


@pytest.mark.parametrize(
    ("name", "base", "data"),
    [("My Model", "b", "d"), ("", "b", "d"), ("../x", "b", "d"), ("a", "", "d"), ("a", "b", ""), ("a", "b\nc", "d")],
)
def test_what_could_not_load_is_refused(name: str, base: str, data: str):
    with pytest.raises(UsageError):
        starter_job(name, base, data)
