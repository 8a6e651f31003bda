"""KubeRay's custom resource definitions → validators that refuse unknown fields too, which Kubernetes drops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

FILES = {
    "RayCluster": "ray.io_rayclusters.yaml",
    "RayJob": "ray.io_rayjobs.yaml",
    "RayService": "ray.io_rayservices.yaml",
}


def validator(folder: Path, kind: str) -> Draft202012Validator:
    """Return the validator of a kind's stored version."""
    definition = yaml.load((folder / FILES[kind]).read_text(), yaml.CSafeLoader)
    (stored,) = (version for version in definition["spec"]["versions"] if version["storage"])
    schema = stored["schema"]["openAPIV3Schema"]
    schema["properties"]["metadata"] = {"type": "object"}
    return Draft202012Validator(closed(schema))


def closed(schema: Any) -> Any:
    """Return a schema in which every object with known fields has no others."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not open_ended:
        found["additionalProperties"] = False
    return found


def faults(checker: Draft202012Validator, document: Any) -> list[str]:
    """Return what is wrong with a document, each with its place."""
    return [
        f"{'.'.join(map(str, error.absolute_path))}: {error.message}"[:300] for error in checker.iter_errors(document)
    ]
