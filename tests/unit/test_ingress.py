"""The ingress without a cluster: what its looks at the store show in the gauges."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from cluster.records import Interval
from cluster.session import Settings
from cluster.store import Store
from serving import endpoint as endpoints
from serving import ingress
from serving.callers import Keys
from serving.drift import DRIFT, LATEST
from serving.drift_report import Change, DriftReport
from serving.ingress import Ingress
from tests.endpoints import endpoint

WITHIN_S = 10.0
FOUND = DriftReport(
    endpoint="support",
    release="m@1",
    at_s=5.0,
    decision="drift",
    reason="they differ",
    drift=0.625,
    flagged=True,
    outcome=Change(
        name="success", value=0.5, reference=Interval(value=0.75, low=0.7, high=0.8), changed=True, decided=True
    ),
    errors=Change(name="error_rate", value=0.25, reference=Interval(value=0.125, low=0.1, high=0.15), decided=True),
)
UNDECIDED = FOUND.model_copy(
    update={
        "at_s": 6.0,
        "drift": None,
        "flagged": False,
        "outcome": None,
        "errors": Change(name="error_rate", reason="few users", changed=True),
    }
)


class Local(Ingress):
    """An ingress whose gauges a test reads, and that it ends."""

    def __del__(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] (Serve awaits it, Python does not)
        """Leave what is left to ``end``."""

    def text(self) -> str:
        return self._gateway.meters.text().decode()

    async def end(self) -> None:
        self._watch.cancel()
        with suppress(asyncio.CancelledError):
            await self._watch
        await asyncio.to_thread(self._spool.close)


async def shown(settings: Settings, reports: list[DriftReport]) -> list[set[str]]:
    """Return the lines of the metrics on drift after each report has been seen."""
    store, found = Store(settings.home), list[set[str]]()
    looking = Local.__new__(Local)
    await looking.__init__("support", settings, Keys())
    for report in reports:
        store.put_json(report.model_dump(mode="json"), DRIFT, "support", LATEST)
        seen = f'hone_drift_looked_seconds{{endpoint="support"}} {report.at_s}'
        async with asyncio.timeout(WITHIN_S):
            while seen not in (text := looking.text()):
                await asyncio.sleep(0.01)
        found.append({line for line in text.splitlines() if "_change" in line or "hone_drift" in line} - {seen})
    await looking.end()
    return [{line for line in lines if not line.startswith("#")} for lines in found]


def test_gauges_show_what_the_last_look_at_drift_found_and_no_number_of_what_is_undecided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = Settings.from_env({"HONE_HOME": str(tmp_path / "home")}, tmp_path)
    endpoints.write(Store(settings.home), endpoint(main=1.0))
    monkeypatch.setattr(ingress, "running_applications", lambda: set[str]())
    monkeypatch.setattr(ingress, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(ingress, "DRIFT_EVERY_LOOKS", 2)
    decided, undecided = asyncio.run(shown(settings, [FOUND, UNDECIDED]))
    of = '{endpoint="support"}'
    assert decided == {
        f"hone_drift{of} 0.625",
        f"hone_drift_flagged{of} 1.0",
        f"hone_outcome_change{of} -0.25",
        f"hone_outcome_change_flagged{of} 1.0",
        f"hone_error_rate_change{of} 0.125",
        f"hone_error_rate_change_flagged{of} 0.0",
    }
    assert undecided == {
        f"hone_drift_flagged{of} 0.0",
        f"hone_outcome_change_flagged{of} 0.0",
        f"hone_error_rate_change_flagged{of} 1.0",
    }, "what was found stays found"
