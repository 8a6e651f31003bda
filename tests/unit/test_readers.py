"""Files of every kind give their records one by one, and broken ones say where they are broken."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import DataError
from trainers import readers
from trainers.readers import delimited, json_array, json_lines, parquet

ROWS = [
    {"prompt": "a", "completion": "b"},
    {"prompt": 'é\n"q"', "completion": "[1, 2]"},
    {"prompt": "", "completion": "x"},
]
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
RECORDS = st.lists(st.dictionaries(st.text(), JSON_VALUES, max_size=4), max_size=6)


def records(
    reader: Callable[..., Iterator[readers.Numbered]], data: bytes | str, **keys: object
) -> list[dict[str, object]]:
    file = io.BytesIO(data.encode() if isinstance(data, str) else data)
    return [record for _, record in reader(file, "rows", **keys)]


def refused(reader: Callable[..., Iterator[readers.Numbered]], data: bytes | str) -> DataError:
    with pytest.raises(DataError) as caught:
        records(reader, data)
    assert caught.value.remedy
    return caught.value


def test_json_lines_skip_blank_lines_and_a_byte_order_mark():
    data = "\ufeff" + json.dumps(ROWS[0]) + "\n\n  \r\n" + json.dumps(ROWS[1]) + "\r\n" + json.dumps(ROWS[2])
    assert [(n, r) for n, r in json_lines(io.BytesIO(data.encode()), "rows")] == [
        (1, ROWS[0]),
        (4, ROWS[1]),
        (5, ROWS[2]),
    ]


@settings(deadline=None, max_examples=50)
@given(RECORDS, st.sampled_from([None, 1, 4]), st.integers(1, 40))
def test_an_array_is_read_as_json_reads_it_whatever_the_pieces(
    rows: list[dict[str, object]], indent: int | None, piece: int
):
    text = json.dumps(rows, indent=indent, ensure_ascii=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "READ_CHARS", piece)
        assert records(json_array, text.encode("utf-8", "surrogatepass")) == rows


@pytest.mark.parametrize(
    ("data", "where", "said"),
    [
        ('{"a": 1}\n{"a": }\n', "rows:2", "column 7"),
        ('{"a": 1}\n{"a": 1\n', "rows:2", "at column 8"),
        ('{"a": 1} {"b": 2}\n', "rows:1", "Extra data at column 10"),
        ('{"a": 1}\n\n42\n', "rows:3", "a number, not an object"),
        ('{"a": 1}\n[1]\n', "rows:2", "a list, not an object"),
        ("null\n", "rows:1", "null, not an object"),
        ('"text"\n', "rows:1", "text, not an object"),
        ("[" * 100_000 + "\n", "rows:1", "recursion"),
        ('{"a": ' + "9" * 5000 + "}\n", "rows:1", "4300 digits"),
        (b'{"a": "x"}\n{"a": "caf\xe9"}\n', "rows:2", "byte 0xE9 at position 11 of the line is not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "rows:1", "byte 0xFF at position 1"),
        (b"\x00\x01\n", "rows:1", "no valid JSON"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_broken_line_is_named(data: bytes | str, where: str, said: str):
    error = refused(json_lines, data)
    assert error.where == where
    assert said in error.what


@pytest.mark.parametrize(
    ("data", "where", "said"),
    [
        ('[{"a": 1},\n {"a": }]', "rows:2", "Expecting value at column 8"),
        ('[{"a": 1}\n {"a": 2}]', "rows:2", "expecting ',' at column 2"),
        ('[{"a": 1},]', "rows:1", "Expecting value"),
        ('[{"a": 1}', "rows:1", "expecting ','"),
        ('[{"a": "b', "rows:1", "Unterminated string"),
        ('[{"a": 1}] x', "rows:1", "more after the end"),
        ("[1]", "rows:1", "a number, not an object"),
        (b'[{"a": 1},\n{"a": "\xe9"}]', "rows:2", "byte 0xE9 at byte 19 of the file"),
    ],
)
@pytest.mark.parametrize("piece", [2, 2**20])
def test_a_broken_array_is_named(data: bytes | str, where: str, said: str, piece: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(readers, "READ_CHARS", piece)
    error = refused(json_array, data)
    assert error.where == where
    assert said in error.what


def test_a_broken_record_in_an_array_does_not_pull_the_file_into_memory():
    class Endless(io.BytesIO):
        num_read = 0

        def read(self, size: int | None = -1) -> bytes:
            self.num_read += size or 0
            return b'{"a": b}, ' * ((size or 0) // 10 + 1)

    file = Endless()
    file.read = lambda size=-1, plain=file.read: b"[" + plain(size) if not file.num_read else plain(size)  # type: ignore[method-assign]
    with pytest.raises(DataError):
        list(json_array(file, "rows"))
    assert file.num_read <= 4 * readers.READ_CHARS


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_the_delimiter_of_a_csv_is_found(delimiter: str):
    data = f'prompt{delimiter}completion\n"a, b; c"{delimiter}d\r\n\ne{delimiter}"f\ng ""h"""\n'
    expected = [{"prompt": "a, b; c", "completion": "d"}, {"prompt": "e", "completion": 'f\ng "h"'}]
    assert records(delimited, data) == expected


def test_a_csv_row_is_numbered_by_the_line_it_begins_on():
    data = 'a,b\n"1\n1",2\n\n3,4\n'
    assert [number for number, _ in delimited(io.BytesIO(data.encode()), "rows")] == [2, 5]


def test_a_short_row_lacks_its_last_columns_and_a_single_column_needs_no_delimiter():
    assert records(delimited, "a,b\n1\n2,3\n") == [{"a": "1", "b": None}, {"a": "2", "b": "3"}]
    assert records(delimited, "text\nhello\nworld\n") == [{"text": "hello"}, {"text": "world"}]


def test_an_index_column_without_a_name_is_dropped():
    assert records(delimited, "\ufeff,text\n0,hello\n1,world\n") == [{"text": "hello"}, {"text": "world"}]


@pytest.mark.parametrize(
    ("data", "where", "said"),
    [
        ("a,b\n1,2\n1,2,3\n", "rows:3", "3 fields but the header 2"),
        ('a,b\n1,2\n"1,2\n3,4\n', "rows:3", "unexpected end of data"),
        ('a,b\n"1"x,2\n', "rows:2", "',' expected after '\"'"),
        ("a,a\n1,2\n", "rows:1", "'a' twice"),
        (b"a,b\n1,2\n\xff,2\n", "rows:3", "byte 0xFF at position 1"),
        ("a,b\r1,2\r", "rows:1", "new-line"),
    ],
)
def test_a_broken_csv_is_named(data: bytes | str, where: str, said: str):
    error = refused(delimited, data)
    assert error.where == where
    assert said in error.what


@pytest.mark.parametrize("reader", [json_lines, json_array, delimited])
def test_a_record_of_ten_megabytes_is_a_record(reader: Callable[..., Iterator[readers.Numbered]]):
    text = "word " * 2_000_000
    data = f"text\n{text}\n" if reader is delimited else json.dumps({"text": text})
    assert records(reader, f"[{data}]" if reader is json_array else data) == [{"text": text}]


@pytest.mark.parametrize("reader", [json_lines, delimited])
def test_a_line_past_the_bound_is_refused(
    reader: Callable[..., Iterator[readers.Numbered]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(readers, "MAX_RECORD_BYTES", 2**20)
    assert "longer than 1 MB" in refused(reader, "a" * (2**20 + 1)).what


def parquet_bytes(table: pa.Table, **keys: object) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, **keys)
    return out.getvalue()


def test_parquet_rows_come_in_order_over_batches_and_groups(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(readers, "PARQUET_BATCH_BYTES", 100)
    rows = [{"prompt": str(i), "completion": None if i % 3 else "x"} for i in range(50)]
    data = parquet_bytes(pa.Table.from_pylist(rows), row_group_size=7)
    assert [(n, r) for n, r in parquet(io.BytesIO(data), "rows")] == list(enumerate(rows, start=1))


def test_class_numbers_in_parquet_get_their_names():
    table = pa.table({"text": ["a", "b", "c"], "label": pa.array([1, 0, None], pa.int64())})
    features = {"text": {"dtype": "string", "_type": "Value"}, "label": {"names": ["no", "yes"], "_type": "ClassLabel"}}
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    assert [record["label"] for record in records(parquet, parquet_bytes(table))] == ["yes", "no", None]


@pytest.mark.parametrize("data", [b"", b"PAR1", b"no parquet at all", b"PAR1" + b"\0" * 100 + b"PAR1"])
def test_a_damaged_parquet_file_is_refused(data: bytes):
    assert "Parquet" in refused(parquet, data).what
