"""A real S3 server for the session that needs one: moto's, in a process of its own, loopback only, gone at the end.

Everything that speaks S3 here finds it by the environment, as it would find any other: so the variables are set before
Ray starts, whose workers inherit them. A bucket is a test's own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

from cluster.ports import LOOPBACK, free_port

STARTS_S = 60.0
ANYTHING = 10**9


@dataclass
class S3Server:
    """A server that runs, and may be stopped and started again (what it held is gone then)."""

    port: int
    address: str = LOOPBACK
    _numbers: count[int] = field(default_factory=count)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{self.address}:{self.port}"

    @property
    def variables(self) -> dict[str, str]:
        """What leads an S3 client to it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "hone",
            "AWS_SECRET_ACCESS_KEY": "not-a-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> None:
        """Start it and wait until it answers."""
        log = Path(tempfile.gettempdir(), f"hone-s3-{self.port}.log")
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", self.address, "-p", str(self.port)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        deadline_s = time.monotonic() + STARTS_S
        while time.monotonic() < deadline_s and self._process.poll() is None:
            with suppress(OSError), urllib.request.urlopen(f"{self.url}/moto-api/", timeout=2):
                log.unlink()
                return
            time.sleep(0.05)
        pytest.fail(f"the S3 server did not start:\n{log.read_text()}")

    def stop(self) -> None:
        """Stop it at once; requests under way are cut off."""
        assert self._process is not None, "it was not started"
        self._process.kill()
        self._process.wait()

    def new_bucket(self) -> str:
        """Return the URL of a bucket that nobody has used, as HONE_HOME takes it."""
        name = f"hone-{next(self._numbers)}"
        request = urllib.request.Request(f"{self.url}/{name}", method="PUT")
        urllib.request.urlopen(request, timeout=10).close()
        return f"s3://{name}/home"

    @contextmanager
    def without_rights(self) -> Generator[None]:
        """Refuse every request for the block: nobody with these keys is known to it."""
        self._count_unauthenticated(0)
        try:
            yield
        finally:
            self._count_unauthenticated(ANYTHING)

    def _count_unauthenticated(self, allowed: int) -> None:
        request = urllib.request.Request(f"{self.url}/moto-api/reset-auth", data=str(allowed).encode(), method="POST")
        request.add_header("Content-Type", "text/plain")
        urllib.request.urlopen(request, timeout=10).close()


@contextmanager
def running_s3(address: str = LOOPBACK) -> Generator[S3Server]:
    """Start a server and stop it at the end; for the block the environment leads to it."""
    server = S3Server(free_port(), address)
    before = {name: os.environ.get(name) for name in server.variables}
    os.environ |= server.variables
    try:
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
