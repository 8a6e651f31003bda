"""A cluster profile and templates → deployment files that are valid YAML whatever the profile says.

Templates are Jinja's, in a sandbox, and every value that one writes is written as JSON, which YAML contains: a name
cannot become a key, nor end its line, also in a template of an administrator's own. What comes out is parsed again,
and refused where a cluster would let everybody in. Fields are not checked against Kubernetes' definitions here (the
tests do that); the API server does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cluster.deploy.room import with_room
from cluster.errors import JobFileError, UsageError
from cluster.jobfile import dump_job, load_job
from cluster.profile_spec import GroupSpec, HeadSpec
from cluster.serve_file import load_serve

if TYPE_CHECKING:
    from cluster.profile_spec import ClusterProfile
    from cluster.serve_spec import ServeSpec
    from cluster.spec import JobSpec

KINDS = ("raycluster", "rayjob", "rayservice", "ray-up")
TEMPLATES = Path(__file__).parent
GPU_LABEL = "nvidia.com/gpu.product"
"""What NVIDIA's feature discovery calls a node's GPUs."""
SLACK_S = 3600
"""Beyond a job's own max_hours, for starting nodes and pulling images."""
CLUSTER_BLOCKS = ("rayClusterConfig", "rayClusterSpec")


def render(
    profile: ClusterProfile, kind: str, templates: Path | None = None, *, allow_unauthenticated: bool = False
) -> str:
    """Return the file of one kind. Raises JobFileError for what the profile lacks, UsageError for a template's fault.

    ``templates`` is a directory whose files take the place of ours of the same name.
    """
    text = _filled(f"{kind}.yaml.j2", _values(profile, kind), templates)
    try:
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except yaml.YAMLError as error:
        raise UsageError(f"the template of {kind} makes no YAML: {error}", "Mend the template.") from error
    if not allow_unauthenticated:
        for document in documents:
            refuse_open(document, kind)
    return text


def possible_kinds(profile: ClusterProfile) -> list[str]:
    """Return the kinds that a profile says enough for."""
    says = {"raycluster": True, "rayjob": profile.job, "rayservice": profile.serve, "ray-up": profile.cloud}
    return [kind for kind in KINDS if says[kind]]


def refuse_open(document: Any, kind: str) -> None:
    """Raise UsageError for a cluster that would run code for whoever reaches it."""
    remedy = "Let the template ask for a token, or say --allow-unauthenticated."
    if kind == "ray-up":
        starts = [*document.get("head_start_ray_commands", []), *document.get("worker_start_ray_commands", [])]
        if any("ray start" in line and "RAY_AUTH_MODE=token" not in line for line in starts):
            raise UsageError("a start command of ray-up sets no RAY_AUTH_MODE=token", remedy)
        return
    spec = document.get("spec", {}) if document.get("apiVersion", "").startswith("ray.io/") else None
    if spec is None:
        return
    cluster = next((spec[block] for block in CLUSTER_BLOCKS if block in spec), spec)
    if cluster.get("authOptions", {}).get("mode") != "token":
        raise UsageError(f"the {kind} has no authOptions.mode: token", remedy)
    for group in (cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", [])):
        container = group["template"]["spec"]["containers"][0]
        env = {variable["name"]: variable.get("value") for variable in container.get("env", [])}
        if env.get("RAY_AUTH_MODE") != "token":  # an operator that does not know authOptions drops it silently
            raise UsageError(f"the container {container['name']} of the {kind} sets no RAY_AUTH_MODE: token", remedy)


def _filled(name: str, values: Mapping[str, object], templates: Path | None) -> str:
    from jinja2 import FileSystemLoader, StrictUndefined, TemplateError, Undefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def as_json(value: object) -> object:
        return value if isinstance(value, Undefined) else yaml_value(value)

    places = [str(place) for place in (templates, TEMPLATES) if place is not None]
    environment = ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(places), undefined=StrictUndefined, finalize=as_json, autoescape=False
    )
    try:
        text = environment.get_template(name).render(values)
    except (TemplateError, TypeError, ValueError) as error:
        place = getattr(error, "name", None) or name
        raise UsageError(f"the template {place} cannot be filled: {error}", "Mend the template.") from error
    return "\n".join(line.rstrip() for line in text.strip().splitlines()) + "\n"


def yaml_value(value: object) -> str:
    """Return a value as JSON on one line, with everything escaped that YAML would not read as it stands."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(one if one.isprintable() and one not in "\x85\u2028\u2029" else _escape(one) for one in text)


def _escape(character: str) -> str:
    number = ord(character)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _values(profile: ClusterProfile, kind: str) -> dict[str, object]:
    """Return what templates may use."""
    secrets = [profile.storage_secret, profile.keys_secret if kind == "rayservice" else None]
    values: dict[str, object] = {
        "profile": profile.model_dump(mode="json"),
        "ray_version": metadata.version("ray"),
        "head": _node(profile.head),
        "groups": [_node(group) for group in profile.workers],
        "secrets": [secret for secret in secrets if secret],
        "files": {},
        "deadline_s": None,
    }
    if kind == "rayjob":
        job = _job(profile)
        values["groups"] = [_node(group) for group in with_room(profile.workers, job)]
        hours = job.cluster.max_hours
        deadline_s = None if hours is None else math.ceil(hours * 3600) + SLACK_S
        values |= {"files": {"job.yaml": dump_job(job)}, "deadline_s": deadline_s}
    elif kind == "rayservice":
        values["serve_config"] = serve_config(_serve(profile))
    elif kind == "ray-up":
        values["zones"] = _zones(profile)
    return values


def _node(spec: HeadSpec | GroupSpec) -> dict[str, object]:
    """Return what the template of a pod asks of its node, the head's missing words filled in."""
    found: dict[str, object] = {"is_head": isinstance(spec, HeadSpec), "gpus": 0, "spot": False, "grace_s": 60}
    found |= {"select": {}} | spec.model_dump(mode="json")
    if isinstance(spec, GroupSpec) and spec.gpu_type is not None:
        found["select"] = {GPU_LABEL: spec.gpu_type} | spec.select
    return found


def _job(profile: ClusterProfile) -> JobSpec:
    """Return the job of the profile. Raises JobFileError where it names files of this machine."""
    if profile.job is None:
        raise JobFileError("the profile names no job", "Add job: job.yaml.", "job")
    job = load_job(Path(profile.job))
    tests = [source for sources in job.data.test.values() for source in sources]
    mixed = [source for part in job.data.mix or [] for source in part.train]
    _refuse_local([job.base, *job.data.train, *job.data.validation, *tests, *mixed], profile.job)
    return job


def _serve(profile: ClusterProfile) -> ServeSpec:
    if profile.serve is None:
        raise JobFileError("the profile names no serve file", "Add serve: serve.yaml.", "serve")
    if profile.keys_secret is None:
        what = "an endpoint on a cluster is reached from other machines, and the profile names no keys"
        raise JobFileError(what, "Add keys_secret: a secret with HONE_API_KEYS.", "keys_secret")
    if not any(group.min for group in profile.workers):
        what = "an endpoint answers at any time, and every group of the profile may have no node"
        raise JobFileError(what, "Give a group min: 1 or more.", "workers")
    spec = load_serve(profile.serve)
    _refuse_local([arm.release.removeprefix("base:") for arm in spec.arms.values()], profile.serve)
    return spec


def _refuse_local(places: Sequence[str], file: str) -> None:
    local = [place for place in places if place.startswith("/")]
    if local:
        what = f"{local[0]} lies on this machine, and the cluster's nodes are others"
        raise JobFileError(what, "Name an URL, a hub id or NAME@N; hone submit uploads what is local.", file)


def _zones(profile: ClusterProfile) -> str:
    if profile.cloud is None:
        raise JobFileError("the profile says no cloud", "Add cloud: {region: REGION}.", "cloud")
    missing = [group.name for group in profile.workers if group.instance_type is None]
    if profile.head.instance_type is None or missing:
        who = "head" if profile.head.instance_type is None else f"group {missing[0]}"
        raise JobFileError(f"the {who} has no instance_type", "ray-up asks for machines by type.", "workers")
    return ",".join(f"{profile.cloud.region}{zone}" for zone in profile.cloud.zones)


def serve_config(spec: ServeSpec) -> str:
    """Return the Ray Serve configuration of a cluster that keeps one endpoint: the keeper brings the rest up."""
    keeper = {
        "name": "hone-keeper",
        "route_prefix": None,
        "import_path": "serving.rayservice:application",
        "args": {"serve": spec.model_dump(mode="json")},
    }
    config = {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": 8000},
        "applications": [keeper],
    }
    return yaml.safe_dump(config, sort_keys=False)
