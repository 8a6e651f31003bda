"""Deployment files are valid whatever a profile says: by KubeRay's definitions, Ray's own loaders, and a parser."""

from __future__ import annotations

import json
import string
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.cli import main
from cluster.deploy.render import KINDS, TEMPLATES, possible_kinds, render, yaml_value
from cluster.errors import JobFileError, UsageError
from cluster.profile_file import load_profile
from cluster.profile_spec import ClusterProfile
from tests.custom_resources import FILES, faults, validator
from tests.dockerfiles import instructions

ROOT = Path(__file__).parents[2]
PROFILE = """\
name: tuning
image: example.org/ml/hone:0.1.0-cuda
storage: s3://models/hone
storage_secret: hone-s3
token_secret: hone-ray-token
database_secret: hone-db
keys_secret: hone-keys
head: {cpus: 4, memory_gib: 16, instance_type: m5.xlarge}
workers:
  - {name: cpu, cpus: 8, memory_gib: 32, min: 1, max: 4, instance_type: m5.2xlarge}
  - {name: gpu, cpus: 32, memory_gib: 128, gpus: 4, gpu_type: NVIDIA-A10G, max: 8, spot: true, grace_s: 60,
     instance_type: g5.12xlarge}
job: job.yaml
serve: serve.yaml
cloud: {region: eu-central-1, zones: [a, b]}
"""
JOB = "name: router\nbase: org/small\ndata: s3://models/tickets.jsonl\ncluster: {workers: 4, max_hours: 2}\n"
SERVE = "endpoint: support\narms:\n  control: {release: router@1, weight: 100}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    for name, text in (("profile.yaml", PROFILE), ("job.yaml", JOB), ("serve.yaml", SERVE)):
        (tmp_path / name).write_text(text)
    return tmp_path / "profile.yaml"


@pytest.fixture(scope="session")
def definitions(realdata: Path) -> dict[str, Any]:
    return {kind: validator(realdata / "kuberay", kind) for kind in FILES}


def documents(text: str) -> list[Any]:
    return [document for document in yaml.safe_load_all(text) if document]


def resource(profile: ClusterProfile, kind: str) -> Any:
    (found,) = (one for one in documents(render(profile, kind)) if one["apiVersion"] == "ray.io/v1")
    return found


def test_every_manifest_is_what_kuberay_defines_and_nothing_else(file: Path, definitions: dict[str, Any]):
    profile = load_profile(file)
    for kind in KINDS[:3]:
        found = resource(profile, kind)
        assert faults(definitions[found["kind"]], found) == []


def test_a_field_that_kubernetes_would_drop_is_found(file: Path, definitions: dict[str, Any]):
    found = resource(load_profile(file), "raycluster")
    found["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["lifeCycle"] = {}
    assert "'lifeCycle' was unexpected" in faults(definitions["RayCluster"], found)[0]


def names(alphabet: str, most: int) -> st.SearchStrategy[str]:
    letters = st.text(alphabet, max_size=most)
    return letters.map(lambda text: f"a{text}z")


GROUPS = st.fixed_dictionaries(
    {
        "cpus": st.integers(1, 1024),
        "memory_gib": st.integers(1, 32768),
        "gpus": st.integers(0, 64),
        "max": st.integers(1, 10000),
        "spot": st.booleans(),
        "grace_s": st.integers(15, 3600),
        "select": st.dictionaries(names(string.ascii_lowercase, 9), names(string.ascii_letters, 9), max_size=2),
    }
)
PROFILES = st.fixed_dictionaries(
    {
        "name": names(string.ascii_lowercase + "-", 38),
        "image": st.sampled_from(["hone:1", "r.example:5000/a/b:v_1.2-x", f"a/b@sha256:{'0' * 64}"]),
        "storage": st.sampled_from(["s3://b/p", "gs://bucket", "abfs://c/x_y=1"]),
        "token_secret": names(string.ascii_lowercase + ".-", 20),
        "database_secret": names(string.digits, 5),
        "groups": st.lists(GROUPS, min_size=1, max_size=3),
    },
    optional={"storage_secret": names(string.ascii_lowercase, 9), "idle_timeout_s": st.integers(30, 86400)},
)


@given(PROFILES)
@settings(max_examples=25, deadline=None)
def test_whatever_a_profile_says_its_cluster_is_valid_and_asks_for_a_token(
    definitions: dict[str, Any], says: dict[str, Any]
):
    groups = [group | {"name": f"g{place}"} for place, group in enumerate(says.pop("groups"))]
    profile = ClusterProfile.model_validate(says | {"workers": groups})
    found = resource(profile, "raycluster")
    assert faults(definitions["RayCluster"], found) == []
    assert found["spec"]["authOptions"] == {"mode": "token", "secretName": says["token_secret"]}
    assert found["metadata"]["name"] == says["name"]
    assert [group["maxReplicas"] for group in found["spec"]["workerGroupSpecs"]] == [group["max"] for group in groups]


@given(st.recursive(st.text() | st.integers() | st.booleans() | st.none(), lambda part: st.lists(part, max_size=3)))
def test_a_value_in_a_template_is_read_back_as_itself(value: object):
    assert yaml.safe_load(f"key: {yaml_value(value)}") == {"key": value}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "a\\nkind: Pod"),
        ("name", "Tuning"),
        ("image", "hone:latest"),
        ("image", "hone"),
        ("image", "hone:1 --privileged"),
        ("storage", "/models"),
        ("storage", "s3://user:secret@models"),
        ("storage", "s3://models/$(id)"),
        ("token_secret", "x; id"),
        ("idle_timeout_s", 0),
    ],
)
def test_a_value_that_would_be_more_than_itself_is_refused_with_its_line(file: Path, key: str, value: object):
    lines = [line for line in PROFILE.splitlines() if not line.startswith(f"{key}:")]
    file.write_text("\n".join([*lines, f'{key}: "{value}"' if isinstance(value, str) else f"{key}: {value}"]))
    with pytest.raises(JobFileError) as refused:
        load_profile(file)
    assert f"profile.yaml:{len(lines) + 1}" in str(refused.value)


def test_an_unknown_key_is_refused_with_what_was_meant(file: Path):
    file.write_text(PROFILE.replace("gpu_type:", "gpu_typ:"))
    with pytest.raises(
        JobFileError, match=r"workers\.1\.gpu_typ is no key of a cluster profile; did you mean gpu_type\?"
    ):
        load_profile(file)


def test_spot_nodes_are_drained_before_they_are_ended(file: Path):
    template = resource(load_profile(file), "raycluster")["spec"]["workerGroupSpecs"][1]["template"]["spec"]
    hook = template["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert hook == ["python", "-m", "cluster.drain", "--seconds", "50"]
    assert template["terminationGracePeriodSeconds"] == 60
    assert {
        "key": "cloud.google.com/gke-spot",
        "operator": "Equal",
        "value": "true",
        "effect": "NoSchedule",
    } in template["tolerations"]


def test_a_job_travels_as_a_file_and_not_in_a_shell_line(file: Path):
    config, job = documents(render(load_profile(file), "rayjob"))
    assert job["spec"]["entrypoint"] == "hone run /etc/hone/job.yaml"
    assert yaml.safe_load(config["data"]["job.yaml"])["data"]["train"] == ["s3://models/tickets.jsonl"]
    assert job["spec"]["activeDeadlineSeconds"] == 3 * 3600


@pytest.mark.parametrize(
    ("cluster", "nodes"),
    [
        ("{workers: 4}", [1, 1]),
        ("{workers: 9}", [1, 3]),
        ("{workers: {min: 5, max: 32}}", [1, 2]),
        ("{workers: 2, cpus_per_worker: 32}", [1, 2]),
        ("{workers: 4, gpus_per_worker: 4}", [1, 4]),
    ],
)
def test_a_job_begins_with_the_nodes_that_its_plan_needs(file: Path, cluster: str, nodes: list[int]):
    (file.parent / "job.yaml").write_text(JOB.replace("{workers: 4, max_hours: 2}", cluster))
    groups = resource(load_profile(file), "rayjob")["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert [group["minReplicas"] for group in groups] == nodes


def test_a_job_that_no_group_can_hold_is_refused_with_numbers(file: Path, capsys: pytest.CaptureFixture[str]):
    (file.parent / "job.yaml").write_text(JOB.replace("workers: 4", "workers: 33"))
    assert main(["cluster", "render", str(file), "--kind", "rayjob"]) == 4
    assert "needs 33 workers, and the group gpu has at most 8 nodes" in capsys.readouterr().err


def test_a_job_with_files_of_this_machine_is_refused(file: Path):
    (file.parent / "job.yaml").write_text(JOB.replace("s3://models/", "./"))
    with pytest.raises(JobFileError, match="lies on this machine"):
        render(load_profile(file), "rayjob")


def test_serve_takes_the_configuration_of_a_service(file: Path):
    from ray.serve.schema import ServeDeploySchema

    config = yaml.safe_load(resource(load_profile(file), "rayservice")["spec"]["serveConfigV2"])
    (keeper,) = ServeDeploySchema.model_validate(config).applications
    module, name = keeper.import_path.split(":")
    assert callable(getattr(__import__(module, fromlist=[name]), name))


def test_a_service_without_keys_is_refused(file: Path):
    file.write_text(PROFILE.replace("keys_secret: hone-keys\n", ""))
    with pytest.raises(JobFileError, match="names no keys"):
        render(load_profile(file), "rayservice")


def test_a_service_on_groups_that_may_be_empty_is_refused(file: Path):
    file.write_text(PROFILE.replace("min: 1, ", ""))
    with pytest.raises(JobFileError, match="answers at any time"):
        render(load_profile(file), "rayservice")


def test_ray_up_takes_the_cluster_and_listens_on_loopback(file: Path):
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = documents(render(load_profile(file), "ray-up"))[0]
    validate_config(prepare_config(config))
    (head,) = (line for line in config["head_start_ray_commands"] if "--head" in line)
    assert "--dashboard-host=127.0.0.1" in head
    assert "RAY_AUTH_MODE=token" in head


def test_ray_up_without_machine_types_is_refused(file: Path):
    file.write_text(PROFILE.replace(", instance_type: m5.2xlarge", ""))
    with pytest.raises(JobFileError, match="group cpu has no instance_type"):
        render(load_profile(file), "ray-up")


def test_an_administrators_template_takes_ours_place_and_cannot_leave_the_token_out(file: Path, tmp_path: Path):
    own = tmp_path / "templates"
    own.mkdir()
    ours = (TEMPLATES / "_cluster.yaml.j2").read_text()
    (own / "_cluster.yaml.j2").write_text(ours.replace("idleTimeoutSeconds:", "idleTimeoutSeconds: 77 #"))
    assert "idleTimeoutSeconds: 77" in render(load_profile(file), "raycluster", own)
    (own / "_cluster.yaml.j2").write_text(ours.replace("mode: token", "mode: disabled"))
    with pytest.raises(UsageError, match="no authOptions"):
        render(load_profile(file), "raycluster", own)
    assert "mode: disabled" in render(load_profile(file), "raycluster", own, allow_unauthenticated=True)
    (own / "_pod.yaml.j2").write_text((TEMPLATES / "_pod.yaml.j2").read_text().replace("value: token", "value: no"))
    (own / "_cluster.yaml.j2").unlink()
    with pytest.raises(UsageError, match="sets no RAY_AUTH_MODE"):
        render(load_profile(file), "raycluster", own)


def test_a_template_reaches_nothing_but_its_values(file: Path, tmp_path: Path):
    (tmp_path / "raycluster.yaml.j2").write_text("a: {{ ''.__class__.__mro__ }}")
    with pytest.raises(UsageError, match="cannot be filled"):
        render(load_profile(file), "raycluster", tmp_path)


def test_render_writes_what_the_profile_says_enough_for(file: Path, capsys: pytest.CaptureFixture[str]):
    out = file.parent / "out"
    assert main(["cluster", "render", str(file), "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == [str(out / f"{kind}.yaml") for kind in KINDS]
    file.write_text("\n".join(line for line in PROFILE.splitlines() if not line.startswith(("job:", "cloud:"))))
    assert possible_kinds(load_profile(file)) == ["raycluster", "rayservice"]
    assert main(["cluster", "render", str(file), "--kind", "rayjob"]) == 2
    assert "names no job" in capsys.readouterr().err
    assert main(["cluster", "render", str(file), "--allow-unauthenticated"]) == 0
    assert "warning:" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["Dockerfile.cpu", "Dockerfile.cuda"])
def test_images_hold_what_is_there_and_run_as_a_user(name: str):
    found = instructions(TEMPLATES / name)
    assert found[0].word == "FROM"
    image, _, tag = found[0].rest.partition(":")
    assert tag not in ("", "latest")
    assert image.count("/") < 2, "a base image is named without a registry"
    copied = [word for one in found if one.word == "COPY" for word in one.words()[:-1]]
    assert {"constraints.txt", "cluster", "serving"} <= set(copied)
    assert all((ROOT / source).exists() for source in copied)
    installs = [one.rest for one in found if one.word == "RUN" and "pip install" in one.rest]
    assert installs
    assert all("-c constraints.txt" in line for line in installs)
    assert [one.rest for one in found if one.word == "USER"] == ["hone"]
    assert not any("http" in one.rest for one in found)
    ignored = (TEMPLATES / f"{name}.dockerignore").read_text().splitlines()
    assert ignored[1] == "*"
    assert {f"!{source}" for source in copied} == {line for line in ignored if line.startswith("!")}


def test_templates_are_installed_with_the_package():
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = tool["package-data"]["cluster.deploy"]
    kept = {path for pattern in patterns for path in TEMPLATES.glob(pattern)}
    assert {path.name for path in TEMPLATES.iterdir() if path.suffix not in (".py", "")} <= {p.name for p in kept} | {
        ""
    }
    assert "cluster.deploy" in tool["packages"]
