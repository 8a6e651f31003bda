"""A serve file, a job file with a ``serve:`` block, or one release → the resolved ``ServeSpec``.

Parsed once, at the edge, with the job file's own complaints (file and line, the value seen, what to change). A single
release needs no file: it is the only arm of an endpoint of its model's name.
"""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import ValidationError

from cluster.complaints import job_error
from cluster.errors import JobFileError, UsageError
from cluster.job_paths import with_absolute_releases
from cluster.jobfile import load_job, text_of
from cluster.located_yaml import parse_yaml
from cluster.serve_spec import ArmSpec, ServeSpec

YAML_ENDINGS = frozenset({".yaml", ".yml"})
ONLY_ARM = "main"


def load_serve(what: str, endpoint: str | None = None) -> ServeSpec:
    """Return the endpoint that a file describes, or the one that serves a single release under ``endpoint``.

    Raises JobFileError for anything wrong with a file, UsageError for a name that makes no endpoint.
    """
    if Path(what).suffix in YAML_ENDINGS:
        spec = _from_file(Path(what))
        return spec if endpoint is None else spec.model_copy(update={"endpoint": endpoint})
    name = endpoint or _name_of(what)
    try:
        spec = ServeSpec(endpoint=name, arms={ONLY_ARM: ArmSpec(release=what, weight=1.0)})
    except ValidationError:
        raise UsageError(
            f"{what!r} as {name!r} makes no endpoint", "Give NAME@N or a directory, and --endpoint NAME."
        ) from None
    return with_absolute_releases(spec, Path.cwd())


def _from_file(path: Path) -> ServeSpec:
    shown = str(path)
    located = parse_yaml(text_of(path), lambda line: f"{shown}:{line}")
    settings = located.value
    if not isinstance(settings, dict):
        raise JobFileError("the serve file holds no keys", "Write keys: endpoint, arms.", shown)
    if "base" in settings or "data" in settings:
        job = load_job(path)
        if job.serve is None:
            raise JobFileError("the job has no serve block", "Add serve: {endpoint: NAME, arms: {…}}.", shown)
        return job.serve
    try:
        spec = ServeSpec.model_validate(settings)
    except ValidationError as error:
        raise job_error(error, ServeSpec, settings, located.places, shown) from None
    return with_absolute_releases(spec, path.absolute().parent)


def _name_of(release: str) -> str:
    """Return NAME of NAME@N, or what a directory's name says, as an endpoint's name."""
    own = release.removeprefix("base:")
    word = own.partition("@")[0] if "@" in own and "/" not in own else Path(own).name
    return re.sub(r"[^a-z0-9-]+", "-", word.lower()).strip("-")[:63]
