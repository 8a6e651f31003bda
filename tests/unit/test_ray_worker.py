from __future__ import annotations

import logging
import socket
from pathlib import Path

from cluster.ray_worker import interface_of, keep_quiet


def test_the_loggers_that_workers_silence_are_those_of_the_installed_ray():
    """Their names are Ray's own affair; when an upgrade moves them, this fails before users see the lines again."""
    import ray

    train = Path(ray.__file__).parent / "train" / "v2" / "_internal" / "execution"
    assert "logger = logging.getLogger(__name__)" in (train / "controller" / "placement_group_cleaner.py").read_text()
    assert "logger = logging.getLogger(__file__)" in (train / "context.py").read_text()
    names = ("ray.train.v2._internal.execution.controller.placement_group_cleaner", str(train / "context.py"))
    before = [logging.getLogger(name).level for name in names]
    try:
        keep_quiet()
        assert not any(logging.getLogger(name).isEnabledFor(logging.WARNING) for name in names)
    finally:
        for name, level in zip(names, before, strict=True):
            logging.getLogger(name).setLevel(level)


def test_gloo_is_told_the_interface_that_has_the_address_of_the_node():
    assert interface_of("127.0.0.1") in {name for _, name in socket.if_nameindex()}
    assert interface_of("192.0.2.1") == "", "an address of nobody (RFC 5737)"
