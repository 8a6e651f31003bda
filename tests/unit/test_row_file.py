from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from trainers.row_file import READ_BYTES, ChainedRows, PickedRows, RowFile
from trainers.rows import Row


def rows(count: int, words: int = 5) -> list[Row]:
    return [
        Row(
            (
                {"role": "user", "content": f"line {n}\nand more\u2028\ud800" + " word" * words},
                {"role": "assistant", "content": "ja"},
            ),
            label="ja" if n % 2 else None,
            references=("ja", "yes"),
            group=str(n),
            source="train",
            where=f"f.jsonl:{n}",
            synthetic=n % 3 == 0,
            extra={"region": "north"},
        )
        for n in range(count)
    ]


def test_rows_come_back_as_they_were_by_place_and_in_order(tmp_path: Path) -> None:
    given = rows(50)
    kept = RowFile.write(tmp_path / "rows", given)
    assert list(kept) == given
    assert [kept[place] for place in (49, 0, -1, 7)] == [given[place] for place in (49, 0, -1, 7)]
    with pytest.raises(IndexError):
        kept[50]


def test_rows_larger_than_what_is_read_at_once_come_back(tmp_path: Path) -> None:
    given = [*rows(3), *rows(2, words=READ_BYTES // 4), *rows(3)]
    assert list(RowFile.write(tmp_path / "rows", given)) == given


def test_two_readers_of_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    given = rows(40, words=10_000)
    kept = RowFile.write(tmp_path / "rows", given)
    assert [(a, b) for a, b in zip(kept, kept, strict=True)] == [(row, row) for row in given]


def test_rows_handed_to_another_process_are_the_same(tmp_path: Path) -> None:
    given = rows(20)
    kept = RowFile.write(tmp_path / "rows", given)
    views = ChainedRows([PickedRows(kept, np.array([3, 1])), kept])
    assert list(pickle.loads(pickle.dumps(views))) == [given[3], given[1], *given]


def test_equal_rows_are_equal_bytes_whatever_they_share(tmp_path: Path) -> None:
    given = rows(5)
    RowFile.write(tmp_path / "a", given)
    RowFile.write(tmp_path / "b", pickle.loads(pickle.dumps(given)))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_no_rows_are_an_empty_sequence(tmp_path: Path) -> None:
    assert list(RowFile.write(tmp_path / "rows", [])) == []
    assert list(ChainedRows([])) == []


def test_picked_and_chained_rows_are_what_lists_would_be(tmp_path: Path) -> None:
    given = rows(20)
    kept = RowFile.write(tmp_path / "rows", given)
    picked = PickedRows(kept, np.array([3, 1, 3, 19]))
    chained = ChainedRows([picked, [], kept, PickedRows(kept, np.empty(0, np.int64))])
    as_list = [given[3], given[1], given[3], given[19], *given]
    assert list(picked) == as_list[:4]
    assert list(chained) == as_list
    assert [chained[place] for place in range(24)] == as_list
    assert len(chained) == 24
