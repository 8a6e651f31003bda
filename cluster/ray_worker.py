"""What every worker process of a session does before its first task: keep quiet, and talk to others where Ray does.

Gloo listens on the address that the machine's name resolves to, which many systems map to 127.0.1.1 and some to
nothing; ranks on two machines then wait for each other in vain. Ray knows the address by which its nodes reach each
other, so gloo is told the interface that has it, unless the environment says one.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"


def prepare_worker() -> None:
    """Prepare this process, in which Ray has just connected a worker."""
    import ray

    keep_quiet()
    interface = interface_of(ray.util.get_node_ip_address())
    if interface and GLOO_INTERFACE not in os.environ:
        os.environ[GLOO_INTERFACE] = interface


def interface_of(address: str) -> str:
    """Return the name of this machine's network interface that has an address; empty where none has."""
    import psutil

    found = (name for name, has in psutil.net_if_addrs().items() if address in {one.address for one in has})
    return next(found, "")


def keep_quiet() -> None:
    """Keep two of Ray Train's loggers from repeating themselves in a worker's output (its log files keep errors).

    Without a dashboard the placement group cleaner warns once a second that it cannot ask for the controller's state,
    and every report prints a line through a logger that is named by its file's path (Ray 2.60, both still so).
    """
    import ray

    train = Path(ray.__file__).parent / "train" / "v2" / "_internal"
    cleaner = "ray.train.v2._internal.execution.controller.placement_group_cleaner"
    for name in (cleaner, str(train / "execution" / "context.py")):
        logging.getLogger(name).setLevel(logging.ERROR)
