"""A job file on disk, with overrides → the resolved ``JobSpec``, and back to text.

Parsed once, at the edge: whatever is wrong with the file is a ``JobFileError`` that names file and line (or the
``--set`` that did it), the value seen and what to change. ``dump_job`` writes a resolved job so that it reads back
equal, ``job_hash`` identifies one. Whether data and models exist is left to the stages that open them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import yaml
from pydantic import JsonValue, ValidationError

from cluster.complaints import job_error, place_of, shown_value
from cluster.errors import JobFileError
from cluster.job_paths import with_absolute_paths
from cluster.located_yaml import CoreDumper, KeyPath, YamlValue, parse_yaml
from cluster.spec import JobSpec

if TYPE_CHECKING:
    from cluster.store import Store

MAX_JOB_BYTES = 1 << 20
WHOLE_KEY_BELOW = ("sweep", "space")
"""The mapping whose keys are dotted themselves: what follows it in an override is one key."""


def load_job(path: Path, overrides: Sequence[str] = ()) -> JobSpec:
    """Return the job in ``path`` with ``overrides`` (``a.b.c=VALUE``, VALUE in YAML; the last one of a key wins).

    Relative paths, in the file and in overrides, are taken from the file's directory and become absolute. Raises
    JobFileError for anything wrong with file, key or value; up to five mistakes are told at once.
    """
    return parse_job(text_of(path), str(path), path.absolute().parent, overrides)


def stored_job(store: Store, *parts: str, overrides: Sequence[str] = ()) -> JobSpec:
    """Return the resolved job that a run keeps in the store; raises what ``load_job`` raises, and StoreError."""
    return parse_job(store.get_text(*parts), store.path(*parts), Path.cwd(), overrides)


def parse_job(text: str, shown: str, directory: Path, overrides: Sequence[str]) -> JobSpec:
    """Return the job that ``text`` spells; mistakes name the file as ``shown``, paths start at ``directory``."""
    located = parse_yaml(text, lambda line: f"{shown}:{line}")
    if located.value is None:
        raise JobFileError("the job file is empty", "`hone init` writes one to start from.", shown)
    if not isinstance(located.value, dict):
        kind = "a list" if isinstance(located.value, list) else "a single value"
        raise JobFileError(
            f"the job file holds {kind}", "Write keys: name, base, data; `hone init` shows how.", f"{shown}:1"
        )
    settings, places = located.value, located.places
    for override in overrides:
        _apply(override, settings, places)
    try:
        spec = JobSpec.model_validate(settings)
    except ValidationError as error:
        raise job_error(error, JobSpec, settings, places, shown) from None
    return with_absolute_paths(spec, directory)


def derived_job(spec: JobSpec, values: Mapping[str, JsonValue]) -> JobSpec:
    """Return the single training that a job is under other ``values`` (dotted key → value), checked as overrides are.

    The sweep itself is gone from it, and an adapter's keys where the method has none. Raises JobFileError.
    """
    settings = {key: value for key, value in spec.model_dump(mode="json").items() if value is not None}
    settings.pop("sweep", None)
    places: dict[KeyPath, str] = {}
    for key, value in values.items():
        path = tuple(key.split("."))
        holder, last = _holder(path, settings, places, key)
        assert isinstance(holder, dict), "a sweep varies no list's items"
        holder[last] = cast("YamlValue", value)
        places[path] = f"{key}={shown_value(value)}"
    train = settings["train"]
    assert isinstance(train, dict), "the block of a dumped job"
    if train["method"] == "full":
        train.pop("lora", None)
    try:
        return JobSpec.model_validate(settings)
    except ValidationError as error:
        raise job_error(error, JobSpec, settings, places, "the trial's job") from None


def dump_job(spec: JobSpec) -> str:
    """Return the resolved job as YAML that ``load_job`` reads back to an equal spec, from any directory."""
    settings = {key: value for key, value in spec.model_dump(mode="json").items() if value is not None}
    return yaml.dump(settings, Dumper=CoreDumper, sort_keys=False, allow_unicode=True, width=100)


def job_hash(spec: JobSpec) -> str:
    """Return the sha256 of the resolved job's canonical JSON, as 64 hexadecimal digits."""
    canonical = json.dumps(spec.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def text_of(path: Path) -> str:
    """Return what a job or serve file holds; raises JobFileError where it is none."""
    shown = str(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_JOB_BYTES + 1)
    except FileNotFoundError:
        raise JobFileError("there is no such file", "`hone init` writes a job file to start from.", shown) from None
    except IsADirectoryError:
        raise JobFileError("this is a directory", "Name the job file in it, as job.yaml.", shown) from None
    except OSError as error:
        raise JobFileError(f"it cannot be read: {error.strerror}", "Check its permissions.", shown) from None
    if len(content) > MAX_JOB_BYTES:
        what = f"it is larger than {MAX_JOB_BYTES:,} bytes, which no job file is"
        raise JobFileError(what, "Name the job file; data goes under its key data.", shown)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        what = f"byte {content[error.start]:#04x} is not UTF-8"
        raise JobFileError(what, "Save the file as UTF-8 text.", f"{shown}:{line}") from None


def _apply(override: str, settings: dict[str, YamlValue], places: dict[KeyPath, str]) -> None:
    """Put one override into ``settings``, and its name where ``places`` named lines of the file."""
    where = f"--set {override}"
    key, equals, text = override.partition("=")
    path = _override_path(key.strip())
    if not equals or not all(path):
        raise JobFileError("this is no override", "Write --set KEY=VALUE, as --set train.epochs=2.", where)
    if not text.strip():
        raise JobFileError("the value is empty", f"Write --set {key}=null where nothing is meant.", where)
    value = parse_yaml(text, lambda _: where).value
    holder, last = _holder(path, settings, places, where)
    if isinstance(holder, list):
        holder[int(last)] = value
    else:
        holder[last] = value
    written = tuple(_as_index(part) for part in path)
    for known in [known for known in places if known[: len(path)] in (path, written)]:
        del places[known]
    for length in range(1, len(path) + 1):
        places.setdefault(path[:length], where)
        places.setdefault(written[:length], where)


def _override_path(key: str) -> tuple[str, ...]:
    parts = tuple(key.split("."))
    below = len(WHOLE_KEY_BELOW)
    if parts[:below] == WHOLE_KEY_BELOW and len(parts) > below:
        return (*WHOLE_KEY_BELOW, ".".join(parts[below:]))
    return parts


def _as_index(part: str) -> str | int:
    return int(part) if part.isdecimal() else part


def _holder(
    path: Sequence[str], settings: dict[str, YamlValue], places: Mapping[KeyPath, str], where: str
) -> tuple[dict[str, YamlValue] | list[YamlValue], str]:
    """Return the mapping or list that holds the last part of ``path``, made on the way where there is none."""
    data = settings.get("data")
    if path[0] == "data" and len(path) > 1 and isinstance(data, (str, list)):
        settings["data"] = {"train": data}
    here: dict[str, YamlValue] | list[YamlValue] = settings
    for depth, part in enumerate(path[:-1], start=1):
        above = ".".join(path[:depth])
        below = _item(here, part, above, where)
        if below is None and isinstance(here, dict):
            below = here[part] = {}
        if not isinstance(below, (dict, list)):
            at = place_of(tuple(path[:depth]), places, where)
            what = f"{above} is {shown_value(below)} (at {at}), not a block of keys"
            raise JobFileError(what, f"Set {above} as a whole.", where)
        here = below
    if isinstance(here, list):
        _item(here, path[-1], ".".join(path), where)
    return here, path[-1]


def _item(holder: dict[str, YamlValue] | list[YamlValue], part: str, key: str, where: str) -> YamlValue:
    if isinstance(holder, dict):
        return holder.get(part)
    if part.isdecimal() and int(part) < len(holder):
        return holder[int(part)]
    raise JobFileError(f"{key}: the list has {len(holder)} items, counted from 0", "Set the whole list.", where)
