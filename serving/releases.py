"""What an arm names as its release → the directory or URL that holds it.

The same words as everywhere in hone: NAME@N, NAME@champion, a directory, a URL in a store, base:PATH. An alias is
settled when the arm is served and the version it meant is kept, so that a champion that moves later does not move under
a running arm.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import UsageError
from cluster.places import is_remote, local_directory
from cluster.registry import Registry
from cluster.session import Settings

HELP = "Give NAME@N, NAME@champion, a release directory, or base:PATH."


@dataclass(frozen=True, slots=True)
class Served:
    """A release in a directory or at a URL; ``version`` is NAME@N, None for what is in no registry."""

    directory: str
    base: str | None = None
    version: str | None = None


def served(reference: str, settings: Settings) -> Served:
    """Return the release behind a reference. Raises UsageError where there is none."""
    if reference.startswith("base:"):
        return Served(_found(reference.removeprefix("base:"), reference))
    if "@" in reference and "/" not in reference:
        registry = Registry(settings)
        directory = _found(registry.release_of(reference), reference)
        return Served(directory, _base_of(directory), _version(reference, registry))
    directory = _found(reference, reference)
    return Served(directory, _base_of(directory))


def _version(reference: str, registry: Registry) -> str:
    name, _, which = reference.partition("@")
    for version in registry.list_versions(name):
        if version.ref == reference or which in version.aliases:
            return version.ref
    raise UsageError(f"there is no {reference}", HELP)


def _found(place: str, reference: str) -> str:
    """Return the place of a release, a directory or URL, as every replica opens it; it is looked at here."""
    directory = Path(local_directory(place))
    if not (directory / "config.json").is_file() and not (directory / "adapter_config.json").is_file():
        raise UsageError(f"{reference} is no release: {place} holds no model", HELP)
    return place if is_remote(place) else str(directory.resolve())


def _base_of(place: str) -> str | None:
    """Return the base that an adapter's release.json names and that is there; None: where the adapter itself says."""
    directory = Path(local_directory(place))
    about = directory / "release.json"
    if not (directory / "adapter_config.json").is_file() or not about.is_file():
        return None
    base = str(json.loads(about.read_text(encoding="utf-8")).get("base", ""))
    return base if base and (is_remote(base) or Path(base).is_dir()) else None
