"""A cluster profile on disk → the resolved ``ClusterProfile``; complaints name file and line, as a job's do."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from cluster.complaints import job_error
from cluster.errors import JobFileError
from cluster.jobfile import text_of
from cluster.located_yaml import parse_yaml
from cluster.profile_spec import ClusterProfile


def load_profile(path: Path) -> ClusterProfile:
    """Return the profile in ``path``, its file names absolute. Raises JobFileError for anything wrong with it."""
    shown = str(path)
    located = parse_yaml(text_of(path), lambda line: f"{shown}:{line}")
    if not isinstance(located.value, dict):
        raise JobFileError("the profile holds no keys", "Write keys: name, image, storage, workers, ….", shown)
    try:
        profile = ClusterProfile.model_validate(located.value)
    except ValidationError as error:
        raise job_error(error, ClusterProfile, located.value, located.places, shown) from None
    beside = path.absolute().parent
    files = {key: str(beside / name) for key in ("job", "serve") if (name := getattr(profile, key)) is not None}
    return profile.model_copy(update=files)
