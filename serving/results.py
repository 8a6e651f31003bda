"""An experiment's rows in the ledger → its verdict now.

Left out: acting on it, which is ``serving.traffic``'s.
"""

from __future__ import annotations

from cluster.session import Settings
from cluster.store import Store
from serving import endpoint as endpoints
from serving.design import Design, design_of
from serving.endpoint import Endpoint
from serving.ledger import Ledger
from serving.verdict import Verdict, verdict_of

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
    ledger = Ledger.open(settings)
    try:
        return verdict_from_ledger(endpoint, ledger, now_s)
    finally:
        ledger.close()


def verdict_from_ledger(endpoint: Endpoint, ledger: Ledger, now_s: float) -> Verdict:
    """Return the verdict on an endpoint's experiment, as its rows stood some seconds ago.

    A request's row is written when it ends, and failures end first: so a verdict looks back as far as the slowest
    request took, or it would see the quick ones of the last seconds only.
    """
    design = design_from(endpoint)
    rows = list(ledger.exposures(endpoint.name, design.experiment))
    late_s = LATE_S + max((row.latency_s or 0.0 for row in rows), default=0.0)
    return verdict_of(rows, ledger.outcomes(endpoint.name, design.experiment), design, now_s - late_s)


def design_from(endpoint: Endpoint) -> Design:
    """Return the design of the experiment that an endpoint runs."""
    assert endpoint.experiment is not None, "an endpoint without an experiment has no verdict"
    return design_of(endpoint.experiment, tuple(endpoint.arms))
