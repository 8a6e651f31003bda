"""What the contracts share."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.session import Settings


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    env = {"HONE_HOME": str(tmp_path)}
    if request.param == "postgresql":
        env["HONE_DB"] = request.getfixturevalue("postgres").new_database()
    return Settings.from_env(env, tmp_path)
