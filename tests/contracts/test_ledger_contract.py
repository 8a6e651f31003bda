"""The ledger on every database: what was written once or many times is read once, and the tables are the code's."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import MetaData

from cluster.errors import StoreError
from cluster.session import Settings
from serving.ledger import MIGRATIONS, Ledger, differences, engine_of, migrate
from serving.ledger_rows import Exposure, Outcome


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    opened = Ledger.open(settings)
    yield opened
    opened.close()


def exposure(request: str, time_s: float = 1.0, **changed: object) -> Exposure:
    row = {
        "request": request, "endpoint": "support", "experiment": "v4", "arm": "control", "unit": "u1", "has_unit": True,
        "probabilities": {"control": 0.9, "candidate": 0.1}, "epoch": 3, "time_s": time_s, "latency_s": 0.25,
        "first_token_s": 0.05, "tokens_in": 7, "tokens_out": 9, "kept": {"words": 3, "text": "é\u0000 \n"},
    }  # fmt: skip
    return Exposure.model_validate(row | changed)


def test_what_is_written_is_read_back_whole(ledger: Ledger) -> None:
    rows = [exposure("b", 2.0), exposure("a", 1.0, status="failed", latency_s=None, forced=True, consent=True)]
    said = [
        Outcome(request="a", time_s=3.5, name="success", value=0.1 + 0.2),
        Outcome(request="b", time_s=3.0, name="n"),
    ]
    ledger.write([*rows, *said])
    assert list(ledger.exposures("support")) == rows[::-1], "by time"
    assert list(ledger.outcomes("support", "v4")) == said[::-1]


def test_writing_again_changes_nothing(ledger: Ledger) -> None:
    first = Outcome(request="a", time_s=3.0, name="success", value=1.0)
    ledger.write([exposure("a"), first])
    ledger.write([exposure("a", arm="candidate"), first, first, exposure("b", 5.0)])
    assert [row.arm for row in ledger.exposures("support")] == ["control", "control"]
    assert list(ledger.outcomes("support")) == [first]


def test_who_changes_their_mind_twice_has_the_last_word(ledger: Ledger) -> None:
    ledger.write([exposure("a")])
    for time_s, value in enumerate((1.0, 0.0, 1.0)):
        ledger.write([Outcome(request="a", time_s=time_s, name="success", value=value)])
    assert [row.value for row in ledger.outcomes("support")] == [1.0, 0.0, 1.0]


def test_one_endpoint_or_experiment_is_read_without_the_others(ledger: Ledger) -> None:
    rows = [exposure("a"), exposure("b", experiment=None), exposure("c", endpoint="other"), exposure("d", 7.0)]
    ledger.write([*rows, *(Outcome(request=row.request, time_s=8.0, name="success", value=1.0) for row in rows)])
    assert [row.request for row in ledger.exposures("support", "v4")] == ["a", "d"]
    assert [row.request for row in ledger.exposures("support", since_s=2.0)] == ["d"]
    assert [row.request for row in ledger.outcomes("support", "v4")] == ["a", "d"]
    assert [row.request for row in ledger.outcomes("other")] == ["c"]


def test_the_newest_rows_are_read_by_time_without_forced_ones(ledger: Ledger) -> None:
    others = [exposure("x", 9.0, endpoint="other"), exposure("y", 9.0, forced=True)]
    ledger.write([*others, *(exposure(f"r{place}", float(place)) for place in range(6))])
    assert [row.request for row in ledger.newest("support", 0.0, 3)] == ["r3", "r4", "r5"]
    assert [row.request for row in ledger.newest("support", 3.0, 9)] == ["r4", "r5"]


def test_outcomes_of_late_exposures_are_read_without_the_earlier_ones(ledger: Ledger) -> None:
    ledger.write([exposure("a", 1.0), exposure("b", 5.0)])
    said = [Outcome(request=name, time_s=9.0, name="success", value=1.0) for name in ("a", "b")]
    ledger.write(said)
    assert list(ledger.outcomes("support", since_s=2.0)) == said[1:]


def test_an_outcome_may_arrive_before_its_exposure(ledger: Ledger) -> None:
    said = Outcome(request="a", time_s=3.0, name="success", value=1.0)
    ledger.write([said])
    assert list(ledger.outcomes("support")) == []
    ledger.write([exposure("a")])
    assert list(ledger.outcomes("support")) == [said]


def test_a_batch_is_written_whole_or_not_at_all(ledger: Ledger) -> None:
    too_long = exposure("a").model_copy(update={"arm": None})
    with pytest.raises(StoreError, match="database refused"):
        ledger.write([exposure("b"), too_long])
    assert list(ledger.exposures("support")) == []


def test_ledgers_of_several_homes_are_opened_at_once(tmp_path: Path) -> None:
    def opened(place: int) -> None:
        Ledger.open(Settings.from_env({"HONE_HOME": f"{tmp_path}/{place}"}, tmp_path)).close()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(opened, range(8)))


def test_the_migrations_make_the_tables_that_the_code_reads(settings: Settings, ledger: Ledger) -> None:
    Ledger.open(settings).close()  # once more changes nothing
    with settings.making_tables("ledger") as url:
        engine = engine_of(url)
        with engine.connect() as connection:
            assert differences(connection) == []
        engine.dispose()


def test_a_unit_is_forgotten_with_its_outcomes_and_nobody_else(settings: Settings, ledger: Ledger) -> None:
    theirs = [exposure("a"), exposure("b", experiment=None, forced=True)]
    others = [exposure("c", unit="u2"), exposure("d", endpoint="other")]
    said = [Outcome(request=row.request, time_s=2.0, name="success", value=1.0) for row in (*theirs, *others)]
    early = Outcome(request="waits", time_s=2.0, name="success", correction="of an exposure that is not here yet")
    ledger.write([*theirs, *others, *said, early])
    assert ledger.forget("support", "u1", ["waits"]) == ({"a", "b"}, {said[0].key, said[1].key, early.key})
    assert ledger.forget("support", "u1") == (set(), set())
    assert [row.request for row in ledger.exposures("support")] == ["c"]
    assert [row.request for row in ledger.outcomes("support")] == ["c"]
    assert [row.request for row in ledger.outcomes("other")] == ["d"]
    ledger.write([exposure("waits")])
    assert [row.request for row in ledger.outcomes("support")] == ["c"]


def test_a_forgotten_text_is_in_no_file_of_sqlite(tmp_path: Path) -> None:
    ledger = Ledger.open(Settings.from_env({"HONE_HOME": str(tmp_path)}, tmp_path))
    for n in range(300):
        ledger.write([exposure(f"r{n}", unit=f"u{n % 3}", kept={"prompt": f"secret of u{n % 3}, number {n}"})])
    ledger.forget("support", "u1")
    kept = b"".join(path.read_bytes() for path in tmp_path.glob("ledger.db*"))
    ledger.close()
    assert b"secret of u2" in kept
    assert b"secret of u1" not in kept


def test_rows_of_the_oldest_ledger_are_there_after_every_migration(settings: Settings) -> None:
    script = ScriptDirectory(str(MIGRATIONS))
    revisions = [found.revision for found in script.walk_revisions()][::-1]
    assert len(revisions) > 1, "there is something to migrate"
    row = {
        "request": "a", "endpoint": "support", "experiment": "v4", "arm": "control", "unit": "u1", "has_unit": True,
        "probabilities": {"control": 1.0}, "epoch": 3, "time_s": 1.5, "latency_s": None, "first_token_s": None,
        "tokens_in": 7, "tokens_out": 9, "status": "ok", "forced": False, "kept": {"text": "é"}, "consent": True,
    }  # fmt: skip
    said = {"key": "k" * 32, "request": "a", "time_s": 2.5, "name": "success", "value": 1.0, "source": "client"}
    with settings.making_tables("ledger") as url:
        engine = engine_of(url)
        migrate(engine, revisions[0])
        old = MetaData()
        old.reflect(engine)
        with engine.begin() as connection:
            connection.execute(old.tables["exposures"].insert(), row)
            connection.execute(old.tables["outcomes"].insert(), said)
        for revision in revisions[1:]:
            migrate(engine, revision)
        with engine.connect() as connection:
            assert differences(connection) == []
        engine.dispose()
    with closing(Ledger.open(settings)) as ledger:
        assert list(ledger.exposures("support")) == [Exposure.model_validate(row)]
        assert [(found.request, found.value) for found in ledger.outcomes("support")] == [("a", 1.0)]


def test_a_judgement_comes_with_the_exposure_that_it_judges(ledger: Ledger) -> None:
    asked = [exposure("a"), exposure("b", endpoint="other"), exposure("c")]
    said = [Outcome(request=name, time_s=float(n), name="success", value=1.0) for n, name in enumerate("cab")]
    ledger.write([*asked, *said, Outcome(request="nobody", time_s=9.0, name="success", correction="x")])
    assert list(ledger.judged("support")) == [(asked[2], said[0]), (asked[0], said[1])], "by the time of judgement"
    assert list(ledger.judged("support", since_s=1.0)) == [(asked[0], said[1])]
    assert ledger.num_unmatched() == 1


def test_an_arms_own_requests_come_user_by_user_with_their_ends_and_values(ledger: Ledger) -> None:
    rows = [
        exposure("d", 4.0, unit="u1"), exposure("c", 3.0, unit="u2", status="failed"), exposure("b", 2.0, unit="u1"),
        exposure("forced", 2.0, forced=True), exposure("before", 1.0), exposure("arm", 2.0, arm="candidate"),
        exposure("other", 2.0, endpoint="other"),
    ]  # fmt: skip
    said = [Outcome(request=row.request, time_s=9.0, name="success", value=0.5) for row in rows]
    said += [Outcome(request="d", time_s=8.0, name="success", value=1.0), Outcome(request="d", time_s=8.0, name="n")]
    ledger.write([*rows, *said, Outcome(request="b", time_s=7.0, name="stars", value=3.0)])
    ends = [("u1", 2.0, "ok"), ("u1", 4.0, "ok"), ("u2", 3.0, "failed")]
    assert list(ledger.endings("support", "control", 2.0)) == ends
    assert list(ledger.judgements("support", "control", "success", 2.0)) == [
        ("u1", 2.0, "b", 9.0, 0.5), ("u1", 4.0, "d", 8.0, 1.0), ("u1", 4.0, "d", 9.0, 0.5), ("u2", 3.0, "c", 9.0, 0.5)
    ]  # fmt: skip
    assert ledger.num_values("support", 2.0) == {"success": 6, "stars": 1}
    assert ledger.num_values("nobody", 0.0) == {}


def test_what_arms_did_is_counted_by_epoch_and_experiment(ledger: Ledger) -> None:
    rows = [exposure("a"), exposure("b"), exposure("c", epoch=4, experiment=None), exposure("d", endpoint="other")]
    said = [Outcome(request="a", time_s=1.0, name="n", correction="x"), Outcome(request="a", time_s=2.0, name="n")]
    ledger.write([*rows, *said])
    assert ledger.tallies("support") == [("control", 3, "v4", 2, 2, 1), ("control", 4, None, 1, 0, 0)]
    assert ledger.tallies("nobody") == []
