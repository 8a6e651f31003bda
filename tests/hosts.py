"""Several hosts on this machine: network namespaces on a bridge of their own, each with its address and host name.

Nothing of the machine's own network is touched: the bridge lies in a namespace too, so hosts reach each other and
nobody else. A thread can step into a host (``inside``): whatever it opens or starts there has that host's network.
Programs that shall also believe to be another machine are started with ``command``: a host name of their own, and an
``/etc/hosts`` that knows all hosts. Needs root and iproute2.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

CLONE_NEWNET = 0x40000000
AS_HOST = 'hostname "$0" && mount --bind "$1" /etc/hosts && shift && exec "$@"'
libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Hosts:
    """Hosts that reach each other; ``addresses`` by name."""

    addresses: dict[str, str]
    prefix: str
    table: Path

    @contextmanager
    def inside(self, name: str) -> Generator[None]:
        """Let this thread, and what it starts, live in a host's network for the block."""
        with Path("/proc/thread-self/ns/net").open() as home, Path(f"/run/netns/{self.prefix}-{name}").open() as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(home.fileno())

    def command(self, name: str, arguments: Sequence[str]) -> list[str]:
        """Return the command that runs ``arguments`` under a host's name; to be started ``inside`` it."""
        return ["unshare", "--uts", "--mount", "sh", "-c", AS_HOST, name, str(self.table), *arguments]


def missing() -> str:
    """Return why there can be no hosts here; empty where there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    absent = [program for program in ("ip", "unshare") if shutil.which(program) is None]
    return f"{absent[0]} is not installed (Debian: apt-get install iproute2 util-linux)" if absent else ""


@contextmanager
def running_hosts(names: Sequence[str], folder: Path) -> Generator[Hosts]:
    """Make the hosts, and take them away again: end what runs in them first."""
    prefix = f"hone{os.getpid()}"
    addresses = {name: f"10.77.0.{number}" for number, name in enumerate(names, start=2)}
    table = folder / "hosts"
    known = "".join(f"{address} {name}\n" for name, address in addresses.items())
    table.write_text(f"127.0.0.1 localhost\n{known}")
    with ExitStack() as undo:
        _namespace(f"{prefix}-bridge", undo)
        _ip("-n", f"{prefix}-bridge", "link", "add", "bridge", "type", "bridge")
        _ip("-n", f"{prefix}-bridge", "link", "set", "bridge", "up")
        for number, (name, address) in enumerate(addresses.items()):
            _namespace(f"{prefix}-{name}", undo)
            _plug(f"{prefix}-{name}", f"{prefix}-bridge", number, address)
        yield Hosts(addresses, prefix, table)


def _namespace(name: str, undo: ExitStack) -> None:
    _ip("netns", "add", name)
    undo.callback(_ip, "netns", "delete", name)
    _ip("-n", name, "link", "set", "lo", "up")


def _plug(host: str, bridge: str, number: int, address: str) -> None:
    """Connect a host to the bridge by a pair of interfaces, one end in each."""
    port = f"port{number}"
    _ip("-n", bridge, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host)
    _ip("-n", bridge, "link", "set", port, "master", "bridge", "up")
    _ip("-n", host, "address", "add", f"{address}/24", "dev", "eth0")
    _ip("-n", host, "link", "set", "eth0", "up")


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"


def _enter(namespace: int) -> None:
    if libc.setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "the host's network cannot be entered")
