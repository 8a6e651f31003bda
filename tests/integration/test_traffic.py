"""Promotion and rollback move weights and the registry's alias together, or neither."""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path

import pytest

from cluster.cli import main
from cluster.errors import StoreError, UsageError
from cluster.registry import Registry
from cluster.serve_spec import GuardrailSpec
from cluster.session import Settings
from cluster.store import Store
from serving import endpoint as endpoints
from serving import traffic
from serving.ledger import Ledger
from serving.ledger_rows import Row
from serving.releases import served
from tests.endpoints import endpoint
from tests.experiment_rows import exposure, outcome

pytestmark = pytest.mark.integration


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A home with two versions of a model, the first its champion, and an endpoint that serves both."""
    monkeypatch.setenv("HONE_HOME", str(tmp_path / "home"))
    settings = Settings.from_env({"HONE_HOME": str(tmp_path / "home")}, tmp_path)
    registry = Registry(settings)
    for number in (1, 2):
        run = f"m-20260301-12000{number}-abcd"
        release = tmp_path / run
        release.mkdir()
        (release / "config.json").write_text("{}")
        registry.start_run(run, {}, data_hash="0" * 64, sources=[])
        registry.register("m", str(release), run, {})
    endpoints.write(Store(settings.home), endpoint(a=90, b=10))
    return settings


def test_promotion_and_rollback_move_weights_and_alias_in_one_step(
    settings: Settings, capsys: pytest.CaptureFixture[str]
):
    assert main(["promote", "v2", "b", "--json"]) == 0
    moved = json.loads(capsys.readouterr().out)
    assert (moved["weights"], moved["aliases"], moved["epoch"]) == ({"a": 0.0, "b": 100.0}, {"m": "m@2"}, 2)
    assert Registry(settings).champion("m") == "m@2"
    assert main(["rollback", "support", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["weights"] == {"a": 90.0, "b": 10.0}
    assert Registry(settings).champion("m") == "m@1"
    history = endpoints.read(Store(settings.home), "support").history
    assert [change.what for change in history] == ["serve", "promote", "rollback"]
    assert main(["rollback", "support"]) == 2, "there is nothing left to take back"


def users_of(settings: Settings, now_s: float, successes: dict[str, float], failures: dict[str, int]) -> None:
    """Write a hundred users an arm, so many of whom succeed, and so many of whose requests fail."""
    rows: list[Row] = []
    for arm, share in successes.items():
        for n in range(100):
            status = "failed" if n < failures.get(arm, 0) else "ok"
            unit, at_s = f"{arm}{n}", now_s - 48 * 3600 + n
            about = {"endpoint": "support", "experiment": "v2", "latency_s": 0.1, "status": status}
            rows.append(exposure(unit, unit, arm, {"a": 0.5, "b": 0.5}, at_s, **about))
            rows.append(outcome(unit, "success", float(n < 100 * share), at_s + 1))
    with closing(Ledger.open(settings)) as ledger:
        ledger.write(rows)


def steered(settings: Settings, **experiment: object) -> None:
    """Let traffic be moved by the keeper under these rules."""

    def edit(old: endpoints.Endpoint) -> endpoints.Endpoint:
        assert old.experiment is not None
        return old.model_copy(update={"experiment": old.experiment.model_copy(update=experiment)})

    endpoints.change(Store(settings.home), "support", edit)


def last_change(settings: Settings) -> endpoints.Change:
    return endpoints.read(Store(settings.home), "support").history[-1]


def test_the_keeper_promotes_what_the_verdict_names_and_says_why(settings: Settings):
    now_s = time.time()
    users_of(settings, now_s, {"a": 0.2, "b": 0.8}, {})
    assert traffic.steer("support", settings) is None, "nobody asked for it"
    steered(settings, promote="auto")
    moved = traffic.steer("support", settings)
    assert moved is not None
    assert (moved.weights, moved.aliases) == ({"a": 0.0, "b": 100.0}, {"m": "m@2"})
    assert Registry(settings).champion("m") == "m@2"
    change = last_change(settings)
    assert (change.what, change.by) == ("promote", "keeper")
    assert "b's success is above a's" in change.why
    assert traffic.steer("support", settings) is None, "it has all traffic"


def test_the_keeper_takes_an_arm_off_that_breaks_its_bound_whoever_promotes(settings: Settings):
    users_of(settings, time.time(), {"a": 0.5, "b": 0.5}, {"b": 60})
    steered(settings, guardrails=GuardrailSpec(error_rate=0.05))
    moved = traffic.steer("support", settings)
    assert moved is not None
    assert moved.weights == {"a": 90.0, "b": 0.0}
    assert "b failed in" in last_change(settings).why
    assert Registry(settings).champion("m") == "m@1"


def test_the_keeper_takes_the_ramps_next_step_when_it_is_time(settings: Settings):
    steered(settings, ramp=[10.0, 30.0], ramp_every_h=1.0)
    assert traffic.steer("support", settings, lambda: 1.0 + 1800) is None
    moved = traffic.steer("support", settings, lambda: 1.0 + 3601)
    assert moved is not None
    assert moved.shares == pytest.approx({"a": 0.7, "b": 0.3})
    assert last_change(settings).what == "ramp"


def test_without_a_decision_nobody_is_promoted_unless_named(settings: Settings, capsys: pytest.CaptureFixture[str]):
    assert main(["promote", "v2"]) == 2
    assert "the verdict is continue" in capsys.readouterr().err
    assert main(["promote", "v2", "z"]) == 2
    assert main(["promote", "nothing"]) == 2
    assert main(["split", "support", "a=x"]) == 2
    assert main(["split", "support", "c=1"]) == 2


def test_an_alias_goes_back_where_the_document_cannot_be_written(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise StoreError("the disk is full", "make room")

    monkeypatch.setattr(endpoints, "write", full)
    with pytest.raises(StoreError):
        traffic.promote("v2", "b", settings)
    assert Registry(settings).champion("m") == "m@1"


def test_a_reference_is_settled_when_it_is_served(settings: Settings, tmp_path: Path):
    assert served("m@champion", settings).version == "m@1"
    assert served("m@2", settings).directory.endswith("m-20260301-120002-abcd")
    assert served(f"base:{tmp_path}/m-20260301-120002-abcd", settings).version is None
    for wrong in ("m@9", "n@champion", str(tmp_path / "nothing"), f"base:{tmp_path}/nothing", "./nothing@1"):
        with pytest.raises(UsageError):
            served(wrong, settings)


def test_what_was_decided_on_another_state_is_not_done(settings: Settings):
    seen = endpoints.read(Store(settings.home), "support")
    traffic.split("support", {"b": 0}, settings)
    with pytest.raises(UsageError, match="changed meanwhile"):
        traffic.promoted(seen, "b", "the verdict", settings, by="keeper")
    assert Registry(settings).champion("m") == "m@1"
    assert endpoints.read(Store(settings.home), "support").weights == {"a": 90.0, "b": 0.0}


def test_an_arm_that_is_taken_off_loses_what_its_promotion_gave_it(settings: Settings):
    traffic.promote("v2", "a", settings)
    promoted = traffic.promoted(endpoints.read(Store(settings.home), "support"), "b", "won", settings, by="keeper")
    assert promoted.aliases == {"m": "m@2"}
    moved = traffic.taken_off(endpoints.read(Store(settings.home), "support"), "b", "it failed", settings)
    assert (moved.weights, moved.aliases) == ({"a": 100.0, "b": 0.0}, {"m": "m@1"})
    assert Registry(settings).champion("m") == "m@1"
    history = endpoints.read(Store(settings.home), "support").history
    assert [(change.what, change.undone) for change in history[-2:]] == [("promote", True), ("rollback", False)]
