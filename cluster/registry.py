"""Runs, scores and versions in MLflow: what happened, out of what, and which release is the champion.

Everything here is named by hone's own ids: a run by its run id (an MLflow run tagged ``hone.run`` in the experiment of
its job's name), a version by ``NAME@N``. A version points at the release in the store; the weights are not copied.
MLflow is imported with the first question asked of it (about two seconds, and as much again for new tables). Left out:
deciding what becomes a version, which is the gate's, and when an alias moves, which is promotion's.
"""

from __future__ import annotations

import difflib
import re
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from cluster.blocks import NAME_PATTERN
from cluster.errors import StoreError, UsageError
from cluster.runs import parse_run_id
from cluster.session import Settings
from cluster.tracking import connected_client, owns_database, put_dataset, put_history, put_params, refusals

RunOutcome = Literal["FINISHED", "FAILED", "KILLED"]

RUN_TAG = "hone.run"
TRIAL_TAG = "hone.trial"
CHAMPION = "champion"


@dataclass(frozen=True)
class Version:
    """A released model: ``ref`` is NAME@N, ``release`` a directory or URL, ``created_s`` seconds since 1970."""

    ref: str
    release: str
    run: str
    aliases: tuple[str, ...]
    tags: dict[str, str]
    created_s: float


class Registry:
    """MLflow as hone uses it. Every method raises StoreError where MLflow or its database refuses."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        self._mlflow_runs: dict[str, str] = {}

    def start_run(
        self,
        run: str,
        params: Mapping[str, object],
        *,
        data_hash: str,
        sources: Sequence[str],
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Open the MLflow run of ``run`` and return its MLflow id; one that exists already goes on.

        ``params`` are flat, and cut where they pass MLflow's limits. ``data_hash`` and ``sources`` are the lineage
        of what the run is trained on.
        """
        with self._calls() as client:
            found = self._found(run)
            if found is None:
                name = parse_run_id(run).name
                tags = {RUN_TAG: run, "hone.data_hash": data_hash, **(tags or {})}
                made = client.create_run(self._experiment(name), start_time=self._now_ms(), run_name=run, tags=tags)
                found = self._mlflow_runs[run] = str(made.info.run_id)
                put_dataset(client, found, name, data_hash, sources)
            else:
                client.update_run(found, status="RUNNING")
            put_params(client, found, params)
            return found

    def log_history(self, run: str, history: Iterable[Mapping[str, float]]) -> None:
        """Log metrics over steps: every row has ``step`` and any metrics. Long curves are thinned to 2,000 points."""
        with self._calls() as client:
            put_history(client, self._known(run), history, self._now_ms())

    def log_metrics(self, run: str, metrics: Mapping[str, float]) -> None:
        """Log final scores by their names."""
        self.log_history(run, [{"step": 0, **metrics}])

    def log_artifact(self, run: str, path: Path) -> None:
        """Copy a file, or what a directory holds, to the run's artifacts."""
        with self._calls() as client:
            log = client.log_artifacts if path.is_dir() else client.log_artifact
            log(self._known(run), str(path))

    def log_text(self, run: str, text: str, name: str) -> None:
        """Keep a text as the file ``name`` among the run's artifacts."""
        with self._calls() as client:
            client.log_text(self._known(run), text, name)

    def log_trial(
        self,
        run: str,
        trial: str,
        params: Mapping[str, object],
        history: Iterable[Mapping[str, float]],
        outcome: RunOutcome,
        tags: Mapping[str, str],
    ) -> None:
        """Keep a finished trial of a sweep as a child of its run; one that is there already is left as it is."""
        with self._calls() as client:
            parent, name = self._known(run), f"{run}/{trial}"
            experiment = self._experiment(parse_run_id(run).name)
            if client.search_runs([experiment], f"tags.`{TRIAL_TAG}` = '{name}'", max_results=1):
                return
            tags = {TRIAL_TAG: name, "mlflow.parentRunId": parent, **tags}
            made = client.create_run(experiment, start_time=self._now_ms(), run_name=trial, tags=tags)
            put_params(client, made.info.run_id, params)
            put_history(client, made.info.run_id, history, self._now_ms())
            client.set_terminated(made.info.run_id, status=outcome, end_time=self._now_ms())

    def log_params(self, run: str, params: Mapping[str, object]) -> None:
        """Add parameters that were not known when the run began."""
        with self._calls() as client:
            put_params(client, self._known(run), params)

    def reopen_run(self, run: str) -> None:
        """Mark the MLflow run of ``run`` as running again."""
        with self._calls() as client:
            client.update_run(self._known(run), status="RUNNING")

    def end_run(self, run: str, outcome: RunOutcome) -> None:
        """Close the MLflow run of ``run``; nothing happens where none was opened."""
        if self._has_no_tables():
            return
        with self._calls() as client:
            found = self._found(run)
            if found is not None:
                client.set_terminated(found, status=outcome, end_time=self._now_ms())

    def delete_run(self, run: str) -> None:
        """Put the MLflow run of ``run`` and those of its trials in MLflow's bin; nothing happens where none is open."""
        if self._has_no_tables():
            return
        with self._calls() as client:
            found = self._found(run)
            if found is None:
                return
            experiment = self._experiment(parse_run_id(run).name)
            children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{found}'", max_results=10_000)
            for mlflow_run in [*(child.info.run_id for child in children), found]:
                client.delete_run(mlflow_run)

    def register(self, name: str, release: str, run: str, lineage: Mapping[str, str]) -> str:
        """Make ``release`` a version of the model ``name`` and return it as NAME@N; the same run, the same version.

        ``lineage`` becomes the version's tags. The first version of a model becomes its champion.
        """
        with self._calls() as client:
            model = self._model(name) or client.create_registered_model(name)
            versions = self._versions(name)
            version = next((version for version in versions if version.tags.get(RUN_TAG) == run), None)
            if version is None:
                tags = {RUN_TAG: run, **{f"hone.{key}": value for key, value in lineage.items()}}
                version = client.create_model_version(
                    name, release, run_id=self._known(run), tags=tags, await_creation_for=0
                )
                versions.append(version)
            if len(versions) == 1 and CHAMPION not in model.aliases:
                client.set_registered_model_alias(name, CHAMPION, str(version.version))
            return f"{name}@{version.version}"

    def champion(self, name: str) -> str | None:
        """Return the model's champion as NAME@N; None where it has none yet."""
        if self._has_no_tables():
            return None
        with self._calls():
            model = self._model(name)
            number = None if model is None else model.aliases.get(CHAMPION)
            return None if number is None else f"{name}@{number}"

    def set_alias(self, ref: str, alias: str) -> None:
        """Let ``alias`` mean the version ``ref`` (NAME@N) of its model from now on."""
        name, _, number = self._version(ref).ref.partition("@")
        with self._calls() as client:
            client.set_registered_model_alias(name, alias, number)

    def release_of(self, ref: str) -> str:
        """Return the directory or URL of NAME@N or NAME@ALIAS; raises UsageError where there is no such version."""
        return self._version(ref).release

    def version_metrics(self, ref: str) -> dict[str, float]:
        """Return the last value of every metric of the run behind NAME@N or NAME@ALIAS."""
        version = self._version(ref)
        with self._calls() as client:
            return dict(client.get_run(self._known(version.run)).data.metrics)

    def list_versions(self, name: str | None = None) -> list[Version]:
        """Return the versions of one model, or of all, sorted by name, the newest first."""
        if self._has_no_tables():
            return []
        with self._calls() as client:
            models = client.search_registered_models(max_results=1000) if name is None else [self._model(name)]
            found = [_version(model, version) for model in models if model for version in self._versions(model.name)]
        return sorted(found, key=lambda version: (version.ref.partition("@")[0], -int(version.ref.partition("@")[2])))

    def ui_command(self) -> str:
        """Return the command that shows all this in a browser; a database's password is not spelled out."""
        uri = self._settings.mlflow_uri
        if uri.startswith(("http://", "https://")):
            return f"open {uri}"
        if "@" in uri and not uri.startswith("sqlite:"):
            login, _, place = uri.rpartition("@")
            scheme, _, user = login.partition("://")
            uri = f"{scheme}://{user.partition(':')[0]}:PASSWORD@{place}"
        quoted = uri if set(uri).isdisjoint(" &'$;()") else '"' + uri + '"'
        return f"mlflow ui --backend-store-uri {quoted} --host 127.0.0.1"

    @cached_property
    def _client(self) -> Any:
        return connected_client(self._settings)

    @contextmanager
    def _calls(self) -> Generator[Any]:
        with refusals():
            yield self._client

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    def _has_no_tables(self) -> bool:
        """Return whether nothing was ever written here, which needs no import of MLflow to know."""
        file = Path(self._settings.mlflow_uri.removeprefix("sqlite:///"))
        return owns_database(self._settings) and self._settings.db is None and not file.exists()

    def _experiment(self, name: str) -> str:
        """Return the id of the experiment ``name``, made or taken out of the bin where necessary."""
        found = self._client.get_experiment_by_name(name)
        if found is None:
            place = f"{self._settings.home}/mlartifacts/{name}" if owns_database(self._settings) else None
            return str(self._client.create_experiment(name, artifact_location=place))
        if found.lifecycle_stage != "active":
            self._client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _found(self, run: str) -> str | None:
        if run not in self._mlflow_runs:
            experiment = self._client.get_experiment_by_name(parse_run_id(run).name)
            if experiment is None:
                return None
            filters = f"tags.`{RUN_TAG}` = '{run}'"
            for found in self._client.search_runs([experiment.experiment_id], filters, max_results=1):
                self._mlflow_runs[run] = str(found.info.run_id)
        return self._mlflow_runs.get(run)

    def _known(self, run: str) -> str:
        found = self._found(run)
        if found is None:
            raise StoreError(f"MLflow has no run {run}", "Check HONE_HOME, HONE_DB and MLFLOW_TRACKING_URI.")
        return found

    def _model(self, name: str) -> Any:
        """Return the registered model ``name`` with its aliases; None where there is none."""
        if not re.fullmatch(NAME_PATTERN, name):
            return None
        if not self._client.search_registered_models(f"name = '{name}'", max_results=1):
            return None
        return self._client.get_registered_model(name)

    def _versions(self, name: str) -> list[Any]:
        return list(self._client.search_model_versions(f"name = '{name}'", max_results=10_000))

    def _version(self, ref: str) -> Version:
        name, _, which = ref.partition("@")
        versions = self.list_versions(name)
        found = [v for v in versions if which and (which in v.aliases or v.ref == ref)]
        if found:
            return found[0]
        if versions:
            known = ", ".join([f"@{alias}" for v in versions for alias in v.aliases] + [v.ref for v in versions[:3]])
            raise UsageError(f"there is no {ref}", f"{name} has {known}.")
        models = sorted({version.ref.partition("@")[0] for version in self.list_versions()})
        near = difflib.get_close_matches(name, models, n=1)
        remedy = (
            f"Did you mean {near[0]}@{CHAMPION}?" if near else "Give NAME@N or NAME@champion; hone list shows them."
        )
        raise UsageError(f"there is no model {name!r}", remedy)


def _version(model: Any, version: Any) -> Version:
    aliases = (alias for alias, number in model.aliases.items() if str(number) == str(version.version))
    return Version(
        ref=f"{model.name}@{version.version}",
        release=str(version.source),
        run=version.tags.get(RUN_TAG, ""),
        aliases=tuple(sorted(aliases)),
        tags=dict(version.tags),
        created_s=version.creation_timestamp / 1000,
    )
