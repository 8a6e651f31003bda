from __future__ import annotations

import io
import uuid
from pathlib import Path

import pytest

from cluster.jobfile import dump_job, load_job, parse_job, stored_job
from cluster.manifest import content_hash
from cluster.places import is_remote, local_directory
from cluster.progress import Progress
from cluster.store import Store
from cluster.uploads import hash_of_base, with_stored_base, with_stored_inputs

JOB = """\
name: tickets
base: ./base
data:
  train: ["./a.jsonl", "part-*.jsonl", "hub/set"]
  test: {plain: ./test.jsonl}
  template: ./chat.jinja
evaluate: {general: general.jsonl}
sweep: {space: {base: ["./base", "./other", "org/model"], train.epochs: [1, 2]}}
"""


@pytest.fixture(autouse=True)
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "node"))
    return tmp_path / "node"


@pytest.fixture
def store() -> Store:
    return Store(f"memory://{uuid.uuid4().hex}/home")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    for name in ("base", "other"):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(f'{{"name": "{name}"}}')
        (folder / name / ".cache").mkdir()
        (folder / name / ".cache" / "notes").write_text("of a download tool")
    for name in ("a", "part-1", "part-2", "test", "general"):
        (folder / f"{name}.jsonl").write_text(f'{{"text": "{name}"}}\n')
    (folder / "chat.jinja").write_text("{{ messages }}")
    (folder / "job.yaml").write_text(JOB)
    return folder


def progress() -> Progress:
    return Progress(io.StringIO())


def test_a_base_goes_under_its_content_hash_and_reads_back_as_it_was(folder: Path, store: Store) -> None:
    job = with_stored_base(load_job(folder / "job.yaml"), store, progress())
    assert job.base == store.path("bases", content_hash(folder / "base"))
    assert hash_of_base(job.base) == content_hash(folder / "base") == content_hash(Path(local_directory(job.base)))
    assert not (Path(local_directory(job.base)) / ".cache").exists()
    assert job.sweep is not None
    assert job.sweep.space["base"] == [job.base, store.path("bases", content_hash(folder / "other")), "org/model"]
    assert job.data.template == "{{ messages }}"
    assert job.data.train[0] == str(folder / "a.jsonl"), "the rows are read here, by the data stage"
    assert job.evaluate.general is not None
    place = store.path("inputs", content_hash(folder / "general.jsonl"))
    assert job.evaluate.general.data == [f"{place}/general.jsonl"], "those are read by the evaluation, wherever it runs"


def test_data_files_go_each_under_its_hash_and_keep_their_names(folder: Path, store: Store) -> None:
    job = with_stored_inputs(load_job(folder / "job.yaml"), store, progress())
    names = ("a", "part-1", "part-2")
    assert job.data.train == [
        *(f"{store.path('inputs', content_hash(folder / f'{name}.jsonl'))}/{name}.jsonl" for name in names),
        "hub/set",
    ]
    (test,) = job.data.test["plain"]
    place, _, name = test.rpartition("/")
    assert Path(local_directory(place), name).read_text() == '{"text": "test"}\n'


def test_nothing_is_sent_twice_and_the_job_reads_back_from_the_store(folder: Path, store: Store) -> None:
    job = with_stored_inputs(load_job(folder / "job.yaml"), store, progress())
    told = io.StringIO()
    assert with_stored_inputs(load_job(folder / "job.yaml"), store, Progress(told)) == job
    assert with_stored_inputs(job, store, Progress(told)) == job
    assert told.getvalue() == ""
    store.put_text(dump_job(job), "runs", "r", "job.yaml")
    assert stored_job(store, "runs", "r", "job.yaml") == job
    assert parse_job(dump_job(job), "job.yaml", Path("/elsewhere"), ["train.epochs=7"]).train.epochs == 7


def test_with_a_local_home_nothing_moves(folder: Path, tmp_path: Path) -> None:
    job = load_job(folder / "job.yaml")
    home = Store(str(tmp_path / "home"))
    assert with_stored_inputs(job, home, progress()) == job
    assert home.list() == []
    assert hash_of_base(job.base) == content_hash(folder / "base")


def test_a_base_that_is_no_model_stays_for_whoever_refuses_it(folder: Path, store: Store) -> None:
    (folder / "base" / "config.json").unlink()
    job = with_stored_base(load_job(folder / "job.yaml"), store, progress())
    assert job.base == str(folder / "base")


def test_a_hub_id_has_no_hash_and_is_its_own_place() -> None:
    assert hash_of_base("org/model") == ""
    assert local_directory("org/model") == "org/model"
    assert not is_remote("org/model")


def test_a_place_is_brought_again_where_the_cache_was_emptied(folder: Path, store: Store, node: Path) -> None:
    import shutil

    place = with_stored_base(load_job(folder / "job.yaml"), store, progress()).base
    first = local_directory(place)
    shutil.rmtree(node)
    assert (Path(local_directory(place)) / "config.json").is_file()
    assert local_directory(place) == first
