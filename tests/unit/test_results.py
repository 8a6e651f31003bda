"""From the ledger's rows to a verdict: no look is blinded by requests that are still under way."""

from __future__ import annotations

from pathlib import Path

from cluster.session import Settings
from serving.ledger import Ledger
from serving.ledger_rows import Exposure
from serving.results import LATE_S, verdict_of_endpoint
from tests.endpoints import endpoint


def row(request: str, time_s: float, latency_s: float) -> Exposure:
    return Exposure(
        request=request, endpoint="support", experiment="v2", arm="a", unit=request, has_unit=True,
        probabilities={"a": 0.5, "b": 0.5}, epoch=1, time_s=time_s, latency_s=latency_s, tokens_in=1, tokens_out=1,
    )  # fmt: skip


def test_a_verdict_looks_back_as_far_as_the_slowest_request_took(tmp_path: Path) -> None:
    settings = Settings.from_env({"HONE_HOME": str(tmp_path)}, tmp_path)
    ledger = Ledger.open(settings)
    made = endpoint(a=50, b=50)
    ledger.write([row("quick", 100.0, 0.1)])
    assert verdict_of_endpoint(made, settings, 100.0 + LATE_S + 1).waiting == 1
    ledger.write([row("slow", 80.0, 30.0)])
    ledger.close()
    assert verdict_of_endpoint(made, settings, 100.0 + LATE_S + 1).waiting == 0, "neither of the last 30 seconds"
    assert verdict_of_endpoint(made, settings, 100.0 + LATE_S + 30).waiting == 2
