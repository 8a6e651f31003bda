"""What every store promises: on a local directory, an S3 server, and in memory as buckets and as real directories."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import StoreError
from cluster.manifest import contained, content_hash
from cluster.store import Store

ESCAPES = [
    "..",
    "a/../b",
    "/etc/passwd",
    "a//b",
    "",
    ".",
    "a\0b",
    "a\\b",
    "a\nb",
    "a/",
    "*",
    "x?",
    "[ab]",
    "\ud800",
    "n" * 256,
]


class DirectoryFileSystem(MemoryFileSystem):
    """Like SFTP or HDFS, and unlike S3: a file needs its directory first."""

    protocol = "directories"
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(path.removeprefix("directories://"))

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        if not self.isdir(self._parent(path)):
            raise FileNotFoundError(path)
        super().pipe_file(path, value, mode, **kwargs)


fsspec.register_implementation("directories", DirectoryFileSystem)


@pytest.fixture(params=["local", "memory", "directories", "s3"])
def store(request, tmp_path):
    if request.param == "local":
        root = str(tmp_path / "home")
    elif request.param == "s3":
        root = request.getfixturevalue("s3").new_bucket()
    else:
        root = f"{request.param}://{uuid.uuid4().hex}/home"
    return Store(root, cache=tmp_path / "cache")


def elsewhere(store, tmp_path):
    """The same store as another node sees it, which has read nothing of it yet."""
    return Store(store.root, cache=tmp_path / "cache elsewhere")


def fs_of(store):
    return fsspec.core.url_to_fs(store.root, use_listings_cache=False)


def write(store, *parts, files):
    with store.writing(*parts) as directory:
        for name, content in files.items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_bytes(content)


def overwrite(store, content, *parts):
    fs, base = fs_of(store)
    fs.makedirs("/".join((base, *parts[:-1])), exist_ok=True)
    fs.pipe_file("/".join((base, *parts)), content)


def files_in(directory):
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def everything_in(store):
    fs, base = fs_of(store)
    return fs.find(base) if fs.exists(base) else []


FILES = {"weights.safetensors": b"\x00\x01" * 5000, "deep/er/config.json": b"{}", "empty": b""}


def test_a_committed_artifact_reads_back_byte_for_byte(store):
    write(store, "runs", "r", "train", files=FILES)
    got = files_in(store.reading("runs", "r", "train"))
    got.pop("manifest.json", None)
    assert got == FILES


def test_the_manifest_states_format_hash_and_size_of_every_file(store):
    write(store, "a", files=FILES)
    assert store.get_json("a", "manifest.json") == {
        "format": 1,
        "files": {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in FILES.items()
        },
    }


def test_an_artifact_is_invisible_until_its_block_ends(store):
    with store.writing("a") as directory:
        (directory / "x").write_text("x")
        assert not store.is_committed("a")
        assert store.list() == []
    assert store.is_committed("a")
    assert store.list() == ["a"]


def break_off(store, error, *parts, written=1):
    with store.writing(*parts) as directory:
        (directory / "x").write_bytes(bytes(written))
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_remains_after_an_error(store, tmp_path, error):
    with pytest.raises(error):
        break_off(store, error, "a")
    assert everything_in(store) == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert not store.is_committed("a")


def test_nothing_remains_when_the_manifest_cannot_be_written(store, monkeypatch):
    def refuse(*args: object) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("cluster.manifest.Manifest.as_bytes", refuse)
    with pytest.raises(StoreError, match="Permission denied"):
        write(store, "a", files=FILES)
    assert everything_in(store) == []


def test_an_artifact_without_manifest_is_incomplete(store):
    overwrite(store, b"half", "a", "weights")
    assert not store.is_committed("a")
    with pytest.raises(StoreError, match="incomplete"):
        store.reading("a")


def test_a_missing_artifact_is_not_called_incomplete(store):
    with pytest.raises(StoreError, match="there is no artifact"):
        store.reading("nowhere")


@pytest.mark.parametrize("damage", [b"{}x", b"[]"])
def test_a_changed_file_is_named(store, tmp_path, damage):
    write(store, "a", files=FILES)
    overwrite(store, damage, "a", "deep/er/config.json")
    with pytest.raises(StoreError, match=r"deep/er/config\.json is damaged"):
        elsewhere(store, tmp_path).reading("a")


def test_a_missing_file_is_named(store, tmp_path):
    write(store, "a", files=FILES)
    fs, base = fs_of(store)
    fs.rm_file(f"{base}/a/empty")
    with pytest.raises(StoreError, match="empty is missing"):
        elsewhere(store, tmp_path).reading("a")


def test_another_node_reads_the_same_bytes(store, tmp_path):
    write(store, "a", files=FILES)
    got = files_in(elsewhere(store, tmp_path).reading("a"))
    got.pop("manifest.json", None)
    assert got == FILES


def test_a_damaged_copy_on_a_node_is_fetched_again(store, tmp_path):
    write(store, "a", files=FILES)
    node = elsewhere(store, tmp_path)
    if node.is_local:  # it has no copies
        return
    (node.reading("a") / "deep/er/config.json").write_text("{ }")
    assert (node.reading("a") / "deep/er/config.json").read_text() == "{}"


def test_a_file_is_copied_and_replaced_whole(store, tmp_path):
    for content in (b"first" * 1000, b"second"):
        (tmp_path / "source").write_bytes(content)
        store.put_file(tmp_path / "source", "runs", "r", "history.jsonl")
        assert store.get_text("runs", "r", "history.jsonl").encode() == content
    assert store.list("runs", "r") == ["history.jsonl"]


@pytest.mark.parametrize(
    "text", [b"", b"\xff\xfe", b"[]", b'{"format": 2, "files": {}}', b'{"format": 1, "files": {"x": 1}}']
)
def test_a_damaged_manifest_is_refused(store, text):
    write(store, "a", files=FILES)
    overwrite(store, text, "a", "manifest.json")
    with pytest.raises(StoreError, match="damaged"):
        store.reading("a")


def test_a_manifest_cannot_name_files_outside_its_artifact(store, tmp_path):
    write(store, "a", files=FILES)
    entry = {"sha256": hashlib.sha256(b"").hexdigest(), "bytes": 0}
    overwrite(store, json.dumps({"format": 1, "files": {"../../evil": entry}}).encode(), "a", "manifest.json")
    with pytest.raises(StoreError, match="cannot be used"):
        store.reading("a")
    assert not list(tmp_path.rglob("evil"))


def test_a_committed_artifact_is_never_overwritten(store):
    write(store, "a", files={"x": b"first"})
    with pytest.raises(StoreError, match="committed already"):
        write(store, "a", files={"x": b"second"})
    assert files_in(store.reading("a"))["x"] == b"first"


def test_the_loser_of_a_race_keeps_the_winners_artifact(store):
    with store.writing("a") as directory:
        (directory / "x").write_text("loser")
        write(store, "a", files={"x": b"winner"})
    assert files_in(store.reading("a"))["x"] == b"winner"


def test_an_artifact_never_replaces_a_directory_that_holds_artifacts(store):
    write(store, "runs", "r", "train", files=FILES)
    with pytest.raises(StoreError, match="holds something that is no artifact"):
        write(store, "runs", "r", files={"x": b""})
    assert store.is_committed("runs", "r", "train")


def test_a_removed_artifact_can_be_written_again(store):
    write(store, "a", files=FILES)
    store.remove("a")
    assert everything_in(store) == []
    assert not store.is_committed("a")
    write(store, "a", files={"x": b"again"})
    assert store.is_committed("a")


def test_removing_what_is_not_there_is_no_error(store):
    store.remove("a", "b")


def test_an_artifact_cannot_bring_its_own_manifest(store):
    with pytest.raises(StoreError, match="manifest"):
        write(store, "a", files={"manifest.json": b"{}"})
    assert everything_in(store) == []


def test_an_artifact_holds_no_links(store, tmp_path):
    (tmp_path / "secret").write_text("s")
    with pytest.raises(StoreError, match="is a link"), store.writing("a") as directory:
        (directory / "x").symlink_to(tmp_path / "secret")
    assert not store.is_committed("a")


@pytest.mark.parametrize("name", ESCAPES)
def test_names_that_leave_the_store_are_refused(store, name):
    for use in (store.path, store.list, store.remove, store.get_text, store.is_committed, store.reading):
        with pytest.raises(StoreError, match="cannot be used"):
            use("runs", name)
    with pytest.raises(StoreError, match="cannot be used"):
        store.put_json({}, "runs", name)
    with pytest.raises(StoreError, match="cannot be used"), store.writing(name):
        pass
    assert everything_in(store) == []


def test_a_full_disk_names_path_and_bytes(store):
    full_disk = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(StoreError, match=r"full.*runs/r/train had 10,000 bytes.*bytes are free") as caught:
        break_off(store, full_disk, "runs", "r", "train", written=10_000)
    assert "HONE_HOME" in caught.value.remedy
    assert everything_in(store) == []


def test_a_full_disk_is_recognised_in_the_words_of_a_library(store):
    wrapped = RuntimeError("SafetensorError: I/O error: No space left on device (os error 28)")
    with pytest.raises(StoreError, match="disk is full"):
        break_off(store, wrapped, "a")


def test_an_error_of_the_writer_stays_what_it_is(store):
    with pytest.raises(FileNotFoundError):
        break_off(store, FileNotFoundError("tokenizer.json"), "a")


def test_a_document_is_replaced_as_a_whole(store):
    store.put_json({"state": "running", "long": "x" * 1000}, "runs", "r", "status.json")
    store.put_json({"state": "finished", "why": "größer"}, "runs", "r", "status.json")
    assert store.get_json("runs", "r", "status.json") == {"state": "finished", "why": "größer"}
    assert store.list("runs", "r") == ["status.json"]


def test_text_reads_back_as_written(store):
    store.put_text("name: ä\n", "runs", "r", "job.yaml")
    assert store.get_text("runs", "r", "job.yaml") == "name: ä\n"


def test_a_missing_or_broken_document_is_a_store_error(store):
    with pytest.raises(StoreError, match="there is no"):
        store.get_json("status.json")
    overwrite(store, b"{", "status.json")
    with pytest.raises(StoreError, match="not JSON"):
        store.get_json("status.json")


def test_a_number_that_json_does_not_know_is_refused_before_anything_is_written(store):
    with pytest.raises(ValueError, match="JSON"):
        store.put_json({"loss": float("nan")}, "status.json")
    assert everything_in(store) == []


def test_what_exists_is_a_document_or_a_whole_artifact_and_no_bare_directory(store):
    write(store, "runs", "r", "train", files=FILES)
    store.put_json({}, "runs", "r", "status.json")
    overwrite(store, b"half", "runs", "r", "release", "weights")
    assert [store.exists("runs", "r", name) for name in ("train", "status.json", "release", "no")] == [
        True,
        True,
        False,
        False,
    ]
    assert not store.exists("runs")


def test_listing_is_sorted_and_shallow(store):
    for name in ("b", "a", "c"):
        store.put_json({}, "runs", name, "status.json")
    assert store.list("runs") == ["a", "b", "c"]
    assert store.list("nothing", "here") == []


def test_a_path_below_the_root_is_the_roots_path_and_the_name(store):
    assert store.path("runs", "r") == f"{store.path()}/runs/r"
    assert store.path("runs/r") == store.path("runs", "r")


def test_an_empty_artifact_is_whole(store):
    write(store, "a", files={})
    assert store.reading("a").is_dir()


@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=4))
def test_an_accepted_name_stays_below_where_it_starts(parts):
    try:
        name = contained(*parts)
    except StoreError:
        return
    root = Path("/store/root")
    resolved = Path(*[*root.parts, *name.split("/")]).resolve()
    assert resolved.is_relative_to(root)
    assert resolved != root


def test_a_content_hash_does_not_depend_on_store_or_manifest(store, tmp_path):
    write(store, "a", files=FILES)
    plain = tmp_path / "plain"
    for name, content in FILES.items():
        (plain / name).parent.mkdir(parents=True, exist_ok=True)
        (plain / name).write_bytes(content)
    assert content_hash(store.reading("a")) == content_hash(plain)
