"""What only a local or only a remote store does, and the hashes by which content is named."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
import uuid
from pathlib import Path

import fsspec
import pytest

from cluster.errors import StoreError
from cluster.manifest import content_hash
from cluster.store import Store


def filled(store, *parts, content=b"content"):
    with store.writing(*parts) as directory:
        (directory / "x").write_bytes(content)
    return store


@pytest.fixture
def local(tmp_path):
    return Store(str(tmp_path / "home"))


@pytest.fixture
def remote(tmp_path):
    return Store(f"memory://{uuid.uuid4().hex}", cache=tmp_path / "cache")


def test_a_local_artifact_is_read_where_it_lies(local):
    filled(local, "a")
    assert local.is_local
    assert local.reading("a") == Path(local.path("a"))


def test_a_local_root_may_be_relative_or_a_file_url(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Store("home").path("a") == str(tmp_path / "home" / "a")
    assert Store(f"file://{tmp_path}/home").path("a") == str(tmp_path / "home" / "a")


def test_a_link_that_leads_out_of_the_store_is_refused(local, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    Path(local.path()).mkdir()
    Path(local.path(), "runs").symlink_to(outside)
    with pytest.raises(StoreError, match="leads out of the store"):
        filled(local, "runs", "r")
    with pytest.raises(StoreError, match="leads out of the store"):
        local.put_json({}, "runs", "status.json")
    assert list(outside.iterdir()) == []


def test_the_root_itself_may_be_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "home").symlink_to(tmp_path / "disk")
    assert filled(Store(str(tmp_path / "home")), "a").is_committed("a")


def test_a_foreign_file_in_an_artifact_is_named(local):
    filled(local, "a")
    Path(local.path("a"), "pickled.bin").write_bytes(b"")
    with pytest.raises(StoreError, match=r"pickled\.bin is not part of this artifact"):
        local.reading("a")


def test_reading_without_verifying_looks_at_the_manifest_only(local):
    filled(local, "a")
    Path(local.path("a"), "x").write_bytes(b"CONTENT")
    assert local.reading("a", verify=False) == Path(local.path("a"))


def test_an_artifact_has_the_permissions_of_any_new_directory(local):
    filled(local, "a")
    Path(local.path("plain")).mkdir()
    assert stat.S_IMODE(Path(local.path("a")).stat().st_mode) == stat.S_IMODE(Path(local.path("plain")).stat().st_mode)


def test_no_aside_file_remains_beside_a_document(local):
    local.put_json({}, "runs", "status.json")
    assert [path.name for path in Path(local.path("runs")).iterdir()] == ["status.json"]


WRITE_AND_HANG = """
import sys, time
from cluster.store import Store
with Store(sys.argv[1]).writing("runs", "r", "train") as directory:
    (directory / "weights").write_bytes(bytes(1000))
    print("written", flush=True)
    time.sleep(60)
"""


def test_a_writer_that_is_killed_leaves_no_artifact(local):
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", WRITE_AND_HANG, local.path()]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "written\n"
        writer.kill()
    assert not local.exists("runs", "r", "train")
    assert local.list() == []
    filled(local, "runs", "r", "train")
    assert local.exists("runs", "r", "train")


def test_a_store_below_a_plain_file_is_refused_in_words(tmp_path):
    (tmp_path / "home").write_text("")
    with pytest.raises(StoreError, match="the storage refused"):
        filled(Store(str(tmp_path / "home")), "a")


def test_an_unknown_protocol_is_refused_in_words():
    with pytest.raises(StoreError, match="no storage opens for nosuch"):
        Store("nosuch://bucket/home")


def test_a_remote_artifact_is_downloaded_once(remote, monkeypatch):
    filled(remote, "a")
    first = remote.reading("a")
    fs, _ = fsspec.core.url_to_fs(remote.root)
    monkeypatch.setattr(type(fs), "get_file", lambda *args, **kwargs: pytest.fail("downloaded again"))
    assert remote.reading("a") == first


def test_a_damaged_download_is_fetched_again(remote):
    filled(remote, "a")
    kept = remote.reading("a")
    (kept / "x").write_bytes(b"CONTENT")
    assert (remote.reading("a") / "x").read_bytes() == b"content"


def test_a_changed_remote_artifact_is_a_new_download(remote):
    filled(remote, "a")
    first = remote.reading("a")
    remote.remove("a")
    filled(remote, "a", content=b"other")
    assert (remote.reading("a") / "x").read_bytes() == b"other"
    assert (first / "x").read_bytes() == b"content"


def test_the_rest_of_a_broken_upload_is_replaced(remote):
    fs, base = fsspec.core.url_to_fs(remote.root)
    fs.pipe_file(f"{base}/a/half", b"half")
    filled(remote, "a")
    assert sorted(path.name for path in remote.reading("a").iterdir()) == ["x"]


def test_a_files_hash_is_its_plain_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc" * 1_000_000)
    assert content_hash(tmp_path / "x") == hashlib.sha256(b"abc" * 1_000_000).hexdigest()


def tree(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


@pytest.mark.parametrize(
    "other",
    [
        {"a": b"1", "b": b"3"},
        {"a": b"1", "c": b"2"},
        {"a": b"2", "b": b"1"},
        {"a": b"1"},
        {"a": b"1", "b": b"2", "c": b""},
        {"a": b"1", "d/b": b"2"},
        {"a": b"1b\x002"},
    ],
)
def test_every_change_of_names_or_contents_changes_a_directorys_hash(tmp_path, other):
    one = tree(tmp_path / "one", {"a": b"1", "b": b"2"})
    assert content_hash(one) != content_hash(tree(tmp_path / "other", other))


def test_a_directorys_hash_ignores_order_manifest_notes_times_and_empty_directories(tmp_path):
    one = tree(tmp_path / "one", {"a": b"1", "b/c": b"2"})
    other = tree(tmp_path / "other", {"b/c": b"2", "manifest.json": b"{}", ".cache/x": b"note", "a": b"1"})
    (other / "hollow").mkdir()
    os.utime(other / "a", (0, 0))
    assert content_hash(one) == content_hash(other)


def test_a_hash_follows_links_to_files_as_model_caches_have_them(tmp_path):
    blobs = tree(tmp_path / "blobs", {"0f": b"weights"})
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "model.safetensors").symlink_to(blobs / "0f")
    plain = tree(tmp_path / "plain", {"model.safetensors": b"weights"})
    assert content_hash(tmp_path / "snapshot") == content_hash(plain)


def test_what_cannot_be_hashed_is_named(tmp_path):
    with pytest.raises(StoreError, match="nowhere is not there"):
        content_hash(tmp_path / "nowhere")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "loop").symlink_to(tmp_path / "d")
    with pytest.raises(StoreError, match="link to a directory"):
        content_hash(tmp_path / "d")
    (tmp_path / "d" / "loop").unlink()
    (tmp_path / "d" / "gone").symlink_to(tmp_path / "missing")
    with pytest.raises(StoreError, match="broken link"):
        content_hash(tmp_path / "d")
