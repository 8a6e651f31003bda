"""The cluster profile: what somebody wants of a cluster, in a few words; how it is built is the templates' business.

`hone cluster render` fills deployment templates with it, `hone gc` takes its retention. Every value is bound by a
pattern that leaves no room for anything but itself, since it ends up in manifests and start commands. Left out:
passwords; a profile names secrets, and never holds one.
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from cluster.blocks import Block, refusal

LABEL = r"^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$"
SECRET = r"^[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?$"
IMAGE = (
    r"^[a-z0-9][a-z0-9._-]*(:[0-9]{1,5})?(/[a-z0-9][a-z0-9._-]*){0,6}"
    r"(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}|@sha256:[0-9a-f]{64})$"
)
STORAGE = r"^[a-z][a-z0-9+.-]*://[A-Za-z0-9][A-Za-z0-9._/=-]*$"
LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")

Label = Annotated[str, Field(pattern=LABEL)]
Secret = Annotated[str, Field(pattern=SECRET)]
Instance = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,30}\.[a-z0-9-]{1,30}$")]
Cpus = Annotated[int, Field(ge=1, le=1024)]
Memory = Annotated[int, Field(ge=1, le=32768)]
Days = Annotated[float, Field(ge=0, le=36500)]


class HeadSpec(Block):
    """The node that directs the others; no training runs on it."""

    cpus: Cpus = Field(default=4, description="Processors, 1 to 1024.")
    memory_gib: Memory = Field(default=16, description="Memory in GiB, 1 to 32768.")
    instance_type: Instance | None = Field(default=None, description="Machine type, for `ray-up` only (m5.xlarge).")


class GroupSpec(Block):
    """Nodes of one kind, added and removed as they are needed."""

    name: Label = Field(description="The group's name: lower-case letters, digits, hyphens, at most 40.")
    cpus: Cpus = Field(description="Processors of a node, 1 to 1024.")
    memory_gib: Memory = Field(description="Memory of a node in GiB, 1 to 32768.")
    gpus: int = Field(default=0, ge=0, le=64, description="GPUs of a node, 0 to 64.")
    gpu_type: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$", description="The GPUs' product name."
    )
    min: int = Field(default=0, ge=0, le=10000, description="Nodes that are always there, at least 0.")
    max: int = Field(default=1, ge=1, le=10000, description="Most nodes at once, at least 1.")
    spot: bool = Field(default=False, description="Whether the cloud may take the nodes away at short notice.")
    grace_s: int = Field(
        default=120,
        ge=15,
        le=3600,
        description="Seconds from the notice to a node's end, 15 to 3600; spot: the cloud's.",
    )
    select: dict[str, str] = Field(default_factory=dict, description="Node labels that the group asks for.")
    instance_type: Instance | None = Field(default=None, description="Machine type, for `ray-up` only (g5.2xlarge).")

    @model_validator(mode="after")
    def _bounds_and_labels(self) -> Self:
        if self.min > self.max:
            raise refusal(["min"], f"min {self.min} is more than max {self.max}", "Lower min, or raise max.")
        if self.gpu_type is not None and self.gpus == 0:
            raise refusal(["gpu_type"], "a type of GPU is named, and gpus is 0", "Set gpus, or remove gpu_type.")
        for key, value in self.select.items():
            if not LABEL_KEY.fullmatch(key) or not LABEL_VALUE.fullmatch(value):
                raise refusal(["select"], f"{key}: {value} is no label of a node", "Write LABEL: VALUE, as Kubernetes.")
        return self


class RetentionSpec(Block):
    """What `hone gc` leaves alone, by age."""

    runs_days: Days = Field(default=90.0, description="Days that an ended run without a version is kept, at least 0.")
    checkpoints_days: Days = Field(default=14.0, description="Days that an ended run can be gone on with, at least 0.")
    caches_days: Days = Field(default=30.0, description="Days that prepared data nobody uses is kept, at least 0.")


class CloudSpec(Block):
    """Where `ray up` starts machines."""

    region: str = Field(pattern=r"^[a-z]{2}(-[a-z]+){1,2}-[0-9]$", description="The region of AWS, as eu-central-1.")
    zones: list[Annotated[str, Field(pattern=r"^[a-z]$")]] = Field(
        default_factory=list, description="Letters of its zones; empty: all."
    )
    ssh_user: Label = Field(default="ubuntu", description="Who logs in on the machines.")


class ClusterProfile(Block):
    """A Ray cluster for hone."""

    called: ClassVar[str] = "a cluster profile"

    name: Label = Field(description="The cluster's name: lower-case letters, digits, hyphens, at most 40.")
    image: str = Field(pattern=IMAGE, description="The image of all nodes, with a tag that is not latest, or a digest.")
    storage: str = Field(pattern=STORAGE, description="HONE_HOME: an URL that all nodes reach, as s3://BUCKET/PATH.")
    token_secret: Secret = Field(description="Secret whose key auth_token is the cluster's token.")
    database_secret: Secret = Field(description="Secret whose key HONE_DB is the PostgreSQL URL.")
    storage_secret: Secret | None = Field(default=None, description="Secret whose keys are the storage's variables.")
    keys_secret: Secret | None = Field(
        default=None, description="Secret with HONE_API_KEYS and HONE_ADMIN_KEY, for `rayservice`."
    )
    head: HeadSpec = Field(default_factory=HeadSpec, description="The node that directs the others.")
    workers: list[GroupSpec] = Field(min_length=1, max_length=40, description="Groups of nodes that do the work.")
    idle_timeout_s: int = Field(
        default=300, ge=30, le=86400, description="Seconds without work after which a node is given back, 30 to 86400."
    )
    job: str | None = Field(default=None, min_length=1, description="The job file that `rayjob` runs.")
    serve: str | None = Field(default=None, min_length=1, description="The serve file that `rayservice` serves.")
    cloud: CloudSpec | None = Field(default=None, description="Where `ray-up` starts machines.")
    retention: RetentionSpec = Field(default_factory=RetentionSpec, description="What `hone gc` leaves alone.")

    @model_validator(mode="after")
    def _names_are_told_apart(self) -> Self:
        if self.image.endswith(":latest"):
            raise refusal(["image"], f"{self.image} means another image every day", "Name a version, or a digest.")
        names = [group.name for group in self.workers]
        for place, name in enumerate(names):
            if name in names[:place] or name in ("head", "headgroup"):
                raise refusal(["workers", place, "name"], f"{name!r} is taken", "Give every group its own name.")
        return self
