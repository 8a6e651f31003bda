"""MLflow's client, kept quiet and fast to import around, and what goes into it in portions that it accepts.

Importing MLflow and making its tables takes seconds and prints notices of its own libraries; both happen here, once,
with warnings off. Its limits (keys of 250 characters, values of 6,000, digests of 36, 100 parameters or 1,000 metrics a
call) are met before it can refuse. Failures of its database or server come out as StoreError.
"""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

from cluster.database import database_url
from cluster.errors import StoreError
from cluster.session import NO_TELEMETRY, environment

if TYPE_CHECKING:
    from cluster.session import Settings

MAX_KEY_CHARACTERS = 250
MAX_VALUE_CHARACTERS = 6000
MAX_DIGEST_CHARACTERS = 36
PARAMS_PER_CALL = 100
METRICS_PER_CALL = 1000
POINTS_PER_METRIC = 2000
REFUSING = ("mlflow", "sqlalchemy", "sqlite3", "psycopg", "requests", "botocore", "boto3")

Item = TypeVar("Item")


def owns_database(settings: Settings) -> bool:
    """Return whether MLflow's tables are ours, and not those of a server that MLFLOW_TRACKING_URI names."""
    return settings.mlflow_uri == database_url(settings.home, settings.db, "mlflow")


def connected_client(settings: Settings) -> Any:
    """Return an MlflowClient, its tables made where they are ours; one process at a time makes them."""
    alone = settings.making_tables("mlflow") if owns_database(settings) else nullcontext()
    with alone, environment(NO_TELEMETRY), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.ERROR)
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it raises as well, see `refusals`
        logging.getLogger("alembic").setLevel(logging.ERROR)
        client = MlflowClient(tracking_uri=settings.mlflow_uri, registry_uri=settings.mlflow_uri)
        client.search_registered_models(max_results=1)  # makes the registry's side of the connection as well
        return client


@contextmanager
def refusals() -> Generator[None]:
    """Turn what MLflow, its database, server or artifact store raise under the block into a StoreError."""
    try:
        yield
    except ModuleNotFoundError as error:  # MLflow brings the client of no artifact store
        what = f"MLflow needs the package {error.name} to keep a run's files at this HONE_HOME"
        raise StoreError(what, f"pip install {error.name} (for s3:// hone[s3] has it)") from error
    except Exception as error:
        package = type(error).__module__.partition(".")[0]
        if package not in REFUSING and not isinstance(error, OSError):
            raise
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise StoreError(f"MLflow refused: {reason}", "Check HONE_DB, MLFLOW_TRACKING_URI and the disk.") from error


def put_params(client: Any, mlflow_run: str, params: Mapping[str, object]) -> None:
    """Log parameters; those that the run has already stay, since MLflow lets none change."""
    from mlflow.entities import Param

    known = client.get_run(mlflow_run).data.params
    fresh = [Param(_key(key), _cut(str(value), MAX_VALUE_CHARACTERS)) for key, value in params.items()]
    for portion in _portions([param for param in fresh if param.key not in known], PARAMS_PER_CALL):
        client.log_batch(mlflow_run, params=portion)


def put_history(client: Any, mlflow_run: str, history: Iterable[Mapping[str, float]], at_ms: int) -> None:
    """Log rows of ``step``, metrics and perhaps ``time_s`` (Unix time), thinned to what a chart can show."""
    from mlflow.entities import Metric

    points: dict[str, list[tuple[int, float]]] = {}
    times_ms: dict[int, int] = {}
    for row in history:
        if "time_s" in row:
            times_ms[int(row["step"])] = int(1000 * row["time_s"])
        for name, value in row.items():
            if name not in ("step", "time_s"):
                points.setdefault(name, []).append((int(row["step"]), float(value)))
    metrics = [
        Metric(_key(name), value, times_ms.get(step, at_ms), step)
        for name, series in points.items()
        for step, value in thinned(series, POINTS_PER_METRIC)
    ]
    for portion in _portions(metrics, METRICS_PER_CALL):
        client.log_batch(mlflow_run, metrics=portion)


def put_dataset(client: Any, mlflow_run: str, name: str, data_hash: str, sources: Sequence[str]) -> None:
    """Log what a run was trained on: a data set under the start of its hash, with the places it came from."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=name,
        digest=data_hash[:MAX_DIGEST_CHARACTERS],
        source_type="hone",
        source=json.dumps({"sources": list(sources), "sha256": data_hash}),
    )
    client.log_inputs(mlflow_run, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])


def thinned(points: Sequence[Item], most: int) -> list[Item]:
    """Return at most ``most`` (two or more) of ``points``, evenly spaced, the first and the last among them."""
    if len(points) <= most:
        return list(points)
    last = len(points) - 1
    return [points[round(place * last / (most - 1))] for place in range(most)]


def _portions(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _key(name: str) -> str:
    """Return a name that MLflow takes for a parameter or metric: a slash or a leading dot would make it a path."""
    return re.sub(r"^\.+|[^\w.\- :]", "_", name)[:MAX_KEY_CHARACTERS]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
