"""What an arm did lately: rates over the time that was really seen, times of what went well."""

from __future__ import annotations

import pytest

from serving import recent
from serving.recent import Recent


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_what_runs_ended_and_failed_is_counted_by_arm(clock: Clock):
    seen = Recent(clock)
    for _ in range(3):
        seen.begun("a")
    clock.now_s += 10
    seen.ended("a", "ok", 0.2, 0.1, 8)
    seen.ended("a", "failed", 9.0, None, 2)
    load = seen.load("a")
    assert (load.running, load.requests, load.failed, load.span_s) == (1, 2, 1, 10.0)
    assert (load.requests_per_s, load.tokens_per_s) == (0.2, 1.0)
    assert (load.p50_s, load.p95_s, load.first_token_p50_s) == (0.2, 0.2, 0.1)
    assert seen.load("b").requests == 0
    assert seen.load("b").p50_s is None


def test_what_is_older_than_the_window_is_left_out(clock: Clock):
    seen = Recent(clock)
    seen.begun("a")
    seen.ended("a", "ok", 1.0, None, 1)
    clock.now_s += 61
    assert (seen.load("a").requests, seen.load("a").span_s) == (0, 60.0)


def test_more_requests_than_are_kept_do_not_lower_the_rate(clock: Clock, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recent, "MOST_KEPT", 100)
    seen = Recent(clock)
    for _ in range(3000):
        clock.now_s += 0.01
        seen.begun("a")
        seen.ended("a", "ok", 0.1, None, 5)
    assert seen.load("a").requests_per_s == pytest.approx(100, rel=0.02)
