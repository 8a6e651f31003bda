"""Addresses of heads, what is read from their answers, and what a user is told of theirs."""

from __future__ import annotations

import pytest

from cluster.capacity import Capacity, NodeCapacity
from cluster.errors import UsageError
from cluster.jobs import _view, checked_address
from cluster.offer import Offer, node_capacity, usage_by_node
from cluster.redaction import has_password, without_passwords
from cluster.session import Settings
from cluster.submissions import View
from cluster.submit import Parcel, held_back, parcel, room
from tests.plans import a_plan


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("http://head:8265", "http://head:8265"),
        ("head:8265", "http://head:8265"),
        ("head", "http://head:8265"),
        ("https://head", "https://head:443"),
        ("http://10.0.0.4:80/", "http://10.0.0.4:80"),
        ("http://[::1]:8265", "http://[::1]:8265"),
    ],
)
def test_an_address_is_completed(text: str, address: str) -> None:
    assert checked_address(text) == address


@pytest.mark.parametrize(
    "text", ["", "ray://head:10001", "http://", "http://head:port", "http://head/x", "http://head?x=1", "ftp://head"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not the address"):
        checked_address(text)


def test_a_password_in_an_address_is_refused_without_being_shown() -> None:
    with pytest.raises(UsageError) as refused:
        checked_address("http://me:hunter2@head:8265")
    assert "hunter2" not in str(refused.value)


def test_a_node_is_read_with_what_is_free_on_it() -> None:
    told = {
        "raylet": {
            "nodeId": "n1",
            "nodeManagerHostname": "h1",
            "resourcesTotal": {"CPU": 8.0, "GPU": 2.0, "memory": 1e9},
        },
        "gpus": [{"memoryTotal": 81920}, {"memoryTotal": 40960}],
    }
    report = {"clusterStatus": {"loadMetricsReport": {"usageByNode": {"n1": {"CPU": [3.0, 8.0], "GPU": [2.0, 2.0]}}}}}
    node = node_capacity(told, usage_by_node(report))
    assert (node.cpus, node.gpus, node.free_cpus, node.free_gpus) == (8, 2, 5, 0)
    assert (node.gpu_memory_bytes, node.host) == (40960 * 2**20, "h1")


def test_a_head_that_keeps_no_account_leaves_free_unknown() -> None:
    told = {"raylet": {"nodeId": "n1", "nodeManagerHostname": "h1", "resourcesTotal": {"CPU": 8.0}}}
    assert node_capacity(told, usage_by_node({"clusterStatus": None})).free_cpus is None


def test_a_job_of_rays_is_a_view() -> None:
    assert _view({"status": "FAILED", "message": "why"}) == View("failed", "why")
    assert _view({"status": "PENDING", "message": None}) == View("pending")


def test_a_plan_says_whether_it_fits_now() -> None:
    plan = a_plan(workers=2, cpus_per_worker=2)

    def told(free_cpus: float | None, **other: bool) -> str:
        node = NodeCapacity("n", cpus=4, gpus=0, memory_bytes=1, free_cpus=free_cpus)
        return room(plan, Offer("2.60.0", "3.11", Capacity((node,)), **other))

    assert told(4) == "it fits now: 2 such workers would"
    assert told(3) == "it will wait: 2 workers needed, now there is room for 1"
    assert told(None, knows_free=False) == "the head does not say what is free; the run waits until there is room"


def test_only_the_home_travels_unless_a_variable_is_named() -> None:
    settings = Settings("s3://bucket/hone", "postgresql+psycopg://me:hunter2@db/x", "")
    here = {"HONE_DB": "postgresql://me:hunter2@db/x", "TOKEN": "t", "OTHER": "o"}
    assert parcel(settings, [], here, with_code=True) == Parcel({"HONE_HOME": "s3://bucket/hone"})
    sent = parcel(settings, ["TOKEN"], here, with_code=False)
    assert sent == Parcel({"HONE_HOME": "s3://bucket/hone", "TOKEN": "t"}, with_code=False)
    assert held_back(sent, here) == ["HONE_DB"]
    assert held_back(parcel(settings, ["HONE_DB"], here, with_code=True), here) == []


def test_a_variable_that_is_not_set_is_refused_by_its_name() -> None:
    with pytest.raises(UsageError, match="--env ABSENT"):
        parcel(Settings("/home", None, ""), ["ABSENT"], {}, with_code=True)


@pytest.mark.parametrize("name", ["RAY_AUTH_TOKEN", "RAY_ADDRESS", "MALLOC_ARENA_MAX"])
def test_what_the_cluster_sets_itself_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="the cluster has its own"):
        parcel(Settings("/home", None, ""), [name], {name: "x"}, with_code=True)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:hunter2@db/hone", "postgresql://me:***@db/hone"),
        (
            "no postgresql+psycopg://me:p%40ss@db/x and s3://k:s@b/y",
            "no postgresql+psycopg://me:***@db/x and s3://k:***@b/y",
        ),
        ("https://host/x?sig=abc&part=1&X-Amz-Signature=ff", "https://host/x?sig=***&part=1&X-Amz-Signature=***"),
        ("s3://bucket/path@1:2", "s3://bucket/path@1:2"),
        ("http://head:8265", "http://head:8265"),
        ("/home/me/.hone", "/home/me/.hone"),
    ],
)
def test_passwords_in_urls_are_hidden_and_nothing_else(text: str, shown: str) -> None:
    assert without_passwords(text) == shown
    assert has_password(text) == (text != shown)
