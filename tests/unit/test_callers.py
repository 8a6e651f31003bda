"""Keys and units: who may ask, and as whom they count."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import UsageError
from serving.callers import KeyRefused, caller_of, keys_of, unit_hash
from serving.deploy import Options

KEY, ADMIN = "k" * 24, "a" * 24


def test_keys_come_from_the_environment_or_a_file_and_are_kept_as_hashes(tmp_path: Path):
    file = tmp_path / "keys"
    file.write_text(f"# of the team\n{KEY}\n\n")
    for env in ({"HONE_API_KEYS": f"{KEY}, {'x' * 20}"}, {"HONE_API_KEYS_FILE": str(file)}):
        keys = keys_of(env | {"HONE_ADMIN_KEY": ADMIN})
        keys.check(KEY)
        keys.check(ADMIN)
        keys.check_admin(ADMIN)
        assert KEY not in repr(keys)
        for wrong in (None, "", KEY[:-1], KEY + "x"):
            with pytest.raises(KeyRefused):
                keys.check(wrong)
        with pytest.raises(KeyRefused):
            keys.check_admin(KEY)


@pytest.mark.parametrize("env", [{"HONE_API_KEYS": "short"}, {"HONE_ADMIN_KEY_FILE": "/does/not/exist"}])
def test_keys_that_cannot_be_used_are_refused(env: dict[str, str]):
    with pytest.raises(UsageError):
        keys_of(env)


def test_without_keys_everybody_on_this_machine_may_ask_and_nobody_else():
    keys_of({}).check(None)
    with pytest.raises(UsageError, match=r"0\.0\.0\.0"):
        Options(host="0.0.0.0")
    assert Options(host="0.0.0.0", keys=keys_of({"HONE_API_KEYS": KEY})).host == "0.0.0.0"


def test_a_unit_is_found_in_the_order_that_is_promised():
    bearer = {"authorization": f"Bearer {KEY}"}
    everything = {"safety_identifier": "safe", "user": "user"}
    cases = [
        ({"x-hone-unit": "head"} | bearer, everything, "head"),
        (bearer, everything, "safe"),
        (bearer, {"user": "user"}, "user"),
        (bearer, {}, KEY),
        ({}, {"user": ""}, None),
        ({"authorization": "Bearer none"}, {}, None),
    ]
    for headers, body, expected in cases:
        caller = caller_of(headers, body, keys_of({"HONE_ADMIN_KEY": KEY}), "salt", by_user=True)
        assert caller.has_unit == (expected is not None)
        assert expected is None or caller.unit == unit_hash("salt", expected)
    assert unit_hash("salt", "ann") != unit_hash("pepper", "ann")
