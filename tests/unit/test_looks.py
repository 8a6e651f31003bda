"""The console's looks: nobody waits for one, one at a time is worked out, and then there is a rest."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from cluster.errors import StoreError
from serving.endpoint import Endpoint
from serving.looks import LEAST_REST_S, REST, Look, Looks
from tests.endpoints import endpoint

EXPERIMENT = endpoint(a=1, b=1)
VERDICT: Any = object()
LOOK = Look(1.0, 0.0, VERDICT)


class Work:
    """Works looks out when it is let, in so many seconds of a clock that stands still otherwise."""

    def __init__(self, takes_s: float = 0.0, error: Exception | None = None) -> None:
        self.now_s, self.takes_s, self.error, self.begun = 100.0, takes_s, error, 0
        self.may_end, self.looks = threading.Event(), Looks(self.work, lambda: self.now_s)

    def work(self, _endpoint: Endpoint) -> Sequence[Look]:
        self.begun += 1
        assert self.may_end.wait(10)
        self.now_s += self.takes_s
        if self.error:
            raise self.error
        return [LOOK]

    def done(self, seen: Endpoint = EXPERIMENT) -> tuple[Sequence[Look], str]:
        """What is known once the work that this begins is done."""
        self.looks.at(seen)
        self.may_end.set()
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and thread.daemon:
                thread.join(1)
        return self.looks.at(seen)


def test_nobody_waits_and_one_at_a_time_is_worked_out():
    work = Work()
    assert [work.looks.at(EXPERIMENT) for _ in range(5)] == [((), "")] * 5
    assert work.done() == ([LOOK], "")
    assert work.begun == 1


@pytest.mark.parametrize(("takes_s", "rest_s"), [(0.0, LEAST_REST_S), (10.0, 10.0 * REST)])
def test_between_two_lies_many_times_what_one_took(takes_s: float, rest_s: float):
    work = Work(takes_s)
    work.done()
    work.now_s += rest_s - 0.1
    work.done()
    assert work.begun == 1
    work.now_s += 0.2
    work.done()
    assert work.begun == 2


@pytest.mark.parametrize(
    ("error", "words"), [(StoreError("no ledger", ""), "no ledger"), (KeyError("x"), "KeyError: 'x'")]
)
def test_the_last_known_stay_while_there_is_trouble(error: Exception, words: str):
    work = Work()
    work.done()
    work.error = error
    work.now_s += LEAST_REST_S
    assert work.done() == ([LOOK], words)
    work.error = None
    work.now_s += LEAST_REST_S
    assert work.done() == ([LOOK], "")


def test_another_experiment_begins_without_any_and_none_has_none():
    work = Work()
    work.done()
    assert work.looks.at(endpoint(a=1)) == ((), "")
    assert work.begun == 1
    assert work.looks.at(EXPERIMENT) == ((), "")
    assert work.done() == ([LOOK], "")
