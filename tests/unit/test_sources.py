"""Whatever a job names as data becomes rows, or an error of a few lines that names the place."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.errors import DataError
from cluster.spec import DataSpec, MixSource
from trainers.sources import Row, SourceProblems, read_rows, source_files

RECORDS = [{"prompt": f"q {i}", "completion": f"a {i}"} for i in range(3)]
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS)
EXPECTED = [("q 0", "a 0"), ("q 1", "a 1"), ("q 2", "a 2")]


def spec(**keys: object) -> DataSpec:
    return DataSpec.model_validate({"train": ["unused"], **keys})


def rows_of(*paths: object, problems: SourceProblems | None = None, **keys: object) -> list[Row]:
    return list(read_rows([str(path) for path in paths], spec(**keys), "train", problems))


def pairs(rows: list[Row]) -> list[tuple[str, str]]:
    return [(row.prompt[-1]["content"], row.completion) for row in rows]


def refused(*paths: object, **keys: object) -> DataError:
    with pytest.raises(DataError) as caught:
        rows_of(*paths, **keys)
    assert caught.value.where
    assert caught.value.remedy
    return caught.value


def as_csv(delimiter: str = ",") -> str:
    return delimiter.join(RECORDS[0]) + "\n" + "".join(delimiter.join(r.values()) + "\n" for r in RECORDS)


def as_parquet(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(RECORDS), path)


def with_text(text: str, opener: Callable[[Path, str], object] = open) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with opener(path, "wb") as file:  # type: ignore[attr-defined]
            file.write(text.encode())

    return write


KINDS: dict[str, Callable[[Path], None]] = {
    "rows.jsonl": with_text(LINES),
    "rows.ndjson": with_text(LINES),
    "rows.json": with_text(json.dumps(RECORDS, indent=2)),
    "lines.json": with_text(LINES),
    "array.jsonl": with_text("\n " + json.dumps(RECORDS)),
    "rows.csv": with_text(as_csv()),
    "semicolon.csv": with_text(as_csv(";")),
    "tab.csv": with_text(as_csv("\t")),
    "rows.tsv": with_text(as_csv("\t")),
    "ROWS.CSV": with_text(as_csv()),
    "rows.parquet": as_parquet,
    "rows.jsonl.gz": with_text(LINES, gzip.open),
    "rows.json.gz": with_text(json.dumps(RECORDS), gzip.open),
    "rows.csv.gz": with_text(as_csv(), gzip.open),
    "rows.jsonl.bz2": with_text(LINES, bz2.open),
    "rows.csv.xz": with_text(as_csv(), lzma.open),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_gives_the_same_rows(name: str, tmp_path: Path):
    KINDS[name](tmp_path / name)
    problems = SourceProblems()
    rows = rows_of(tmp_path / name, problems=problems)
    assert pairs(rows) == EXPECTED
    assert len({row.where for row in rows}) == 3
    assert all(row.where.startswith(f"{tmp_path / name}:") for row in rows)
    assert not problems
    (file,) = problems.files
    assert (file.name, file.source, file.choice.format) == (str(tmp_path / name), "train", "prompt_completion")
    assert (list(file.columns_seen), file.num_records, file.num_rows) == (["prompt", "completion"], 3, 3)


def test_e2e_columns_can_be_named(tmp_path: Path):
    path = tmp_path / "e2e.csv"
    path.write_text('mr,ref\n"name[A], area[x]","A, in x."\n', encoding="utf-8")
    rows = rows_of(path, columns={"prompt": "mr", "completion": "ref"})
    assert pairs(rows) == [("name[A], area[x]", "A, in x.")]
    assert rows[0].where == f"{path}:2"


def test_the_real_e2e_file_is_read_whole(realdata: Path):
    path = realdata / "e2e" / "trainset.csv"
    rows = rows_of(path, columns={"prompt": "mr", "completion": "ref"})
    with path.open(newline="", encoding="utf-8") as file:
        assert pairs(rows) == [(row["mr"], row["ref"]) for row in csv.DictReader(file)]
    assert len(rows) == 42_061


def test_a_source_of_a_mixture_is_read_by_its_own_format(tmp_path: Path):
    (tmp_path / "m.csv").write_text("q,a\n1,2\n")
    source = MixSource(name="extra", train=["m.csv"], weight=1.0, columns={"prompt": "q", "completion": "a"})
    rows = list(read_rows([str(tmp_path / "m.csv")], source, source.name))
    assert pairs(rows) == [("1", "2")]
    assert rows[0].source == "extra"


def test_globs_are_sorted_and_every_file_is_read_once(tmp_path: Path):
    for name in ("b.jsonl", "a.jsonl", "sub/c.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(LINES)
    (tmp_path / "d.jsonl").mkdir()
    found = source_files([f"{tmp_path}/b.jsonl", f"{tmp_path}/**/*.jsonl"])
    assert found == [f"{tmp_path}/{name}" for name in ("b.jsonl", "a.jsonl", "sub/c.jsonl")]


def test_a_name_with_a_bracket_is_a_file_where_there_is_one(tmp_path: Path):
    path = tmp_path / "rows[1].jsonl"
    path.write_text(LINES)
    assert pairs(rows_of(path)) == EXPECTED


def test_rows_are_read_one_by_one(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text(LINES * 1000 + "not json\n")
    rows = read_rows([str(path)], spec())
    assert next(rows).completion == "a 0", "the broken line at the end is not reached yet"
    with pytest.raises(DataError, match=f"{path}:3001"):
        list(rows)


def test_a_first_line_that_is_odd_does_not_decide_for_the_file(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"comment": "made by hand"}\n' + LINES + '{"messages": [{"role": "user", "content": "x"}]}\n')
    problems = SourceProblems()
    assert len(rows_of(path, problems=problems)) == 4
    assert [(p.code, p.where) for p in problems] == [
        ("format_mixed", f"{path}:1"),
        ("format_mixed", f"{path}:5"),
        ("target_missing", f"{path}:5"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.jsonl", "", "no rows"),
        ("blank.jsonl", "\n \n", "no rows"),
        ("mark.jsonl", "\ufeff", "no rows"),
        ("mark.csv", "\ufeff", "no rows"),
        ("empty.json", "[]", "no rows"),
        ("empty.csv", "", "no rows"),
        ("header.csv", "prompt,completion\n", "no rows"),
        ("rows.txt", "hello", "its name ends with '.txt'"),
        ("rows", "hello", "its name ends with 'no ending'"),
        ("rows.parquet.gz", "x", "is unknown"),
        ("bad.jsonl.gz", "not packed", "packed file is damaged"),
        ("bad.jsonl.xz", "not packed", "packed file is damaged"),
        ("bad.jsonl.bz2", "not packed", "cannot be read"),
        ("bad.parquet", "no parquet", "no readable Parquet"),
        ("other.csv", "a,b\n1,2\n", "'a', 'b' fit no known format"),
        ("pretty.json", '{\n"data": []\n}', "no valid JSON"),
    ],
)
def test_a_file_that_is_no_data_is_refused(name: str, content: str, said: str, tmp_path: Path):
    (tmp_path / name).write_text(content)
    error = refused(tmp_path / name)
    assert said in error.what
    assert error.where.startswith(str(tmp_path / name))


def test_what_is_no_file_is_refused(tmp_path: Path):
    assert "no such file" in refused(tmp_path / "missing.jsonl").what
    assert "no file matches" in refused(tmp_path / "*.jsonl").what
    (tmp_path / "rows.csv").write_text("a\n")
    error = refused(tmp_path)
    assert "is a directory" in error.what
    assert f"{tmp_path}/*.csv" in error.remedy
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert "no regular file" in refused(tmp_path / "pipe.jsonl").what, "reading it would wait for ever"


def test_a_later_missing_file_is_refused_before_the_first_row(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text(LINES)
    rows = read_rows([f"{tmp_path}/rows.jsonl", f"{tmp_path}/missing.jsonl"], spec())
    with pytest.raises(DataError, match=r"missing\.jsonl"):
        next(rows)


def test_a_truncated_packed_file_is_refused(tmp_path: Path):
    with_text(LINES * 10_000, gzip.open)(tmp_path / "rows.jsonl.gz")
    whole = (tmp_path / "rows.jsonl.gz").read_bytes()
    (tmp_path / "rows.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    assert "packed file is damaged" in refused(tmp_path / "rows.jsonl.gz").what


@pytest.mark.parametrize("value", [{"a": 1}, [{"text": "x"}], ["x"]])
def test_nested_parquet_columns_are_refused(value: object, tmp_path: Path):
    pq.write_table(pa.Table.from_pylist([{"text": value, "label": "x"}] * 5), tmp_path / "rows.parquet")
    error = refused(tmp_path / "rows.parquet")
    assert "none of the 5 rows can be read as classification: column 'text' holds" in error.what
    assert "flatten" in error.remedy


def test_nulls_in_parquet_are_missing_answers(tmp_path: Path):
    table = [{"text": "a", "label": None}, {"text": None, "label": 1}, {"text": "c", "label": 0}]
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "rows.parquet")
    problems = SourceProblems()
    assert [row.label for row in rows_of(tmp_path / "rows.parquet", problems=problems)] == [None, "1", "0"]
    assert [p.code for p in problems] == ["target_missing", "turn_empty"]


def test_a_first_record_without_the_label_leaves_the_file_a_classification(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b", "label": "x"}\n{"text": "c", "label": "y"}\n')
    problems = SourceProblems()
    assert [row.label for row in rows_of(path, problems=problems)] == [None, "x", "y"]
    assert [(p.code, p.where) for p in problems] == [("target_missing", f"{path}:1")]
