"""TCP ports: one that nobody listens on, and whether the one that was asked for is."""

from __future__ import annotations

import socket
from contextlib import closing

from cluster.errors import UsageError

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on now."""
    with closing(socket.socket()) as knock:
        knock.bind((LOOPBACK, 0))
        return int(knock.getsockname()[1])


def refuse_taken(host: str, port: int) -> None:
    """Raise UsageError where another program listens on the port, which Serve would find out much later."""
    with closing(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)) as knock:
        knock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            knock.bind((host, port))
        except OSError as error:
            raise UsageError(
                f"{host}:{port} cannot be listened on: {error.strerror}", "Give another --port."
            ) from error
