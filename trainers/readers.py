"""An open file → its records one after another, each with its number: JSON lines, JSON array, delimited text, Parquet.

A record is held at a time (a batch of about 16 MB for Parquet), so a file may be larger than memory. Whatever is
broken raises DataError with file:line. The number is the line that a record begins on, or its place in the file where
records are not lines (arrays, Parquet). Left out: compression, addresses, which reader is needed (``sources.py``).
"""

from __future__ import annotations

import codecs
import csv
import itertools
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO, cast

from cluster.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

Record = dict[str, object]
Numbered = tuple[int, Record]

MAX_RECORD_BYTES = 256 * 2**20
READ_CHARS = 2**20
PARQUET_BATCH_BYTES = 16 * 2**20
DELIMITERS = ",\t;|"
SNIFF_LINES = 50
KINDS: dict[type, str] = {
    dict: "an object",
    list: "a list",
    str: "text",
    int: "a number",
    float: "a number",
    bool: "true or false",
}


def json_lines(file: BinaryIO, name: str) -> Iterator[Numbered]:
    """Yield the object on each line that is not blank, with its line number from 1."""
    for number, line in _lines(file, name):
        if line.strip():
            where = f"{name}:{number}"
            yield number, _object(_parsed(_decoded(line, where).rstrip(), where), where)


def json_array(file: BinaryIO, name: str) -> Iterator[Numbered]:
    """Yield the objects of the one array that the file holds, with their places from 1."""
    text = _ArrayText(file, name)
    text.take("[")
    number = 0
    while text.next_char() != "]":
        if number:
            text.take(",")
        number += 1
        yield number, _object(text.value(), f"{name}:{number}")
    text.take("]")
    if text.next_char():
        raise text.broken("there is more after the end of the array")


def delimited(file: BinaryIO, name: str, delimiter: str | None = None) -> Iterator[Numbered]:
    """Yield the rows of a CSV file under the names of its first row; without ``delimiter`` it is found by looking.

    Quotes must be closed and followed by a delimiter. A short row lacks its last columns; a long one is refused.
    """
    # The module's limit is global and only ever raised: a field may be as long as any other record.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_RECORD_BYTES))
    lines = (_decoded(line, f"{name}:{number}") for number, line in _lines(file, name))
    sample = list(itertools.islice(lines, SNIFF_LINES))
    if not sample:
        return
    found = delimiter or _likely_delimiter(sample)
    reader = csv.reader(itertools.chain(sample, lines), delimiter=found, strict=True)
    begins = 1
    header: list[str] = []
    try:
        for fields in reader:
            if fields and not header:
                header = _header(fields, f"{name}:{begins}")
            elif fields:
                if len(fields) > len(header):
                    raise _too_many_fields(fields, header, found, f"{name}:{begins}")
                row = itertools.zip_longest(header, fields)
                yield begins, {column: value for column, value in row if column}
            begins = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"the row that begins here cannot be read with the delimiter {found!r}: {error}",
            'Put text that holds a quote, delimiter or line break into quotes, and write a quote in it as "".',
            f"{name}:{begins}",
        ) from error


def parquet(file: BinaryIO, name: str) -> Iterator[Numbered]:
    """Yield the rows of a Parquet file, with their places from 1; class numbers become the names stored in it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        opened = pq.ParquetFile(file)
        meta = opened.metadata
        num_bytes = sum(meta.row_group(group).total_byte_size for group in range(meta.num_row_groups))
        size = max(1, min(4096, PARQUET_BATCH_BYTES * max(meta.num_rows, 1) // max(num_bytes, 1)))
        names = _class_names(opened.schema_arrow)
        number = 0
        for batch in opened.iter_batches(batch_size=size):
            for record in batch.to_pylist():
                number += 1
                yield number, named_classes(record, names)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"this is no readable Parquet file: {error}", "Write the file anew.", name) from error


def named_classes(record: Record, names: dict[str, list[str]]) -> Record:
    """Replace the class numbers in a record by the names of the classes; a number without a name becomes null."""
    for column, classes in names.items():
        number = record.get(column)
        if isinstance(number, int):
            record[column] = classes[number] if 0 <= number < len(classes) else None
    return record


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Return the names behind columns of class numbers, which the `datasets` library writes into the schema."""
    try:
        metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = metadata.get("info", {}).get("features", {})
        return {k: list(v["names"]) for k, v in features.items() if v.get("_type") == "ClassLabel"}
    except (ValueError, AttributeError, KeyError, TypeError):
        return {}


def _lines(file: BinaryIO, name: str) -> Iterator[tuple[int, bytes]]:
    """Yield the lines with their numbers from 1, without a byte order mark."""
    for number in itertools.count(1):
        line = file.readline(MAX_RECORD_BYTES + 1)
        if not line:
            return
        if len(line) > MAX_RECORD_BYTES:
            raise DataError(
                f"the line is longer than {MAX_RECORD_BYTES // 2**20} MB",
                "Write one record per line.",
                f"{name}:{number}",
            )
        yield number, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line


def _decoded(line: bytes, where: str) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise _not_utf8(line, error.start, f"position {error.start + 1} of the line", where) from error


def _not_utf8(data: bytes, at: int, place: str, where: str) -> DataError:
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return DataError(
        f"byte 0x{data[at]:02X} at {place} is not UTF-8",
        f"Save the file as UTF-8: iconv -f {'UTF-16' if wide else 'WINDOWS-1252'} -t UTF-8 FILE > NEW "
        "(the encoding it has now is a guess).",
        where,
    )


def _parsed(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"the line is no valid JSON: {error.msg} at column {error.colno}",
            "Write one JSON object on each line, or the whole file as one JSON array.",
            where,
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"the line cannot be read as JSON: {error}", "Mend or remove the line.", where) from error


def _object(value: object, where: str) -> Record:
    if not isinstance(value, dict):
        raise DataError(
            f"this is {KINDS.get(type(value), 'null')}, not an object with columns",
            'Write each row as {"prompt": "..", "completion": ".."} or in another known format.',
            where,
        )
    return cast("Record", value)


def _likely_delimiter(sample: list[str]) -> str:
    """Return the delimiter that cuts the first lines into the most columns of one number; a comma if none does."""

    def sizes(delimiter: str) -> list[int]:
        try:
            return [len(row) for row in csv.reader(sample, delimiter=delimiter) if row]
        except csv.Error:
            return []

    def num_columns(delimiter: str) -> int:
        # The sample may end within a quoted field, so the last row does not count.
        found = sizes(delimiter)
        return found[0] if found and all(size == found[0] for size in found[1:-1]) else 0

    best = max(DELIMITERS, key=num_columns)
    return best if num_columns(best) > 1 else max(DELIMITERS, key=lambda delimiter: sizes(delimiter)[:1])


def _header(fields: list[str], where: str) -> list[str]:
    names = [name.strip() for name in fields]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise DataError(f"the header names {twice[0]!r} twice", "Give every column a name of its own.", where)
    return names


def _too_many_fields(fields: list[str], header: list[str], delimiter: str, where: str) -> DataError:
    return DataError(
        f"the row has {len(fields)} fields but the header {len(header)} (delimiter {delimiter!r})",
        "Put text that holds the delimiter into quotes.",
        where,
    )


class _ArrayText:
    """The text of a JSON array, read piece by piece, and the place reached in it."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.file = file
        self.name = name
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self.text = ""
        self.at = 0
        self.line = 1  # of the buffer's first character
        self.column = 1
        self.num_bytes = 0
        self.ended = False

    def more(self) -> None:
        """Drop what was read and append at least as much as is left, so that repeated attempts stay linear."""
        self.line, self.column = self._place(self.at)
        self.text = self.text[self.at :]
        self.at = 0
        data = self.file.read(max(READ_CHARS, len(self.text)))
        self.num_bytes += len(data)
        self.ended = not data
        try:
            self.text += self.decoder.decode(data, final=self.ended)
        except UnicodeDecodeError as error:
            seen = error.object  # what was left of the last piece, and this one
            line = self._place(len(self.text))[0] + seen.count(b"\n", 0, error.start)
            place = f"byte {self.num_bytes - len(seen) + error.start + 1} of the file"
            raise _not_utf8(seen, error.start, place, f"{self.name}:{line}") from error

    def next_char(self) -> str:
        """Return the next character that is not white space, without taking it; nothing at the end."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in " \t\r\n":
                self.at += 1
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self.more()

    def take(self, char: str) -> None:
        """Take the next character, which must be this one."""
        if self.next_char() != char:
            raise self.broken(f"expecting {char!r}")
        self.at += 1

    def value(self) -> object:
        """Take the next value, however many pieces it spans."""
        self.next_char()
        while True:
            try:
                value, end = json.JSONDecoder().raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos > len(self.text) - 12
                if self.ended or not cut or len(self.text) - self.at > MAX_RECORD_BYTES:
                    self.at = error.pos
                    raise self.broken(error.msg) from error
            except (ValueError, RecursionError) as error:
                raise self.broken(str(error)) from error
            else:
                if end < len(self.text) or self.ended:
                    self.at = end
                    return value
            self.more()

    def broken(self, what: str) -> DataError:
        """Return the error for the place reached."""
        line, column = self._place(self.at)
        return DataError(
            f"the file is no valid JSON array: {what} at column {column}",
            "Write one JSON array of objects, or one JSON object on each line.",
            f"{self.name}:{line}",
        )

    def _place(self, at: int) -> tuple[int, int]:
        num_lines = self.text.count("\n", 0, at)
        column = at - self.text.rfind("\n", 0, at) if num_lines else self.column + at
        return self.line + num_lines, column
