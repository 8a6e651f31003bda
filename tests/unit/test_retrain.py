"""From feedback to a child's job: what is trained on, what never is, and that there is one child and not two."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from cluster import pipeline
from cluster.errors import RunFailed, UsageError
from cluster.jobfile import load_job
from cluster.progress import Progress
from cluster.records import GateReport, RuleOutcome, RunStatus, Throughput, TrainResult
from cluster.runs import claim_run, write_status
from cluster.spec import JobSpec
from serving import retrain as retraining_of
from serving.retrain import dry_run, gathered, retrain
from serving.retraining import attempts
from tests.parents import (
    LABELS,
    RUN,
    World,
    correction,
    corrections,
    exposure,
    material_rows,
    old_rows,
    said,
    world,
)

QUIET = Progress(StringIO())
Trained = Callable[..., TrainResult]


class Pipeline:
    """Stands for hours of training: leaves what a run leaves, and says what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, decision: str = "accept") -> None:
        self.jobs: dict[str, JobSpec] = {}
        self.resumed: list[str] = []
        self.challenges: list[str] = []
        self.decision = decision
        self.dies: BaseException | None = None
        monkeypatch.setattr(pipeline, "train", self.train)
        monkeypatch.setattr(pipeline, "resume", self.resume)
        monkeypatch.setattr(retraining_of, "challenge", self.challenge)
        monkeypatch.setattr(retraining_of, "refuse_absent", lambda *_: None)

    def train(self, job: JobSpec, settings: Any, progress: Any, now: Any, run: str) -> TrainResult:
        self.jobs[run] = job
        store = retraining_of.Store(settings.home)
        store.put_text("name: router\n", "runs", run, "job.yaml")
        claim_run(store, run)
        check = {"ok": True, "findings": [], "splits": {}, "plan": None,
                 "fixed": {"leakage_near": {"mended": 0, "dropped": 2, "rows": []}}}  # fmt: skip
        store.put_json({"check": check, "data_hash": "e" * 64}, "runs", run, "data.json")
        if self.dies is not None:
            write_status(store, RunStatus(run=run, stage="train", state="failed", why="its process is gone"))
            raise self.dies
        return self._end(store, run)

    def resume(self, run: str, settings: Any, progress: Any) -> TrainResult:
        self.resumed.append(run)
        return self._end(retraining_of.Store(settings.home), run)

    def _end(self, store: Any, run: str) -> TrainResult:
        accepted = self.decision == "accept"
        rule = RuleOutcome(rule="new.accuracy > champion", left=0.7, right=0.1, passed=accepted)
        result = TrainResult(
            run=run, release="/r", version="router@2" if accepted else None, steps=1, examples=1, metrics={},
            intervals={}, throughput=Throughput(examples_per_s=1, target_tokens_per_s=1),
            gate=GateReport.model_validate({"decision": self.decision, "rules": [rule]}),
        )  # fmt: skip
        store.put_json(result.model_dump(mode="json"), "runs", run, "result.json")
        write_status(store, RunStatus(run=run, stage="report", state="finished"))
        return result

    def challenge(self, name: str, version: str, settings: Any, progress: Any) -> tuple[str, str]:
        self.challenges.append(version)
        return "router-v2", "v2"


@pytest.fixture
def made(tmp_path: Path) -> World:
    found = world(tmp_path)
    found.write(corrections(40))
    return found


def test_the_child_is_the_parents_job_over_old_and_new_rows_with_a_gate_to_earn(
    made: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = Pipeline(monkeypatch)
    done = retrain("support", made.settings, QUIET, overrides=["train.epochs=1"], clock=lambda: 100.0)
    job = ran.jobs[done.run]
    assert job.gate == [
        "old.accuracy >= champion - 0.02", "new.accuracy > champion", "old.accuracy >= 0.5", "old.macro_f1 >= 0.4",
    ]  # fmt: skip
    assert (job.name, job.train.epochs) == ("router", 1)
    assert job.parent is not None
    assert (job.parent.run, job.parent.release, job.parent.endpoint) == (RUN, "router@1", "support")
    assert set(job.data.test) == {"old", "new"}
    assert {"leakage_exact", "leakage_near"} <= set(job.data.audit.fix)
    assert (done.state, done.version, done.experiment, done.leaked) == ("deployed", "router@2", "router-v2", 2)
    assert load_job(Path(made.store.path("retraining", "support", f"{done.run}.yaml"))) == job


def test_the_old_test_is_the_parents_and_no_new_test_row_is_trained_on(
    made: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    Pipeline(monkeypatch)
    done = retrain("support", made.settings, QUIET, clock=lambda: 100.0)
    rows = {name: material_rows(made.store, done.material, name) for name in (
        "old_train", "old_validation", "old_test", "new_train", "new_validation", "new_test")}  # fmt: skip
    asked = {name: {row["messages"][0]["content"] for row in own} for name, own in rows.items()}
    assert asked["old_test"] == {row["text"] for row in old_rows(9, 200)}
    assert len(asked["old_train"]) == 60
    assert [len(asked[name]) for name in ("new_train", "new_validation", "new_test")] == [26, 4, 10]
    assert not asked["new_test"] & (asked["new_train"] | asked["new_validation"] | asked["old_train"])
    units = {name: {row["group"] for row in rows[name]} for name in ("new_train", "new_test")}
    assert not units["new_train"] & units["new_test"]
    assert all(row["label"] == row["messages"][-1]["content"] for row in rows["new_train"])


def test_what_the_parent_knows_or_was_tested_with_is_no_new_row(tmp_path: Path) -> None:
    made = world(tmp_path)
    tested, trained = old_rows(1, 200)[0]["text"], old_rows(2)
    made.write([
        *corrections(30),
        *correction("t", tested.upper(), "poison", "liar"),
        *correction("k", trained[0]["text"], trained[0]["label"], "u1"),
        *correction("x", trained[1]["text"], "poison", "liar"),
    ])  # fmt: skip
    found = dry_run("support", made.settings)
    assert found.rows.left_out == {"leakage_exact": 1, "known": 1, "contradicts_training": 1}
    assert found.rows.usable == 30


def test_two_users_may_correct_a_row_that_was_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = world(tmp_path)
    wrong = old_rows(2)[1]["text"]
    made.write([*corrections(30), *correction("x", wrong, "returns", "u1"), *correction("y", wrong, "returns", "u2")])
    Pipeline(monkeypatch)
    done = retrain("support", made.settings, QUIET, clock=lambda: 100.0)
    kept = [row["messages"][0]["content"] for row in material_rows(made.store, done.material, "old_train")]
    assert done.rows.replaced == 1
    assert wrong not in kept


def test_who_was_forgotten_is_in_no_further_child(made: World) -> None:
    kept, gone, foreign = ({"extra": {"endpoint": where, "request": request}} for where, request in (
        ("support", "chatcmpl-c0"), ("support", "chatcmpl-gone"), ("other", "chatcmpl-gone")))  # fmt: skip
    heard = gathered(made.endpoint, made.settings).heard
    assert [heard.has_forgotten(row) for row in (kept, gone, foreign, {"extra": {}})] == [False, True, False, False]


def test_poisoned_corrections_are_bounded_and_counted(tmp_path: Path) -> None:
    made = world(tmp_path)
    flood = [correction(f"f{n}", f"flood {n}", "poison", "flooder") for n in range(300)]
    flipped = [correction(f"g{n}", f"new question {n} about {'shipping' if n % 2 else 'returns'} {n * 7919}",
                          "poison", "flipper", 500.0) for n in range(40)]  # fmt: skip
    made.write([*corrections(40), *(row for pair in (*flood, *flipped) for row in pair)])
    with pytest.raises(UsageError) as refused:
        dry_run("support", made.settings)
    assert "80 conflicting_answers" in refused.value.what, "one word against one: neither is believed"
    made.write([
        row
        for n in range(40)
        for row in correction(f"h{n}", f"new question {n} about {'shipping' if n % 2 else 'returns'} {n * 7919}",
                              "shipping" if n % 2 else "returns", f"other{n}", 600.0)
    ])  # fmt: skip
    found = dry_run("support", made.settings)
    assert found.rows.left_out["conflicting_answers"] == 40
    assert found.rows.left_out["over_unit"] == 280
    poisoned = found.rows.usable - 40
    assert 0 < poisoned <= 0.1 * found.rows.usable
    assert any("over_share" in line for line in found.lines())


def test_an_empty_ledger_and_broken_ids_say_so(tmp_path: Path) -> None:
    made = world(tmp_path)
    with pytest.raises(UsageError, match="holds no corrections for support") as refused:
        dry_run("support", made.settings)
    assert "/v1/feedback" in refused.value.remedy
    made.write([said("nobody", correction="x"), said("no-one", correction="y")])
    with pytest.raises(UsageError, match="2 outcomes, whichever endpoint they were sent to, name requests"):
        dry_run("support", made.settings)
    made.write(corrections(40))
    found = dry_run("support", made.settings)
    assert found.rows.unmatched == 2
    assert (
        "  unmatched 2 outcomes of requests that nobody answered, whichever endpoint they were sent to" in found.lines()
    )


def test_without_kept_text_or_consent_it_is_refused_with_the_remedy(tmp_path: Path) -> None:
    made = world(tmp_path, log="features")
    with pytest.raises(UsageError, match="log: features") as refused:
        dry_run("support", made.settings)
    assert "log: text" in refused.value.remedy
    made.change(log="text")
    made.write([row for n in range(9) for row in correction(f"n{n}", f"q{n}", "bugs", f"u{n}", consent=False)])
    with pytest.raises(UsageError, match="9 no_consent") as refused:
        dry_run("support", made.settings)
    assert '"consent": true' in refused.value.remedy


def test_a_release_that_hone_did_not_train_has_no_child(made: World) -> None:
    first = made.endpoint.arms["first"]
    made.change(arms={"first": first.model_copy(update={"version": None, "release": "base:/m"})})
    with pytest.raises(UsageError, match="no version that hone trained"):
        dry_run("support", made.settings)


def test_a_dry_run_writes_nothing(made: World) -> None:
    before = sorted(Path(made.settings.home).rglob("*"))
    found = dry_run("support", made.settings)
    assert found.lines()[0] == "support: would retrain router@1 (asked for)"
    assert [path for path in sorted(Path(made.settings.home).rglob("*")) if path not in before] == []


def test_killed_while_it_trains_it_goes_on_with_the_same_child(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = Pipeline(monkeypatch)
    ran.dies = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        retrain("support", made.settings, QUIET, clock=lambda: 100.0)
    (begun,) = attempts(made.store, "support")
    assert begun.is_unfinished
    done = retrain("support", made.settings, QUIET, clock=lambda: 200.0)
    assert (done.run, done.state, ran.resumed) == (begun.run, "deployed", [begun.run])
    assert len(ran.jobs) == len(attempts(made.store, "support")) == 1


def test_killed_before_the_run_existed_it_begins_the_same_child(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = Pipeline(monkeypatch)

    def killed(*_: Any) -> TrainResult:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "train", killed)
        with pytest.raises(KeyboardInterrupt):
            retrain("support", made.settings, QUIET, clock=lambda: 100.0)
    (begun,) = attempts(made.store, "support")
    done = retrain("support", made.settings, QUIET, finish=True)
    assert (list(ran.jobs), done.run) == ([begun.run], begun.run)


def test_killed_after_training_it_only_deploys(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = Pipeline(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(retraining_of, "challenge", lambda *_: (_ for _ in ()).throw(RunFailed("the arm is broken")))
        with pytest.raises(RunFailed):
            retrain("support", made.settings, QUIET, clock=lambda: 100.0)
    assert attempts(made.store, "support")[0].state == "accepted"
    done = retrain("support", made.settings, QUIET)
    assert (done.state, ran.challenges, len(ran.jobs), ran.resumed) == ("deployed", ["router@2"], 1, [])


def test_a_child_that_does_not_win_is_not_served(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = Pipeline(monkeypatch, decision="reject")
    done = retrain("support", made.settings, QUIET)
    assert (done.state, done.decision, ran.challenges) == ("refused", "reject", [])
    assert done.why == "new.accuracy > champion (0.700, 0.100)"


def test_a_run_that_fails_for_good_is_not_tried_again(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = Pipeline(monkeypatch)
    ran.dies = RunFailed("the loss is no number")
    with pytest.raises(RunFailed):
        retrain("support", made.settings, QUIET)
    assert attempts(made.store, "support")[0].state == "failed"
    ran.dies = None
    retrain("support", made.settings, QUIET)
    assert [one.state for one in attempts(made.store, "support")] == ["failed", "deployed"], "a child asked for anew"


def test_nobody_is_retrained_twice_at_once(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = Pipeline(monkeypatch)
    inner: list[str] = []

    def meanwhile(*arguments: Any) -> TrainResult:
        with pytest.raises(UsageError, match="being retrained already"):
            retrain("support", made.settings, QUIET)
        inner.append("refused")
        return ran.train(*arguments)

    monkeypatch.setattr(pipeline, "train", meanwhile)
    retrain("support", made.settings, QUIET)
    assert inner == ["refused"]


def test_confirmed_answers_are_rows_where_the_endpoint_says_so(tmp_path: Path) -> None:
    made = world(tmp_path, confirmed=True)
    right = [(exposure(f"r{n}", f"right {n}", f"v{n}", answer=LABELS[n % 3]), said(f"r{n}", value=1.0))
             for n in range(20)]  # fmt: skip
    made.write([row for pair in right for row in pair])
    assert dry_run("support", made.settings).rows.usable == 20
