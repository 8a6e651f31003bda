"""Which texts of a job are local paths: those become absolute, hub ids and URLs stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cluster.job_paths import with_absolute_paths
from cluster.spec import JobSpec


def resolved(directory: Path, **blocks: Any) -> JobSpec:
    settings: dict[str, Any] = {"name": "a", "base": "org/model", "data": "org/rows", **blocks}
    return with_absolute_paths(JobSpec.model_validate(settings), directory)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("models/small", "rows", "gpt2-local"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "chat").write_text("x")
    return tmp_path


@pytest.mark.parametrize("base", ["org/model", "gpt2", "org/model.v1", "s3://bucket/model", "hf://org/x"])
def test_a_base_that_is_no_local_path_stays(place: Path, base: str):
    assert resolved(place, base=base).base == base


@pytest.mark.parametrize(
    ("base", "absolute"),
    [
        ("models/small", "models/small"),
        ("gpt2-local", "gpt2-local"),
        ("./missing", "missing"),
        (".", ""),
        ("../beside", "../beside"),
        ("a/b/c", "a/b/c"),
        ("models//small/", "models/small"),
    ],
)
def test_a_local_base_becomes_absolute(place: Path, base: str, absolute: str):
    expected = place.parent / "beside" if absolute.startswith("..") else place / absolute
    assert resolved(place, base=base).base == str(expected)


def test_an_absolute_base_stays_even_if_it_is_missing(place: Path):
    assert resolved(place, base="/no/such/model").base == "/no/such/model"


def test_a_home_directory_is_filled_in(place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/someone")
    spec = resolved(place, base="~/models/x", data="~/rows.jsonl")
    assert (spec.base, spec.data.train) == ("/home/someone/models/x", ["/home/someone/rows.jsonl"])


@given(text=st.text(min_size=1) | st.from_regex(r"~?[./a-z0]{1,9}", fullmatch=True))
@example("~no-such-user/rows.jsonl")
@example("a\0b")
@example("x" * 5000)
def test_any_text_stays_or_becomes_absolute(text: str):
    spec = resolved(Path("/jobs"), base=text, data={"train": text, "template": text})
    for found in (spec.base, *spec.data.train, spec.data.template or ""):
        assert found == text or Path(found).is_absolute()


@pytest.mark.parametrize(
    "source",
    [
        "org/rows",
        "squad",
        "org/rows:subset",
        "org/rows@v1.2:en/train",
        "https://h/x.jsonl",
        "s3://b/*.parquet",
        "zip://a.csv::s3://b/c",
    ],
)
def test_a_source_that_is_no_local_path_stays(place: Path, source: str):
    assert resolved(place, data=source).data.train == [source]


@pytest.mark.parametrize(
    "source",
    ["missing.jsonl", "x.CSV", "rows", "rows/part", "a/*.txt", "shards/x?.bin", "./squad", "a/b/c", "my rows.v2/x y"],
)
def test_a_local_source_becomes_absolute(place: Path, source: str):
    (place / "rows" / "part").touch()
    assert resolved(place, data=source).data.train == [str(place / source)]


def test_every_place_that_names_files_is_resolved(place: Path):
    data = {
        "train": ["a.jsonl", "org/rows"],
        "validation": "v.csv",
        "test": {"old": "o.csv", "new": ["n.csv", "m.csv"]},
        "mix": [{"name": "g", "train": "g.parquet", "weight": 1}],
    }
    found = resolved(place, data=data).data
    assert found.train == [f"{place}/a.jsonl", "org/rows"]
    assert found.validation == [f"{place}/v.csv"]
    assert found.test == {"old": [f"{place}/o.csv"], "new": [f"{place}/n.csv", f"{place}/m.csv"]}
    assert found.mix is not None
    assert found.mix[0].train == [f"{place}/g.parquet"]


@pytest.mark.parametrize(
    ("template", "kept"),
    [
        ("chat", False),
        ("t/chat.jinja", False),
        ("./x", False),
        ("{{ messages }}", True),
        ("a\nb", True),
        ("plain", True),
    ],
)
def test_a_template_is_a_file_or_text(place: Path, template: str, kept: bool):
    found = resolved(place, data={"train": "a.csv", "template": template}).data.template
    assert found == (template if kept else str(place / template))


def test_bases_of_a_sweep_are_resolved_one_by_one(place: Path):
    spec = resolved(place, sweep={"space": {"base": "choice(./x, org/model, models/small)"}})
    assert spec.sweep is not None
    assert spec.sweep.space["base"] == [f"{place}/x", "org/model", f"{place}/models/small"]


@pytest.mark.parametrize(
    ("release", "local"), [("./runs/x", "{}/runs/x"), ("base:./m", "base:{}/m"), ("base:org/m", None), ("m@3", None)]
)
def test_a_release_directory_is_resolved(place: Path, release: str, local: str | None):
    spec = resolved(place, serve={"endpoint": "e", "arms": {"a": {"release": release, "weight": 1}}})
    assert spec.serve is not None
    assert spec.serve.arms["a"].release == (local.format(place) if local else release)


def test_resolving_twice_changes_nothing(place: Path):
    once = resolved(place, base="models/small", data={"train": "a.jsonl", "template": "chat"})
    assert with_absolute_paths(once, Path("/elsewhere")) == once


def test_resolving_does_not_make_a_length_asked_for(place: Path):
    assert not resolved(place).train.max_length_given
