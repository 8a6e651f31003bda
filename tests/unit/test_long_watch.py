"""Outcomes and failures over more requests than anybody holds in memory at once: each watch has its own start.

Rows are written as the database takes them: records of so many would take longer than the looks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from sqlalchemy import insert

from serving import ledger as ledgers
from serving.drift_report import Change
from serving.first_weeks import FIRST_S, PERIOD_S
from tests.sketched import Served, sketched, tickets
from tests.tiny import write_base

BEGAN_S, MANY = 1000.0, 21_000
LATER_S = BEGAN_S + FIRST_S


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = write_base(tmp_path_factory.mktemp("release") / "m")
    sketched(made, tickets(30))
    return made


@pytest.fixture
def served(tmp_path: Path, release: Path) -> Served:
    return Served(tmp_path / "home", release)


def asked(served: Served, num: int, since_s: float, lasts_s: float, failing: int = 0) -> list[str]:
    """Write so many users' requests, spread over a time, of which every so many fail; return their ids."""
    row = {
        "endpoint": "support", "experiment": None, "arm": "main", "has_unit": True, "probabilities": {"main": 1.0},
        "epoch": 1, "tokens_in": 1, "tokens_out": 1, "forced": False, "kept": {}, "consent": False,
    }  # fmt: skip
    requests = [f"r{since_s:.0f}-{place:06d}" for place in range(num)]
    rows = (
        {
            "request": request,
            "unit": f"u{request}",
            "time_s": since_s + place * lasts_s / num,
            "status": "failed" if failing and place % failing == 0 else "ok",
        }
        for place, request in enumerate(requests)
    )
    written(served, ledgers.exposures, (row | one for one in rows))
    return requests


def judged(served: Served, requests: Iterable[str], name: str, value: float) -> None:
    row = {"time_s": LATER_S, "name": name, "value": value, "source": "client"}
    written(
        served, ledgers.outcomes, (row | {"key": f"{name[:3]}-{request}", "request": request} for request in requests)
    )


def written(served: Served, table: ledgers.Table, rows: Iterable[Mapping[str, object]]) -> None:
    served.write([])
    with served.settings.making_tables("ledger") as url:
        engine = ledgers.engine_of(url)
        with engine.begin() as connection:
            connection.execute(insert(table), [dict(row) for row in rows])
        engine.dispose()


def decided(change: Change | None) -> tuple[str, bool, bool, int]:
    assert change is not None
    return change.name, change.decided, change.changed, change.units


def test_failures_are_watched_where_nobody_says_what_answers_were_worth(served: Served):
    asked(served, MANY, BEGAN_S, FIRST_S - 1)
    asked(served, 400, LATER_S, 1000.0, failing=2)
    first = served.look(LATER_S + 2000)
    assert first.outcome is None
    assert decided(first.errors) == ("error_rate", True, True, 400)
    assert decided(served.look(LATER_S + 2000).errors) == ("error_rate", True, True, 400), "the first weeks are known"


def test_the_end_of_a_long_period_counts_too(served: Served):
    asked(served, 400, BEGAN_S, FIRST_S - 1)
    asked(served, MANY, LATER_S, PERIOD_S / 4)
    asked(served, MANY, LATER_S + PERIOD_S / 4, PERIOD_S / 4, failing=1)
    found = served.look(LATER_S + PERIOD_S - 1).errors
    assert decided(found) == ("error_rate", True, True, 2 * MANY)
    assert found is not None
    assert found.value == 0.5


def test_values_that_cannot_be_watched_do_not_hold_the_failures_back(served: Served):
    early = asked(served, MANY, BEGAN_S, FIRST_S - 1)
    asked(served, 400, LATER_S, 1000.0, failing=2)
    judged(served, early, "stars", 4.0)
    found = served.look(LATER_S + 2000)
    assert found.outcome is not None
    assert (found.outcome.decided, found.outcome.reason) == (False, "its values are not all in 0..1")
    assert decided(found.errors) == ("error_rate", True, True, 400)


def test_outcomes_of_many_requests_are_all_counted(served: Served):
    judged(served, asked(served, MANY, BEGAN_S, FIRST_S - 1), "success", 1.0)
    judged(served, asked(served, MANY, LATER_S, 1000.0), "success", 0.0)
    found = served.look(LATER_S + 2000).outcome
    assert decided(found) == ("success", True, True, MANY)
    assert found is not None
    assert found.reference is not None
    assert (found.value, found.reference.value) == (0.0, 1.0)
