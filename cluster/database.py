"""Where MLflow, Optuna and the ledger keep their tables: a SQLite file or a PostgreSQL schema each.

MLflow and Optuna both run migrations and name tables freely, so no two of them share one place. Left out: every other
database, and SQLite away from the home directory, where two of the three would meet in one file.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

from cluster.durable import locked
from cluster.errors import StoreError, UsageError

Tables = Literal["mlflow", "optuna", "ledger"]

_POSTGRES = re.compile(r"postgres(?:ql)?(?:\+psycopg)?://(?P<rest>[^/?]+/[^/?]+(?:\?.*)?)")


def postgres_url(text: str) -> str:
    """Return HONE_DB as a SQLAlchemy URL for psycopg 3; raises UsageError for any other database."""
    found = _POSTGRES.fullmatch(text.strip())
    if found is None:
        kind = text.partition(":")[0] if "://" in text else "no URL"
        raise UsageError(
            f"HONE_DB names no PostgreSQL database ({kind})",
            "Set it to postgresql://USER:PASSWORD@HOST/DATABASE, or unset it for SQLite files under a local HONE_HOME.",
        )
    if "options=" in found["rest"]:
        raise UsageError("HONE_DB sets options, which hone needs for its schemas", "Remove options= from the URL.")
    return f"postgresql+psycopg://{found['rest']}"


def database_url(home: str, db: str | None, tables: Tables) -> str:
    """Return the SQLAlchemy URL of one set of tables: a schema ``hone_NAME`` in ``db``, or a file under ``home``."""
    if db is None:
        return f"sqlite:///{home}/{tables}.db"
    return f"{db}{'&' if '?' in db else '?'}options=-csearch_path%3D{schema_of(tables)}"


def schema_of(tables: Tables) -> str:
    """Return the PostgreSQL schema that holds ``tables``."""
    return f"hone_{tables}"


@contextmanager
def making_tables(home: str, db: str | None, tables: Tables) -> Generator[str]:
    """Yield ``database_url`` with its directory or schema made, to one process at a time.

    Whoever opens a new database inside makes tables and runs migrations there, which two at once do not survive.
    Raises StoreError where the directory or the schema cannot be made.
    """
    with locked(Path(home, f".{tables}.lock")) if db is None else _locked_database(db, schema_of(tables)):
        yield database_url(home, db, tables)


@contextmanager
def _locked_database(db: str, schema: str) -> Generator[None]:
    """Hold PostgreSQL's advisory lock of this name, which ends with the connection, and make the schema."""
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import SQLAlchemyError

    with ExitStack() as held:
        try:
            engine = create_engine(db)
            held.callback(engine.dispose)
            connection = held.enter_context(engine.connect().execution_options(isolation_level="AUTOCOMMIT"))
            connection.execute(text("SELECT pg_advisory_lock(hashtext(:name))"), {"name": schema})
            connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {schema}"))
        except ModuleNotFoundError as error:
            raise StoreError("PostgreSQL needs its driver", "Install hone[postgres].", "HONE_DB") from error
        except SQLAlchemyError as error:
            reason = str(error).splitlines()[0]
            raise StoreError(f"the database refused: {reason}", "Check HONE_DB and its rights.", "HONE_DB") from error
        yield
