"""A real PostgreSQL server for the session that needs one: a directory of its own, loopback only, gone at the end.

PostgreSQL refuses to run as root, so root starts it as nobody. Nothing that runs on the machine already is touched:
the port is a free one, the password random, and no service is started. ``HONE_DB`` for a test is a database of its own.
"""

from __future__ import annotations

import getpass
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from cluster.ports import LOOPBACK, free_port

DEBIAN = Path("/usr/lib/postgresql")
STARTS_S = 60.0
UNSAFE = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
"""What makes tables survive a power cut, which a test's need not."""


@dataclass
class PostgresServer:
    """A server that runs, and may be stopped and started again."""

    port: int
    password: str
    home: Path
    address: str
    launch: Callable[[], subprocess.Popen[bytes]]
    _numbers: count[int] = field(default_factory=count)
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._process = self.launch()
        _wait(self, self._process, self.home)

    def stop(self) -> None:
        """Stop it as an administrator does who does not wait for clients; those that are there are cut off."""
        assert self._process is not None, "it was not started"
        self._process.send_signal(signal.SIGINT)
        self._process.wait(STARTS_S)

    def new_database(self) -> str:
        """Return the URL of a database that nobody has used, as HONE_DB takes it."""
        import psycopg

        name = f"hone_{next(self._numbers)}"
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")  # pyright: ignore[reportArgumentType] (a name of ours)
        return self._url(name)

    def _url(self, database: str) -> str:
        return f"postgresql://hone:{self.password}@{self.address}:{self.port}/{database}"


def missing() -> str:
    """Return why there can be no server here; empty where there can."""
    if _programs() is None:
        return "the PostgreSQL server is not installed (Debian: apt-get install postgresql)"
    try:
        import psycopg  # noqa: F401 (only whether it is there)
    except ImportError:
        return "psycopg is not installed (hone[postgres])"
    return ""


@contextmanager
def running_server(address: str = LOOPBACK) -> Generator[PostgresServer]:
    """Start a server and stop it at the end; see ``missing`` for whether that is possible."""
    programs = _programs()
    assert programs is not None, missing()
    home = Path(tempfile.mkdtemp(prefix="hone-pg-"))
    try:
        who, port, password = _unprivileged(home), free_port(), secrets.token_hex(16)
        _make(programs, home, password, who)
        with (home / "data" / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {address}/24 scram-sha-256\n")
        listen = (f"listen_addresses={address}", f"port={port}")
        server = PostgresServer(port, password, home, address, lambda: _start(programs, home, listen, who))
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _programs() -> Path | None:
    """Return the directory of the server's programs: on the path, or where Debian hides them, the newest first."""
    found = shutil.which("postgres")
    here = [Path(found).resolve().parent] if found else []
    hidden = sorted(DEBIAN.glob("*/bin"), key=lambda path: int(path.parent.name.partition(".")[0]), reverse=True)
    return next((path for path in (*here, *hidden) if (path / "initdb").exists()), None)


def _unprivileged(home: Path) -> dict[str, Any]:
    """Return how a process is started that PostgreSQL accepts, and give it its directory."""
    if os.geteuid() != 0:
        return {}
    shutil.chown(home, "nobody")
    return {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []}


def _make(programs: Path, home: Path, password: str, who: dict[str, Any]) -> None:
    secret = home / "password"
    secret.write_text(password)
    if who:
        shutil.chown(secret, "nobody")
    command = [programs / "initdb", "-D", home / "data", "-U", "hone", "-A", "scram-sha-256", f"--pwfile={secret}"]
    made = subprocess.run(
        [*command, "--encoding=UTF8", "--locale=C", "--no-sync"], cwd=home, capture_output=True, text=True, **who
    )
    assert made.returncode == 0, f"initdb as {who.get('user', getpass.getuser())}: {made.stderr}"


def _start(programs: Path, home: Path, listen: Sequence[str], who: dict[str, Any]) -> subprocess.Popen[bytes]:
    options = [*listen, "unix_socket_directories=", *UNSAFE]
    command = [programs / "postgres", "-D", home / "data", *(part for option in options for part in ("-c", option))]
    with (home / "log").open("wb") as log:
        return subprocess.Popen(command, cwd=home, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **who)


def _wait(server: PostgresServer, process: subprocess.Popen[bytes], home: Path) -> None:
    import psycopg

    deadline = time.monotonic() + STARTS_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(psycopg.OperationalError):
            psycopg.connect(server._url("postgres"), connect_timeout=2).close()
            return
        time.sleep(0.05)
    pytest.fail(f"PostgreSQL did not start:\n{(home / 'log').read_text()}")
