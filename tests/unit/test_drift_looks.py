"""The keeper's looks: in a thread, said once, and a failure ends nothing."""

from __future__ import annotations

import threading
from io import StringIO

from cluster.errors import StoreError
from cluster.progress import Progress
from serving.drift_looks import looking
from serving.drift_report import DriftReport


def report(*, flagged: bool) -> DriftReport:
    return DriftReport(endpoint="e", release="m@1", at_s=0.0, decision="drift", reason="they differ", flagged=flagged)


def said_after(looks: list[DriftReport | Exception]) -> str:
    out, done = StringIO(), threading.Event()
    left = list(looks)

    def look() -> DriftReport:
        if len(left) == 1:
            done.set()
        found = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(found, Exception):
            raise found
        return found

    with looking(look, Progress(out), first_s=0.0, every_s=0.001):
        assert done.wait(10.0)
    return out.getvalue()


def test_drift_is_said_once():
    said = said_after([report(flagged=False), *[report(flagged=True)] * 3, report(flagged=True)])
    assert said.count("e: they differ; see hone drift e") == 1


def test_what_keeps_it_from_looking_is_said_once_and_tried_again():
    broken = StoreError("the ledger's database refused", "check it")
    said = said_after([broken, broken, ValueError("odd"), report(flagged=True), report(flagged=True)])
    assert said.count("drift cannot be looked at: the ledger's database refused") == 1
    assert "ValueError: odd" in said
    assert "they differ" in said


def test_an_ended_keeper_waits_for_no_look():
    with looking(lambda: report(flagged=False), Progress(StringIO()), first_s=600.0):
        pass
    assert not [one for one in threading.enumerate() if "_keep_looking" in one.name]
