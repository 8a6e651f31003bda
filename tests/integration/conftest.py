"""One local Ray for all integration tests; commands run in this process join it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.session import ray_session
from tests.s3 import S3Server
from tests.tiny import ticket_rows, write_base, write_jsonl


@pytest.fixture(scope="session")
def ray_cluster(s3: S3Server) -> Iterator[None]:
    """Workers find the S3 server by the environment that Ray was started in."""
    with ray_session(num_cpus=2):
        yield


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def tickets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("data") / "tickets.jsonl", ticket_rows(600))
