"""Forgetting a unit: its rows go from the ledger and from a spool that is written meanwhile, nobody else's do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from cluster.cli import main
from cluster.errors import RowsRefused, StoreError, UsageError
from cluster.session import Settings
from cluster.store import Store
from serving import endpoint as endpoints
from serving.callers import unit_hash
from serving.forget import forget
from serving.ingress import LedgerWriter, spool_directory
from serving.ledger import Ledger
from serving.ledger_rows import Exposure, Outcome, Row
from serving.spool import Spool
from tests.endpoints import endpoint

ANN, BOB = unit_hash("salt", "ann"), unit_hash("salt", "bob")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings.from_env({"HONE_HOME": str(tmp_path)}, tmp_path)
    endpoints.write(Store(settings.home), endpoint(a=1, b=1))
    return settings


def seen(request: str, unit: str) -> Exposure:
    return Exposure(
        request=request, endpoint="support", experiment="v2", arm="a", unit=unit, has_unit=True,
        probabilities={"a": 0.5, "b": 0.5}, epoch=1, time_s=1.0, kept={"prompt": f"words of {request}"},
    )  # fmt: skip


def said(request: str) -> Outcome:
    return Outcome(request=request, time_s=2.0, name="success", value=1.0)


def left(settings: Settings) -> tuple[list[str], list[str]]:
    with closing(Ledger.open(settings)) as ledger:
        return [row.request for row in ledger.exposures("support")], [row.request for row in ledger.outcomes("support")]


def test_rows_in_the_ledger_and_in_a_living_spool_are_forgotten(settings: Settings) -> None:
    with closing(Ledger.open(settings)) as ledger:
        ledger.write([seen("a1", ANN), said("a1"), seen("b1", BOB), said("b1")])
    spool = Spool(spool_directory(settings), LedgerWriter(settings).write)
    for number in range(20):
        spool.add(seen(f"a{number + 2}", ANN))
        spool.add(seen(f"b{number + 2}", BOB))
    spool.add(said("a5"))
    found = forget("support", "ann", settings)
    assert (found.exposures, found.outcomes) == (21, 2)
    assert spool.flush()
    spool.close()
    exposures, outcomes = left(settings)
    assert exposures == sorted(f"b{number + 1}" for number in range(21))
    assert outcomes == ["b1"]
    assert forget("support", "ann", settings).lines() == ["support has kept nothing of this unit"]


def test_rows_that_wait_for_a_database_are_forgotten_and_the_others_arrive(settings: Settings) -> None:
    is_away, taken = True, list[Row]()

    def write(rows: Sequence[Row]) -> None:
        if is_away:
            raise StoreError("away", "wait")
        if any(row.request == "a9" for row in rows):
            raise RowsRefused("too long", "mend it")
        taken.extend(rows)

    directory = spool_directory(settings)
    spool = Spool(directory, write)
    for row in (seen("a1", ANN), seen("b1", BOB), said("a1"), said("b1"), seen("a9", ANN)):
        spool.add(row)
    spool.begin(seen("a2", ANN))
    (directory / "refused.jsonl").write_text(json.dumps({"why": "x", "row": seen("a3", ANN).model_dump()}) + "\n")
    waits: list[float] = []
    found = forget("support", "ann", settings, waits.append)
    assert (found.exposures, found.outcomes) == (4, 1)
    assert b"words of a" not in b"".join(path.read_bytes() for path in directory.iterdir())
    is_away = False
    assert spool.flush()
    spool.close()
    assert [row.request for row in taken] == ["b1", "b1"]
    assert (spool.num_damaged, spool.num_refused) == (0, 0)


def test_a_row_that_is_written_while_others_are_deleted_is_found_by_looking_again(settings: Settings) -> None:
    with closing(Ledger.open(settings)) as ledger:
        late = [said("a1"), seen("a1", ANN)]

        def sleep(_: float) -> None:
            if late:
                ledger.write([late.pop()])

        found = forget("support", "ann", settings, sleep)
        assert (found.exposures, found.outcomes) == (1, 1)
    assert left(settings) == ([], [])


def test_the_command_counts_and_names_what_is_not_there(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HONE_HOME", settings.home)
    with closing(Ledger.open(settings)) as ledger:
        ledger.write([seen("a1", ANN), said("a1"), seen("b1", BOB)])
    assert main(["forget", "support", "ann", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"endpoint": "support", "exposures": 1, "outcomes": 1}
    assert left(settings) == (["b1"], [])
    assert main(["forget", "nothing", "ann"]) == UsageError.exit_code
