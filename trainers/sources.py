"""What a job names as its data (files, globs, URLs, hub ids) → rows of messages, one at a time.

The kind of a file follows from its name: `.jsonl`, `.ndjson` and `.json` (lines, or one array), `.csv` and `.tsv`, each
packed with gzip, bzip2 or xz as well, and `.parquet`. Anything fsspec can open is read without a local copy. A hub data
set is ``OWNER/NAME``, with more behind it where needed: ``OWNER/NAME@REVISION:CONFIG/SPLIT`` or ``OWNER/NAME:SPLIT``
(train unless told); it is streamed, and code that comes with it is never run. Nothing here waits for ever: connections
time out.

The format is inferred from the first records of every file. Rows that cannot be read are recorded and skipped; a file
of which no row can be read is an error. Left out: splits, mixing weights, and everything that needs all rows at once.
"""

from __future__ import annotations

import bz2
import glob
import gzip
import io
import itertools
import lzma
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

from cluster.errors import DataError
from trainers.addresses import failure, redacted, shown_name
from trainers.formats import Layout, infer_format_of_all
from trainers.readers import Numbered, Record, delimited, json_array, json_lines, named_classes, parquet
from trainers.rows import FileReading, Row, RowMaker, SourceProblem, SourceProblems

__all__ = ["Row", "SourceProblem", "SourceProblems", "is_hub_id", "read_rows", "source_files"]

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
DELIMITED_SUFFIXES = (".csv", ".tsv")
PARQUET_SUFFIXES = (".parquet", ".pq")
KNOWN_SUFFIXES = (*JSON_SUFFIXES, *DELIMITED_SUFFIXES, *PARQUET_SUFFIXES)
PACKED: dict[str, Callable[[Any], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
HUB_ID = re.compile(
    r"(?P<name>[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?)(@(?P<revision>[\w./-]+))?(:((?P<config>[\w.-]+)/)?(?P<split>[\w.-]+))?"
)
HEAD_RECORDS = 32
CONNECT_TIMEOUT_S = 20.0
READ_TIMEOUT_S = 60.0


def read_rows(
    paths: Sequence[str], data: Layout, source: str = "train", problems: SourceProblems | None = None
) -> Iterator[Row]:
    """Yield the rows of all files in order; ``source`` is the name the rows carry.

    What is wrong with single rows, and how each file was read, goes into ``problems``. Raises DataError with
    file:line where a file cannot be read at all or holds something that no row can be made of.
    """
    problems = SourceProblems() if problems is None else problems
    for path in source_files(paths):
        yield from _rows(path, data, source, problems)


def source_files(paths: Sequence[str]) -> list[str]:
    """Return the single files and hub ids that the names stand for: globs in sorted order, every file once.

    Raises DataError where nothing is there, or a directory is.
    """
    return list(dict.fromkeys(itertools.chain.from_iterable(map(_expanded, paths))))


def is_hub_id(path: str) -> bool:
    """Say whether the name is a hub data set's: it looks like one, and is neither a data file's nor that of a file."""
    return bool(HUB_ID.fullmatch(path)) and _suffix(path) not in KNOWN_SUFFIXES and not Path(path).exists()


def _expanded(path: str) -> list[str]:
    if is_hub_id(path):
        return [path]
    if "://" in path:
        return _remote_files(path)
    local = Path(path).expanduser()
    if local.is_dir():
        inside = sorted({_suffix(file.name) for file in local.iterdir()} & set(KNOWN_SUFFIXES))
        hint = f"{local}/*{inside[0] if inside else '.jsonl'}"
        raise DataError("this is a directory, not a file", f"Name its files, for example {hint}", path)
    if local.is_file():
        return [str(local)]
    if local.exists():
        raise DataError("this is no regular file", "Write the data to a file first.", path)
    # Path.glob wants a relative pattern, and the pattern may be absolute.
    found = sorted(file for file in glob.glob(str(local), recursive=True) if Path(file).is_file())  # noqa: PTH207
    if found:
        return found
    if glob.has_magic(path):
        raise DataError("no file matches", "Check the pattern and the directory it is relative to.", path)
    raise DataError("there is no such file", "Check the path; a data set of the hub is OWNER/NAME.", path)


def _remote_files(url: str) -> list[str]:
    scheme, rest = url.split("://", 1)
    if scheme in ("http", "https") or "::" in url or not glob.has_magic(rest):
        return [url]
    system, inner = _file_system(url)
    with _naming(url):
        found = sorted(cast("list[str]", system.glob(inner)))
    if not found:
        raise DataError("no file matches", "Check the pattern.", shown_name(url))
    return [cast("str", system.unstrip_protocol(file)) for file in found]


def _rows(path: str, data: Layout, source: str, problems: SourceProblems) -> Iterator[Row]:
    name = shown_name(path)
    records = _records(path)
    head = list(itertools.islice(records, HEAD_RECORDS))
    if not head:
        raise DataError("there are no rows in it", "Check that the right file is named.", name)
    choice = infer_format_of_all([record.keys() for _, record in head], data, name)
    maker = RowMaker(data, choice, source, problems)
    reading = FileReading(name, source, choice, maker.columns_seen)
    problems.files.append(reading)
    first_problem = len(problems)
    for number, record in itertools.chain(head, records):
        reading.num_records += 1
        row = maker.row(record, f"{name}:{number}")
        if row is not None:
            reading.num_rows += 1
            yield row
    if not reading.num_rows:
        problem = problems[first_problem]
        raise DataError(
            f"none of the {reading.num_records} rows can be read as {choice.format}: {problem.detail}",
            "Columns must hold text (messages: a list of turns); flatten nested ones, or set data.format or columns.",
            problem.where,
        )


def _records(path: str) -> Iterator[Numbered]:
    """Yield the records of one file or hub data set; whatever fails on the way names the source."""
    if is_hub_id(path):
        yield from _hub_records(path)
        return
    suffix = _suffix(path)
    packing = _packing(path)
    if suffix not in KNOWN_SUFFIXES or (suffix in PARQUET_SUFFIXES and packing):
        raise DataError(
            f"the kind of this file is unknown (its name ends with {suffix or 'no ending'!r})",
            f"Use {', '.join(KNOWN_SUFFIXES)}; all but Parquet may also be packed as {', '.join(PACKED)}.",
            shown_name(path),
        )
    with _naming(path), ExitStack() as stack:
        file = _opened(path, stack)
        if suffix in PARQUET_SUFFIXES and not file.seekable():
            file = _spooled(file, stack)
        yield from _reader(suffix, file)(file, shown_name(path))


def _reader(suffix: str, file: BinaryIO) -> Callable[[BinaryIO, str], Iterator[Numbered]]:
    if suffix in PARQUET_SUFFIXES:
        return parquet
    if suffix in DELIMITED_SUFFIXES:
        return delimited if suffix == ".csv" else lambda file, name: delimited(file, name, "\t")
    head = cast("io.BufferedReader", file).peek(64).removeprefix(b"\xef\xbb\xbf").lstrip()
    return json_array if head.startswith(b"[") else json_lines


def _opened(path: str, stack: ExitStack) -> BinaryIO:
    raw: Any = stack.enter_context(_raw(path))
    if packing := _packing(path):
        raw = stack.enter_context(PACKED[packing](raw))
    if _suffix(path) in PARQUET_SUFFIXES:
        return cast("BinaryIO", raw)
    return cast("BinaryIO", raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(raw, 2**20))


def _raw(path: str) -> Any:
    if "://" not in path:
        return Path(path).open("rb")
    system, inner = _file_system(path)
    return system.open(inner, "rb")


def _spooled(file: BinaryIO, stack: ExitStack) -> BinaryIO:
    """Return a local copy of a stream that cannot jump, which Parquet needs."""
    copy = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 (the stack closes it)
    shutil.copyfileobj(file, copy)
    copy.seek(0)
    return cast("BinaryIO", copy)


def _file_system(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the path inside."""
    from fsspec.core import url_to_fs

    with _naming(url):
        return url_to_fs(url, **_connection_options(urlsplit(url).scheme))  # of a chain, the scheme is none of these


def _connection_options(scheme: str) -> dict[str, object]:
    if scheme in ("http", "https"):
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S)
        return {"client_kwargs": {"timeout": timeout}}
    if scheme in ("s3", "s3a"):
        return {"config_kwargs": {"connect_timeout": CONNECT_TIMEOUT_S, "read_timeout": READ_TIMEOUT_S}}
    return {}


def _hub_records(path: str) -> Iterator[Numbered]:
    from datasets import ClassLabel, load_dataset
    from huggingface_hub import HfApi, constants

    match = HUB_ID.fullmatch(path)
    assert match is not None, f"{path} is no hub id"
    name, revision = match["name"], match["revision"]
    with _naming(path, "There is no such file; as a hub data set: check its name, split and the network."):
        if not constants.HF_HUB_OFFLINE:  # `datasets` tries for half a minute where this fails at once
            HfApi().dataset_info(name, revision=revision, timeout=CONNECT_TIMEOUT_S)
        split = match["split"] or "train"
        rows = load_dataset(name, match["config"], split=split, revision=revision, streaming=True)
        classes = {k: list(f.names) for k, f in (rows.features or {}).items() if isinstance(f, ClassLabel)}
        for number, record in enumerate(rows, start=1):
            yield number, named_classes(cast("Record", record), classes)


@contextmanager
def _naming(path: str, remedy: str = "Check the address, the network and your rights to read it.") -> Generator[None]:
    """Turn whatever a library raises inside into a DataError that names the source."""
    name = shown_name(path)
    try:
        yield
    except DataError as error:
        if "://" not in path:
            raise
        raise DataError(redacted(error.what, path), error.remedy, error.where) from error
    except (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError) as error:
        raise DataError(f"the packed file is damaged: {error}", "Copy or pack it anew.", name) from error
    except ImportError as error:
        raise DataError(
            f"this kind of address needs a package: {redacted(str(error), path)}", "Install it.", name
        ) from error
    except Exception as error:
        raise DataError(f"it cannot be read: {failure(error, path)}", remedy, name) from error


def _packing(path: str) -> str:
    """Return the ending that says how the file is packed, or nothing."""
    ending = Path(_bare(path)).suffix
    return ending if ending in PACKED else ""


def _suffix(path: str) -> str:
    return Path(_bare(path).removesuffix(_packing(path))).suffix


def _bare(path: str) -> str:
    """Return the path of a file within its file system: of a chain of URLs, the first that has one."""
    if "://" not in path:
        return path.lower()
    return next(link for link in shown_name(path).lower().split("::") if "://" in link)
