"""Relative paths of a job → absolute ones; hub ids and URLs stay as they are.

A job file may travel and a run's working directory is not the file's, so every local path is fixed at the edge, from
the file's directory. What could be both is a path where it exists or looks like one (``./``, a data file's ending, a
glob) and a hub id otherwise; a path that is missing stays a path, for a later error that names it in full.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from pydantic import JsonValue

from cluster.serve_spec import ServeSpec
from cluster.spec import DataSpec, JobSpec
from cluster.sweep_spec import Choice, Expression

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?([:@][\w./-]+){0,2}")
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(::|://).*")
EXPLICIT = re.compile(r"(\.{1,2}|~)(/.*)?|/.*")
TEXT_ENDINGS = frozenset({".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".txt"})
DATA_ENDINGS = TEXT_ENDINGS | {".gz", ".bz2", ".xz", ".zst", ".zip"}
TEMPLATE_ENDINGS = frozenset({".jinja", ".jinja2", ".j2", ".txt"})


def with_absolute_paths(spec: JobSpec, directory: Path) -> JobSpec:
    """Return the job with every local path made absolute, relative ones taken from ``directory``."""
    update: dict[str, object] = {
        "base": _model(spec.base, directory),
        "data": _data(spec.data, directory),
    }
    if spec.sweep is not None and "base" in spec.sweep.space:
        space = spec.sweep.space | {"base": _bases(spec, directory)}
        update["sweep"] = spec.sweep.model_copy(update={"space": space})
    if (general := spec.evaluate.general) is not None:
        placed = general.model_copy(update={"data": [_source(source, directory) for source in general.data]})
        update["evaluate"] = spec.evaluate.model_copy(update={"general": placed})
    if spec.serve is not None:
        update["serve"] = with_absolute_releases(spec.serve, directory)
    return spec.model_copy(update=update)


def with_absolute_releases(spec: ServeSpec, directory: Path) -> ServeSpec:
    """Return the endpoint with every arm's local directory made absolute, relative ones taken from ``directory``."""
    arms = {
        name: arm.model_copy(update={"release": _release(arm.release, directory)}) for name, arm in spec.arms.items()
    }
    return spec.model_copy(update={"arms": arms})


def _absolute(path: str, directory: Path) -> str:
    # Lexically, so that a symbolic link keeps the name the user gave it. An unknown ~user stays a plain name, where
    # Path.expanduser raises.
    own = path if "\0" in path else os.path.expanduser(path)  # noqa: PTH111 (a NUL names nothing, and is refused later)
    return os.path.normpath(directory / own)


def _is_there(path: str, directory: Path) -> bool:
    return os.path.lexists(directory / path)


def _model(base: str, directory: Path) -> str:
    if URL.fullmatch(base):
        return base
    local = EXPLICIT.fullmatch(base) or _is_there(base, directory) or not HUB_ID.fullmatch(base)
    return _absolute(base, directory) if local else base


def _release(release: str, directory: Path) -> str:
    if release.startswith("base:"):
        return f"base:{_model(release.removeprefix('base:'), directory)}"
    return _model(release, directory)


def _bases(spec: JobSpec, directory: Path) -> Expression:
    assert spec.sweep is not None
    found = spec.sweep.dimensions()["base"]
    assert isinstance(found, Choice), "a range of base models was refused by the spec"
    options: list[JsonValue] = [_model(str(option), directory) for option in found.options]
    return options


def _source(source: str, directory: Path) -> str:
    if URL.fullmatch(source):
        return source
    looks_local = Path(source).suffix.lower() in DATA_ENDINGS or any(mark in source for mark in "*?[")
    local = EXPLICIT.fullmatch(source) or looks_local or _is_there(source, directory) or not HUB_ID.fullmatch(source)
    return _absolute(source, directory) if local else source


def _template(template: str | None, directory: Path) -> str | None:
    if template is None or "{" in template or "\n" in template:
        return template
    looks_local = EXPLICIT.fullmatch(template) or Path(template).suffix in TEMPLATE_ENDINGS
    return _absolute(template, directory) if looks_local or _is_there(template, directory) else template


def _data(data: DataSpec, directory: Path) -> DataSpec:
    def place(sources: list[str]) -> list[str]:
        return [_source(source, directory) for source in sources]

    mix = None
    if data.mix is not None:
        mix = [source.model_copy(update={"train": place(source.train)}) for source in data.mix]
    return data.model_copy(
        update={
            "train": place(data.train),
            "validation": place(data.validation),
            "test": {name: place(sources) for name, sources in data.test.items()},
            "template": _template(data.template, directory),
            "mix": mix,
        }
    )
