"""What an arm names as its release → the directory that holds it.

The same words as everywhere in hone: NAME@N, NAME@champion, a directory, base:PATH. An alias is settled when the arm
is served and the version it meant is kept, so that a champion that moves later does not move under a running arm.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import UsageError
from cluster.registry import Registry
from cluster.session import Settings
from cluster.store import Store

HELP = "Give NAME@N, NAME@champion, a release directory, or base:PATH."


@dataclass(frozen=True, slots=True)
class Served:
    """A release on this machine's disk; ``version`` is NAME@N, None for what is in no registry."""

    directory: str
    base: str | None = None
    version: str | None = None


def served(reference: str, settings: Settings) -> Served:
    """Return the release behind a reference. Raises UsageError where there is none."""
    if reference.startswith("base:"):
        return Served(_there(reference.removeprefix("base:"), reference))
    if "@" in reference and "/" not in reference:
        registry = Registry(settings)
        directory = _local(registry.release_of(reference), reference, settings)
        return Served(directory, _base_of(directory), _version(reference, registry))
    directory = _local(reference, reference, settings)
    return Served(directory, _base_of(directory))


def _version(reference: str, registry: Registry) -> str:
    name, _, which = reference.partition("@")
    for version in registry.list_versions(name):
        if version.ref == reference or which in version.aliases:
            return version.ref
    raise UsageError(f"there is no {reference}", HELP)


def _local(place: str, reference: str, settings: Settings) -> str:
    """Return a local directory with what lies at ``place``; a release in a remote home is brought here."""
    if place.startswith(f"{settings.home}/") and not settings.is_local:
        parts = place.removeprefix(f"{settings.home}/").split("/")
        return str(Store(settings.home).reading(*parts))
    return _there(place, reference)


def _there(path: str, reference: str) -> str:
    if not (Path(path) / "config.json").is_file() and not (Path(path) / "adapter_config.json").is_file():
        raise UsageError(f"{reference} is no release: {path} holds no model", HELP)
    return str(Path(path).resolve())


def _base_of(directory: str) -> str | None:
    """Return the base that an adapter's release.json names and that is there; None: where the adapter itself says."""
    about = Path(directory) / "release.json"
    if not (Path(directory) / "adapter_config.json").is_file() or not about.is_file():
        return None
    base = str(json.loads(about.read_text(encoding="utf-8")).get("base", ""))
    return base if base and Path(base).is_dir() else None
