"""Exposures and outcomes in SQL, under SQLite or PostgreSQL: what a verdict reads, and what drift and retraining read.

Writing twice is writing once: an exposure is known by its request, an outcome by what it says and when, and a row that
is there already is passed over. So whoever is not sure whether a batch arrived sends it again. Tables are made and
changed by Alembic's migrations only. Left out: which rows count for an experiment; ``serving.units`` folds them.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Connection,
    Engine,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    delete,
    event,
    func,
    select,
    text,
)
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from cluster.errors import RowsRefused, StoreError
from serving.ledger_rows import Ending, Exposure, Judgement, Outcome, Row

if TYPE_CHECKING:
    from cluster.session import Settings

MIGRATIONS = Path(__file__).with_name("migrations")
ROWS_A_READ = 1000
ONE_MIGRATION = threading.Lock()
"""Alembic keeps what it is doing in globals of its own."""
tables = MetaData()
exposures = Table(
    "exposures",
    tables,
    Column("request", String(64), primary_key=True),
    Column("endpoint", String(63), nullable=False),
    Column("experiment", String(63), index=True),
    Column("arm", String(63), nullable=False),
    Column("unit", String(64), nullable=False, index=True),
    Column("has_unit", Boolean, nullable=False),
    Column("probabilities", JSON, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("time_s", Float(53), nullable=False, index=True),
    Column("latency_s", Float(53)),
    Column("first_token_s", Float(53)),
    Column("tokens_in", Integer, nullable=False),
    Column("tokens_out", Integer, nullable=False),
    Column("status", String(16), nullable=False),
    Column("forced", Boolean, nullable=False),
    Column("kept", JSON, nullable=False),
    Column("consent", Boolean, nullable=False),
)
outcomes = Table(
    "outcomes",
    tables,
    Column("key", String(32), primary_key=True),
    Column("request", String(64), nullable=False, index=True),
    Column("time_s", Float(53), nullable=False),
    Column("name", String(63), nullable=False),
    Column("value", Float(53)),
    Column("label", Text),
    Column("correction", Text),
    Column("source", String(63), nullable=False),
)


class Tally(NamedTuple):
    """What one arm did while one epoch was in force."""

    arm: str
    epoch: int
    experiment: str | None
    exposures: int
    outcomes: int
    corrections: int


class Ledger:
    """The ledger of one database. Every method raises StoreError where the database does not answer."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, settings: Settings) -> Ledger:
        """Open the ledger of HONE_HOME or HONE_DB, its tables made or brought up to date."""
        with settings.making_tables("ledger") as url:
            engine = engine_of(url)
            with _named_errors():
                migrate(engine)
        return cls(engine)

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def write(self, rows: Sequence[Row]) -> None:
        """Write rows in one transaction; those that are there already stay as they are.

        Raises RowsRefused where the database answers and takes none of them, now or later.
        """
        seen = [row.model_dump(mode="json") for row in rows if isinstance(row, Exposure)]
        said = [row.model_dump(mode="json") | {"key": row.key} for row in rows if isinstance(row, Outcome)]
        with _named_errors(), self._engine.begin() as connection:
            for table, values in ((exposures, seen), (outcomes, said)):
                if values:
                    connection.execute(self._insert(table).on_conflict_do_nothing(), values)

    def exposures(self, endpoint: str, experiment: str | None = None, since_s: float = 0.0) -> Iterator[Exposure]:
        """Yield an endpoint's exposures by time, or those of one experiment, from ``since_s`` on."""
        query = select(exposures).where(exposures.c.endpoint == endpoint, exposures.c.time_s >= since_s)
        if experiment is not None:
            query = query.where(exposures.c.experiment == experiment)
        for row in self._read(query.order_by(exposures.c.time_s, exposures.c.request)):
            yield Exposure.model_validate(row)

    def newest(self, endpoint: str, since_s: float, most: int) -> list[Exposure]:
        """Return an endpoint's last exposures that no administrator forced, at most so many, by time."""
        chosen = exposures.c
        query = select(exposures).where(chosen.endpoint == endpoint, chosen.time_s > since_s, ~chosen.forced)
        query = query.order_by(chosen.time_s.desc(), chosen.request.desc()).limit(most)
        return [Exposure.model_validate(row) for row in self._read(query)][::-1]

    def outcomes(self, endpoint: str, experiment: str | None = None, since_s: float = 0.0) -> Iterator[Outcome]:
        """Yield the outcomes of an endpoint's exposures by time: of one experiment's, of those from ``since_s`` on."""
        joined = outcomes.join(exposures, outcomes.c.request == exposures.c.request)
        of_endpoint = (exposures.c.endpoint == endpoint, exposures.c.time_s >= since_s)
        query = select(outcomes).select_from(joined).where(*of_endpoint)
        if experiment is not None:
            query = query.where(exposures.c.experiment == experiment)
        for row in self._read(query.order_by(outcomes.c.time_s, outcomes.c.request, outcomes.c.key)):
            row.pop("key")
            yield Outcome.model_validate(row)

    def forget(self, endpoint: str, unit: str, requests: Collection[str] = ()) -> tuple[set[str], set[str]]:
        """Delete a unit's exposures at an endpoint with their outcomes, and those of ``requests`` that are its own.

        Returns the requests whose exposures, and the keys of the outcomes, that were deleted. A deleted row's bytes are
        overwritten in a SQLite file; PostgreSQL gives them up at its next vacuum.
        """
        theirs = (exposures.c.endpoint == endpoint) & (exposures.c.unit == unit)
        with _named_errors(), self._engine.begin() as connection:
            seen = set(connection.scalars(delete(exposures).where(theirs).returning(exposures.c.request)))
            said: set[str] = set()
            of_unit = sorted(seen | set(requests))
            for start in range(0, len(of_unit), ROWS_A_READ):
                of_them = outcomes.c.request.in_(of_unit[start : start + ROWS_A_READ])
                said |= set(connection.scalars(delete(outcomes).where(of_them).returning(outcomes.c.key)))
        if (seen or said) and self._engine.dialect.name == "sqlite":
            with _named_errors(), self._engine.connect() as connection:
                connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))
        return seen, said

    def judged(self, endpoint: str, since_s: float = 0.0) -> Iterator[tuple[Exposure, Outcome]]:
        """Yield an endpoint's outcomes from ``since_s`` on, by time, each with the exposure that it judges."""
        joined = outcomes.join(exposures, outcomes.c.request == exposures.c.request)
        said = [column.label(f"said_{column.name}") for column in outcomes.c if column.name != "key"]
        query = select(exposures, *said).select_from(joined)
        query = query.where(exposures.c.endpoint == endpoint, outcomes.c.time_s >= since_s)
        for row in self._read(query.order_by(outcomes.c.time_s, outcomes.c.request, outcomes.c.key)):
            said_row = {name.removeprefix("said_"): row.pop(name) for name in list(row) if name.startswith("said_")}
            yield Exposure.model_validate(row), Outcome.model_validate(said_row)

    def endings(self, endpoint: str, arm: str, since_s: float) -> Iterator[Ending]:
        """Yield how an arm's requests from ``since_s`` on ended, no forced ones: unit by unit, each one's by time."""
        chosen = exposures.c
        query = select(chosen.unit, chosen.time_s, chosen.status).where(_is_of(endpoint, arm, since_s))
        for row in self._read(query.order_by(chosen.unit, chosen.time_s, chosen.request)):
            yield Ending(**row)

    def judgements(self, endpoint: str, arm: str, name: str, since_s: float) -> Iterator[Judgement]:
        """Yield the values under ``name`` of the same requests: unit by unit, each request's in the order of saying."""
        chosen, said = exposures.c, outcomes.c
        query = select(chosen.unit, chosen.time_s, chosen.request, said.time_s.label("said_s"), said.value)
        query = query.select_from(outcomes.join(exposures, said.request == chosen.request))
        query = query.where(_is_of(endpoint, arm, since_s), said.name == name, said.value.is_not(None))
        for row in self._read(query.order_by(chosen.unit, chosen.time_s, chosen.request, said.time_s, said.value)):
            yield Judgement(**row)

    def num_values(self, endpoint: str, since_s: float) -> dict[str, int]:
        """Return how many values there are under every name, of an endpoint's requests from ``since_s`` on."""
        said = outcomes.c
        query = select(said.name, func.count()).select_from(
            outcomes.join(exposures, said.request == exposures.c.request)
        )
        query = query.where(exposures.c.endpoint == endpoint, exposures.c.time_s >= since_s, said.value.is_not(None))
        with _named_errors(), self._engine.connect() as connection:
            return {name: int(count) for name, count in connection.execute(query.group_by(said.name))}

    def num_unmatched(self) -> int:
        """Return how many outcomes name a request that no endpoint answered: only that would say whose they are."""
        query = select(func.count()).select_from(
            outcomes.outerjoin(exposures, outcomes.c.request == exposures.c.request)
        )
        with _named_errors(), self._engine.connect() as connection:
            return int(connection.execute(query.where(exposures.c.request.is_(None))).scalar_one())

    def tallies(self, endpoint: str) -> list[Tally]:
        """Return how many exposures and outcomes there are of every arm, by epoch and experiment."""
        place = (exposures.c.arm, exposures.c.epoch, exposures.c.experiment)
        joined = exposures.outerjoin(outcomes, exposures.c.request == outcomes.c.request)
        counts = (
            func.count(exposures.c.request.distinct()),
            func.count(outcomes.c.key),
            func.count(outcomes.c.correction),
        )
        query = select(*place, *counts).select_from(joined).where(exposures.c.endpoint == endpoint).group_by(*place)
        with _named_errors(), self._engine.connect() as connection:
            return [Tally(*row) for row in connection.execute(query.order_by(exposures.c.epoch, exposures.c.arm))]

    def _read(self, query: Any) -> Iterator[dict[str, Any]]:
        with _named_errors(), self._engine.connect() as connection:
            for row in connection.execution_options(yield_per=ROWS_A_READ).execute(query).mappings():
                yield dict(row)

    def _insert(self, table: Table) -> Any:
        from sqlalchemy.dialects import postgresql, sqlite

        dialect = postgresql if self._engine.dialect.name == "postgresql" else sqlite
        return dialect.insert(table)


def _is_of(endpoint: str, arm: str, since_s: float) -> Any:
    """Return the condition on an exposure: of an arm's own traffic, from ``since_s`` on."""
    chosen = exposures.c
    return (chosen.endpoint == endpoint) & (chosen.arm == arm) & (chosen.time_s >= since_s) & ~chosen.forced


def engine_of(url: str) -> Engine:
    """Return an engine: SQLite with readers beside one writer, PostgreSQL with connections tried before use."""
    if not url.startswith("sqlite"):
        return create_engine(url, pool_pre_ping=True)
    engine = create_engine(url, connect_args={"timeout": 30})

    def set_up(connection: Any, _record: object) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA secure_delete=ON")

    event.listen(engine, "connect", set_up)
    return engine


def migrate(engine: Engine, revision: str = "head") -> None:
    """Bring the tables up to date, or to an older revision."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with ONE_MIGRATION, engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def differences(connection: Connection) -> list[Any]:
    """Return in what the database's tables are not those of this file; nothing after ``migrate``."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    return compare_metadata(MigrationContext.configure(connection), tables)


@contextmanager
def _named_errors() -> Generator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        reason = str(error).splitlines()[0]
        kind = RowsRefused if isinstance(error, (DataError, IntegrityError)) else StoreError
        raise kind(f"the ledger's database refused: {reason}", "Check HONE_DB, or HONE_HOME's disk.") from error
