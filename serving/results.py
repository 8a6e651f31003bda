"""An experiment's rows in the ledger → its verdict now, or as it was.

Left out: acting on it, which is ``serving.traffic``'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import numpy as np

from cluster.session import Settings
from cluster.store import Store
from serving import endpoint as endpoints
from serving.design import Design, design_of
from serving.endpoint import Endpoint
from serving.ledger import Ledger
from serving.ledger_rows import Exposure, Outcome
from serving.looks import Look
from serving.verdict import Verdict, verdict_of

LOOKS = 24
LATE_S = 2.0
"""Rows reach the ledger a fraction of a second after a request has ended."""


def verdict_on(experiment: str, settings: Settings, now_s: float) -> tuple[Verdict, Endpoint]:
    """Return the verdict on an experiment and the endpoint that runs it.

    Raises UsageError where no endpoint runs it, StoreError where the ledger cannot be read.
    """
    endpoint = endpoints.of_experiment(Store(settings.home), experiment)
    return verdict_of_endpoint(endpoint, settings, now_s), endpoint


def verdict_of_endpoint(endpoint: Endpoint, settings: Settings, now_s: float) -> Verdict:
    """Return the verdict on an endpoint's experiment. Raises StoreError where the ledger cannot be read."""
    with closing(Ledger.open(settings)) as ledger:
        return verdict_from_ledger(endpoint, ledger, now_s)


def verdict_from_ledger(endpoint: Endpoint, ledger: Ledger, now_s: float) -> Verdict:
    """Return the verdict on an endpoint's experiment, as its rows stood some seconds ago."""
    design = design_from(endpoint)
    rows, said = _rows_of(endpoint, design, ledger)
    return verdict_of(rows, said, design, now_s - _late_s(rows))


def looks_at(endpoint: Endpoint, settings: Settings, now_s: float, most: int = LOOKS) -> list[Look]:
    """Return what the verdict was at even times since the first request of the experiment, the last one now.

    Raises StoreError where the ledger cannot be read.
    """
    design = design_from(endpoint)
    with closing(Ledger.open(settings)) as ledger:
        rows, said = _rows_of(endpoint, design, ledger)
    last_s = now_s - _late_s(rows)
    began_s = min([row.time_s for row in rows if not row.forced], default=last_s)
    times = np.linspace(began_s, last_s, most + 1)[1:].tolist() if began_s < last_s else [last_s]
    return [Look(at_s, max(0.0, at_s - began_s), verdict_of(rows, said, design, at_s)) for at_s in times]


def _rows_of(endpoint: Endpoint, design: Design, ledger: Ledger) -> tuple[list[Exposure], list[Outcome]]:
    exposures = list(ledger.exposures(endpoint.name, design.experiment))
    return exposures, list(ledger.outcomes(endpoint.name, design.experiment))


def _late_s(rows: Sequence[Exposure]) -> float:
    """Return how far a verdict looks back.

    A request's row is written when it ends, and failures end first: so it is as far as the slowest request took, or
    the verdict would see the quick ones of the last seconds only.
    """
    return LATE_S + max((row.latency_s or 0.0 for row in rows if not row.forced), default=0.0)


def design_from(endpoint: Endpoint) -> Design:
    """Return the design of the experiment that an endpoint runs."""
    assert endpoint.experiment is not None, "an endpoint without an experiment has no verdict"
    return design_of(endpoint.experiment, tuple(endpoint.arms))
