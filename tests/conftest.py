"""Fixtures shared by all tests, and the rule that CI skips nothing but for want of a GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import Browse, browsing
from tests.postgres import PostgresServer, missing, running_server
from tests.s3 import S3Server, running_s3

NO_GPU = "no GPU"
REFUSE_SKIPS = "HONE_REFUSE_SKIPS"


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of real data (see its SOURCES.md), named by HONE_REALDATA."""
    named = os.environ.get("HONE_REALDATA")
    if not named:
        pytest.skip("HONE_REALDATA is not set: the real data and the real small model are not here")
    return Path(named)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server of the session's own; ``new_database()`` is a HONE_DB that nobody has used."""
    if why := missing():
        pytest.skip(why)
    with running_server() as server:
        yield server


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """An S3 server of the session's own; ``new_bucket()`` is a HONE_HOME that nobody has used."""
    with running_s3() as server:
        yield server


@pytest.fixture
def browse(tmp_path: Path) -> Browse:
    """A browser without a window: see ``tests.browser.browsing``."""
    return browsing(tmp_path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """Where HONE_REFUSE_SKIPS is set, a skip is a failure unless it is for want of a GPU."""
    report = yield
    reason = str(call.excinfo.value) if call.excinfo is not None else ""
    if report.skipped and os.environ.get(REFUSE_SKIPS) and NO_GPU not in reason and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped ({reason}), and {REFUSE_SKIPS} is set"
    return report
