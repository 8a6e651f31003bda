"""A second process finds in the rows what this one would have found, and its end is told."""

from __future__ import annotations

from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import RunFailed
from cluster.spec import AuditSpec
from tests.audited_rows import chat, clean_chats
from trainers.first_look import first_look, looking
from trainers.row_file import ChainedRows, PickedRows, RowFile

SPEC = AuditSpec()


def kept(tmp_path: Path) -> ChainedRows:
    rows = clean_chats(300)
    rows += [*rows[:20], chat("Hi", "Write to anna.berg@firma.de<|end|>"), chat("Hi", "a\x00b")]
    on_disk = RowFile.write(tmp_path / "rows", rows)
    return ChainedRows([PickedRows(on_disk, np.arange(100)), PickedRows(on_disk, np.arange(100, len(rows)))])


def test_a_second_process_finds_the_same(tmp_path: Path):
    rows = kept(tmp_path)
    here = first_look(rows, SPEC, ["<|end|>"])
    with looking(rows, SPEC, ["<|end|>"], tmp_path, many_rows=1) as look:
        assert len(active_children()) == 1
        there = look()
    assert not active_children()
    for ours, theirs in ((here.hashes, there.hashes), (here.near, there.near)):
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    found = [(e.code, e.severity, e.rows.tolist(), e.detail, e.remedy) for e in there.texts]
    assert found == [(e.code, e.severity, e.rows.tolist(), e.detail, e.remedy) for e in here.texts]
    assert {code for code, *_ in found} >= {"pii", "control_characters"}
    assert len(here.near.i) >= 20


def test_a_second_process_that_is_killed_is_told_and_none_outlives_its_use(tmp_path: Path):
    many = PickedRows(kept(tmp_path), np.zeros(500_000, np.int64))  # more than a pipe holds
    with looking(many, SPEC, [], tmp_path, many_rows=1) as look:
        active_children()[0].kill()
        with pytest.raises(RunFailed, match="exit code -9"):
            look()
    with pytest.raises(KeyError), looking(kept(tmp_path), SPEC, [], tmp_path, many_rows=1):
        raise KeyError
    assert not active_children()
