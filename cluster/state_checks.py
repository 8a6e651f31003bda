"""Where state lives → what `hone doctor` says of it: storage is written and read, every database asked.

A home or a database that is not there yet is fine where it could be made: the first run does that, and looking
changes nothing. Passwords are never shown.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from cluster.database import Tables, database_url
from cluster.diagnosis import Line, failure, fine, warning
from cluster.errors import HoneError
from cluster.store import Store
from cluster.tracking import owns_database

if TYPE_CHECKING:
    from cluster.session import Settings

ANSWERS_WITHIN_S = 5
TABLES: tuple[Tables, ...] = ("mlflow", "optuna", "ledger")


def storage(settings: Settings) -> Line:
    """Write a small document in HONE_HOME, read it back and remove it."""
    home = Path(settings.home)
    if settings.is_local and not home.is_dir():
        above = next(place for place in home.parents if place.exists())
        if os.access(above, os.W_OK):
            return fine("storage", f"{settings.home} is made with the first run")
        return failure("storage", f"{settings.home} cannot be made: {above} is not writable", "Set HONE_HOME.")
    name, word = f"doctor-{secrets.token_hex(8)}.txt", secrets.token_hex(8)
    try:
        store = Store(settings.home)
        store.put_text(word, name)
        try:
            read = store.get_text(name)
        finally:
            store.remove(name)
    except HoneError as error:
        return failure("storage", f"{settings.home}: {error.what}", error.remedy or "Check HONE_HOME and its rights.")
    if read != word:
        return failure("storage", f"{settings.home} gives back other bytes than were written", "Use another storage.")
    return fine("storage", f"{settings.home} is written and read")


def databases(settings: Settings) -> list[Line]:
    """Ask the database of MLflow, of studies and of the ledger."""
    return [_tracking(settings) if name == "mlflow" else _database(settings, name) for name in TABLES]


def _tracking(settings: Settings) -> Line:
    uri = settings.mlflow_uri
    if owns_database(settings):
        return _database(settings, "mlflow")
    if not uri.startswith(("http://", "https://")):
        return warning("database", f"mlflow: {shown(uri)} is not asked", "Give MLFLOW_TRACKING_URI as http(s)://….")
    try:
        urlopen(f"{uri.rstrip('/')}/health", timeout=ANSWERS_WITHIN_S).close()
    except (URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return failure("database", f"mlflow: {shown(uri)} does not answer: {reason}", "Check MLFLOW_TRACKING_URI.")
    return fine("database", f"mlflow: {shown(uri)} answers")


def _database(settings: Settings, tables: Tables) -> Line:
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import SQLAlchemyError

    url = database_url(settings.home, settings.db, tables)
    if settings.db is None and not Path(settings.home, f"{tables}.db").exists():
        return fine("database", f"{tables}: a SQLite file, made when it is first needed")
    arguments = {} if settings.db is None else {"connect_timeout": ANSWERS_WITHIN_S}
    question = "PRAGMA quick_check(1)" if settings.db is None else "SELECT 'ok'"
    try:
        engine = create_engine(url, connect_args=arguments)
        try:
            with engine.connect() as connection:
                answer = str(connection.execute(text(question)).scalar())
        finally:
            engine.dispose()
    except ModuleNotFoundError:
        return failure("database", f"{tables}: PostgreSQL's driver is missing", "pip install 'hone[postgres]'")
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        return failure("database", f"{tables}: {shown(url)} refuses: {reason}", "Check HONE_DB and its rights.")
    if answer != "ok":
        remedy = "Restore the file from a backup, or move it away to begin anew."
        return failure("database", f"{tables}: {shown(url)} is damaged: {answer}", remedy)
    return fine("database", f"{tables}: {shown(url)} answers")


def shown(url: str) -> str:
    """Return a database's address without login and options."""
    if url.startswith("sqlite:"):
        return url.removeprefix("sqlite:///")
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme.partition('+')[0]}://{parts.hostname or ''}{port}{parts.path}"
