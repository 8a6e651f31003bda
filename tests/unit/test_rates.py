from __future__ import annotations

from pathlib import Path

import pytest

from cluster.records import SplitCount
from cluster.spec import JobSpec
from cluster.store import Store
from tests.finished_runs import trained
from trainers.rates import keep_rate, known_rate


def job(**cluster: object) -> JobSpec:
    return JobSpec.model_validate({"name": "a", "base": "/m/b", "data": "c.jsonl", "cluster": cluster})


TRAINED = trained([{"step": 10}])
"""2 workers that did 80 examples a second together."""


def test_a_finished_run_says_how_fast_the_next_one_will_be(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert known_rate(job(), store, "cpu") is None
    keep_rate(job(), store, "a-run", TRAINED, SplitCount(rows=100, tokens=5000, target_tokens=200))
    found = known_rate(job(), store, "cpu")
    assert found is not None
    assert found.tokens_per_s == pytest.approx(80 * 50 / 2)
    assert "a-run" in found.source
    assert known_rate(job(), store, "cuda") is None


def test_a_stated_rate_wins_over_a_measured_one(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    keep_rate(job(), store, "a-run", TRAINED, SplitCount(rows=100, tokens=5000, target_tokens=200))
    found = known_rate(job(tokens_per_s=123.0), store, "cpu")
    assert found is not None
    assert (found.tokens_per_s, "stated" in found.source) == (123.0, True)
