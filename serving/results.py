"""An experiment's rows in the ledger → its verdict now.

The ledger's rows say more than a verdict needs; they are narrowed here, once. A cancelled or refused request is no
failure of its arm: its caller went away, or asked for what no arm gives.
"""

from __future__ import annotations

from cluster.session import Settings
from cluster.store import Store
from serving import endpoint as endpoints
from serving import ledger_rows
from serving.design import Design, design_of
from serving.endpoint import Endpoint
from serving.ledger import Ledger
from serving.units import Exposure, Outcome
from serving.verdict import Verdict, verdict_of

LATE_S = 2.0
"""Rows reach the ledger a fraction of a second after they are taken; a verdict looks this far back."""


def verdict_on(experiment: str, settings: Settings, now_s: float) -> tuple[Verdict, Endpoint]:
    """Return the verdict on an experiment and the endpoint that runs it.

    Raises UsageError where no endpoint runs it, StoreError where the ledger cannot be read.
    """
    endpoint = endpoints.of_experiment(Store(settings.home), experiment)
    ledger = Ledger.open(settings)
    try:
        return verdict_from_ledger(endpoint, ledger, now_s), endpoint
    finally:
        ledger.close()


def verdict_from_ledger(endpoint: Endpoint, ledger: Ledger, now_s: float) -> Verdict:
    """Return the verdict on an endpoint's experiment, as its rows stood some seconds ago."""
    design = design_from(endpoint)
    rows = map(exposure_of, ledger.exposures(endpoint.name, design.experiment))
    said = (
        Outcome(row.request, row.name, row.value, row.time_s)
        for row in ledger.outcomes(endpoint.name, design.experiment)
        if row.value is not None
    )
    return verdict_of(rows, said, design, now_s - LATE_S)


def design_from(endpoint: Endpoint) -> Design:
    """Return the design of the experiment that an endpoint runs."""
    assert endpoint.experiment is not None, "an endpoint without an experiment has no verdict"
    return design_of(endpoint.experiment, tuple(endpoint.arms))


def exposure_of(row: ledger_rows.Exposure) -> Exposure:
    """Return what a verdict needs of the ledger's row."""
    return Exposure(
        request=row.request,
        unit=row.unit,
        arm=row.arm,
        probabilities=row.probabilities,
        time_s=row.time_s,
        failed=row.status == "failed",
        latency_s=row.latency_s if row.status == "ok" else None,
        forced=row.forced,
    )
