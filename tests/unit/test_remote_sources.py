"""Data behind URLs and on the hub becomes rows, or an error in good time, without showing secrets."""

from __future__ import annotations

import functools
import http.server
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.errors import DataError
from cluster.spec import DataSpec
from trainers import sources
from trainers.addresses import redacted, shown_name
from trainers.sources import Row, is_hub_id, read_rows

RECORDS = [{"prompt": f"q {i}", "completion": f"a {i}"} for i in range(3)]
EXPECTED = [("q 0", "a 0"), ("q 1", "a 1"), ("q 2", "a 2")]


def rows_of(path: str) -> list[Row]:
    return list(read_rows([path], DataSpec(train=["unused"])))


def pairs(rows: list[Row]) -> list[tuple[str, str]]:
    return [(row.prompt[-1]["content"], row.completion) for row in rows]


def refused(path: str) -> DataError:
    with pytest.raises(DataError) as caught:
        rows_of(path)
    assert caught.value.where
    assert caught.value.remedy
    return caught.value


def write(path: Path) -> None:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(RECORDS), path)
    else:
        path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_fsspec_urls_are_read_and_globbed(name: str, scheme: str, tmp_path: Path):
    write(tmp_path / name)
    root = str(tmp_path) if scheme == "file" else f"/{tmp_path.name}"
    if scheme == "memory":
        with fsspec.open(f"memory://{root}/{name}", "wb") as file:
            file.write((tmp_path / name).read_bytes())
    assert pairs(rows_of(f"{scheme}://{root}/{name}")) == EXPECTED
    assert pairs(rows_of(f"{scheme}://{root}/*{name[4:]}")) == EXPECTED
    assert "no file matches" in refused(f"{scheme}://{root}/*.tsv").what


class Quiet(http.server.SimpleHTTPRequestHandler):
    def send_head(self) -> io.BytesIO | BinaryIO | None:
        """Answer ``/STATUS/…`` with that status."""
        first = self.path.split("/")[1]
        if not first.isdigit():
            return super().send_head()
        self.send_error(int(first))
        return None

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_files_behind_http_are_read_also_where_the_server_cannot_jump(name: str, served: str, tmp_path: Path):
    write(tmp_path / name)
    assert pairs(rows_of(f"{served}/{name}?token=secret")) == EXPECTED
    assert "secret" not in rows_of(f"{served}/{name}?token=secret")[0].where


def test_an_unreachable_url_is_refused(served: str):
    assert "cannot be read" in refused(f"{served}/missing.jsonl").what
    assert "cannot be read" in refused("http://127.0.0.1:1/rows.jsonl").what
    assert "cannot be read" in refused("nonsense://host/rows.jsonl").what


def test_a_server_that_never_answers_is_refused_in_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sources, "READ_TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began_s = time.monotonic()
        refused(f"http://127.0.0.1:{silent.getsockname()[1]}/rows.jsonl")
        assert time.monotonic() - began_s < 10


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
@pytest.mark.parametrize("status", [403, 404, 500])
def test_an_error_of_a_server_names_its_status_and_no_secret(served: str, name: str, status: int):
    url = f"{served}/{status}/{name}?token=SECRET".replace("://", "://bob:SECRET@")
    error = refused(url)
    assert f"the server answered {status}" in error.what
    assert "SECRET" not in str(error)


def test_every_url_in_a_message_is_redacted():
    message = "403, url='http://a:SECRET@h/x?k=SECRET' (https://h/y?sig=SECRET), see s3://b/c"
    assert redacted(message, "nothing") == "403, url='http://h/x' (https://h/y), see s3://b/c"
    assert redacted("no memory://bo b:SEC RET@h/x?t=SEC", "memory://bo b:SEC RET@h/x?t=SEC") == "no memory://h/x"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:sec@ret@host/a.jsonl", "https://host/a.jsonl"),
        ("https://host/a.jsonl?sig=abc", "https://host/a.jsonl"),
        ("https://me:secret@host/a.jsonl", "https://host/a.jsonl"),
        ("s3://bucket/a.jsonl", "s3://bucket/a.jsonl"),
        ("data/a?.jsonl", "data/a?.jsonl"),
    ],
)
def test_secrets_in_a_url_are_not_shown(url: str, shown: str):
    assert shown_name(url) == shown


@pytest.mark.parametrize(
    "name", ["org/name", "org/name:test", "org/name:en/test", "org/name@v2", "org/n-a.me@v2:en/test"]
)
def test_hub_ids_are_told_from_files(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert is_hub_id(name)
    for other in ("org/name.jsonl", "./org/name", "/org/name", "org/*", "s3://org/name", "a/b/c"):
        assert not is_hub_id(other)
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "name").write_text("x")
    assert not is_hub_id("org/name")


def test_a_hub_data_set_is_streamed_without_its_code(monkeypatch: pytest.MonkeyPatch):
    import datasets
    import huggingface_hub

    asked: list[object] = []
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})

    def load_dataset(*args: object, **keys: object) -> datasets.IterableDataset:
        asked.append((args, keys))
        return datasets.Dataset.from_dict(
            {"text": ["a", "b"], "label": [1, 0]}, features=features
        ).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *args, **keys: None)
    rows = rows_of("org/name@v2:en/test")
    assert [(row.label, row.where) for row in rows] == [
        ("yes", "org/name@v2:en/test:1"),
        ("no", "org/name@v2:en/test:2"),
    ]
    assert asked == [(("org/name", "en"), {"split": "test", "revision": "v2", "streaming": True})]


def test_a_hub_that_cannot_be_reached_is_an_error_of_a_few_lines(monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub

    def unreachable(*args: object, **keys: object) -> None:
        raise ConnectionError("Name or service not known\nlong\ntrace")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    error = refused("org/name")
    assert error.what == "it cannot be read: ConnectionError: Name or service not known"
    assert "network" in error.remedy
