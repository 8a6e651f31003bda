"""The ledger's database stopped and started again under an endpoint."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest

from cluster.session import ray_session
from serving.ledger import Ledger
from tests.integration.test_serve import served_pair
from tests.postgres import PostgresServer
from tests.tiny import write_base

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


def test_no_request_fails_and_no_row_is_lost_while_the_database_is_stopped(tmp_path: Path, postgres: PostgresServer):
    with ray_session(num_cpus=2), served_pair(write_base(tmp_path / "base"), tmp_path, postgres.new_database()) as up:
        said: list[str] = []

        def come(number: int) -> None:
            answer = up.chat(user=f"user {number}", max_tokens=1)
            assert answer.status_code == 200
            said.append(answer.headers["x-hone-request-id"])
            feedback = {"request_id": said[-1], "value": number % 2}
            assert httpx.post(f"{up.url}/v1/feedback", json=feedback, timeout=30).status_code == 200

        for number in range(60):
            if number == 20:
                postgres.stop()
            if number == 40:
                postgres.start()
            come(number)
        ledger = Ledger.open(up.settings)
        deadline_s = time.monotonic() + 30
        kept = told = -1
        while (kept, told) != (60, 60) and time.monotonic() < deadline_s:
            kept = len({row.request for row in ledger.exposures("support")} & set(said))
            told = len({row.request for row in ledger.outcomes("support")} & set(said))
            time.sleep(0.5)
        ledger.close()
        assert (kept, told) == (60, 60)
