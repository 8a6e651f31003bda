"""What a job names on this machine's disk → artifacts of a remote store by content hash, and a job that names those.

Nodes of a cluster do not see the disk that a job was written on. A base becomes ``bases/HASH`` and a data file
``inputs/HASH/NAME``; the job then names their URLs, which every node opens (``cluster.places``), and a chat template's
file becomes its text. What is there already is not sent again, whoever sent it. With a local home nothing moves: who
sees that home sees this disk. Left out: hub ids and URLs, which every node opens by itself, and arms of a ``serve:``
block.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from cluster.command import entry
from cluster.errors import StoreError
from cluster.manifest import content_files, content_hash
from cluster.places import is_remote
from cluster.store import Store
from cluster.sweep_spec import Choice

if TYPE_CHECKING:
    from cluster.progress import Progress
    from cluster.spec import DataSpec, JobSpec, SweepSpec

BASES, INPUTS = "bases", "inputs"


def with_stored_base(job: JobSpec, store: Store, progress: Progress) -> JobSpec:
    """Return the job as every node can run it once its data are prepared: base, template and general rows in the store.

    A base that is no model directory stays as it is, for whoever refuses it. Raises StoreError.
    """
    if store.is_local:
        return job

    def stored(base: str) -> str:
        return _stored_base(base, store, progress)

    update: dict[str, object] = {"base": stored(job.base)}
    if job.sweep is not None and "base" in job.sweep.space:
        update["sweep"] = _with_bases(job.sweep, stored)
    template = job.data.template
    if template is not None and _is_file(template):
        text = Path(template).read_text(encoding="utf-8")
        update["data"] = job.data.model_copy(update={"template": text})
    if (general := job.evaluate.general) is not None:
        rows = general.model_copy(update={"data": _stored_files(general.data, store, progress)})
        update["evaluate"] = job.evaluate.model_copy(update={"general": rows})
    return job.model_copy(update=update)


def with_stored_inputs(job: JobSpec, store: Store, progress: Progress) -> JobSpec:
    """Return the job as it can be run from another machine: the same, and its data files out of the store too.

    Raises StoreError, and DataError where a data file is missing.
    """
    job = with_stored_base(job, store, progress)
    if store.is_local:
        return job
    return job.model_copy(update={"data": _with_files(job.data, store, progress)})


def hash_of_base(base: str) -> str:
    """Return the content hash of a base in a directory or a store; empty for a hub id."""
    if is_remote(base):
        *_, kind, name = base.rsplit("/", 2)
        return name if kind == BASES else ""
    return content_hash(Path(base)) if Path(base).is_dir() else ""


def _stored_base(base: str, store: Store, progress: Progress) -> str:
    directory = Path(base)
    if not directory.is_absolute() or not (directory / "config.json").is_file():
        return base
    return _kept(store, (BASES, content_hash(directory)), content_files(directory), base, progress)


def _with_bases(sweep: SweepSpec, stored: Callable[[str], str]) -> SweepSpec:
    found = sweep.dimensions()["base"]
    assert isinstance(found, Choice), "a range of base models was refused by the spec"
    options: list[JsonValue] = [stored(str(option)) for option in found.options]
    return sweep.model_copy(update={"space": sweep.space | {"base": options}})


def _with_files(data: DataSpec, store: Store, progress: Progress) -> DataSpec:
    """Return the data block with every local file as its URL in the store."""

    def stored(sources: list[str]) -> list[str]:
        return _stored_files(sources, store, progress)

    mix = data.mix and [part.model_copy(update={"train": stored(part.train)}) for part in data.mix]
    return data.model_copy(
        update={
            "train": stored(data.train),
            "validation": stored(data.validation),
            "test": {name: stored(sources) for name, sources in data.test.items()},
            "mix": mix,
        }
    )


def _stored_files(sources: list[str], store: Store, progress: Progress) -> list[str]:
    """Return sources with every local file, the matches of a pattern each by itself, as its URL in the store."""
    files = entry("trainers.sources:source_files")
    return [_stored_file(file, store, progress) for file in files(sources)] if sources else []


def _stored_file(file: str, store: Store, progress: Progress) -> str:
    path = Path(file)
    if is_remote(file) or not path.is_file():
        return file
    return f"{_kept(store, (INPUTS, content_hash(path)), [(path.name, path)], file, progress)}/{path.name}"


def _kept(
    store: Store, parts: tuple[str, str], files: Iterable[tuple[str, Path]], source: str, progress: Progress
) -> str:
    """Return the URL of the artifact of these files, made now unless it is there."""
    url = store.path(*parts)
    if store.is_committed(*parts):
        return url
    progress.say(f"upload: {source} to {url}")
    with store.writing(*parts) as fresh:
        for name, file in files:
            target = fresh / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        copied = fresh if parts[0] == BASES else next(fresh.iterdir())
        if content_hash(copied) != parts[1]:
            raise StoreError(f"{source} changed while it was uploaded", "Let it be finished first, then try again.")
    return url


def _is_file(template: str) -> bool:
    return "\n" not in template and "{" not in template and Path(template).is_file()
