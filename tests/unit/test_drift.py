"""A look at drift over a real ledger: what it says of no data, of the same prompts and of others, and what it keeps."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest

from cluster.cli import main
from cluster.errors import StoreError, UsageError
from cluster.progress import Progress
from serving.drift import DRIFT, LATEST, latest, look, reference_arm
from serving.drift_page import drift_page
from serving.drift_report import DriftReport
from serving.first_weeks import FIRST_S
from serving.ledger_rows import Exposure, Outcome
from serving.watch import Look, watch
from tests.endpoints import endpoint
from tests.experiment_rows import exposure
from tests.sketched import Log, Served, parcels, sketched, tickets
from tests.tiny import write_base


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = write_base(tmp_path_factory.mktemp("release") / "m")
    sketched(made, tickets(900))
    return made


@pytest.fixture
def served(tmp_path: Path, release: Path) -> Served:
    return Served(tmp_path / "home", release)


def is_undecided(report: DriftReport) -> bool:
    return (report.decision, report.drift, report.interval, report.flagged) == ("undecided", None, None, False)


def test_an_empty_ledger_says_so(served: Served):
    found = served.look()
    assert is_undecided(found)
    assert found.reason == "the ledger has no request since the release was made"
    assert "undecided: the ledger has no request" in found.lines()[0]


def test_an_endpoint_that_is_not_there_is_a_users_mistake(served: Served):
    with pytest.raises(UsageError, match="no endpoint 'suport'"):
        look("suport", served.settings, 1e6)


def test_without_a_log_without_a_sketch_and_with_few_rows_nothing_is_said(tmp_path: Path, release: Path):
    off = Served(tmp_path / "off", release, log="off")
    assert "log is off" in off.look().reason
    bare = write_base(tmp_path / "bare")
    none = Served(tmp_path / "none", bare)
    assert "no sketch" in none.look().reason
    sketched(bare, tickets(30))
    small = Served(tmp_path / "small", bare)
    small.asked(tickets(300, seed=2))
    assert is_undecided(small.look())
    assert "30 different prompts" in small.look().reason
    few = Served(tmp_path / "few", release)
    few.asked(tickets(70, seed=2))
    found = few.look()
    assert is_undecided(found)
    assert found.reason == "70 prompts of different users are there, and the test needs 100"


def test_rows_from_before_features_were_kept_are_undecided(served: Served):
    rows = [exposure(f"r{n}", f"u{n}", "main", {"main": 1.0}, 2000.0 + n, endpoint="support") for n in range(200)]
    served.write([row.model_copy(update={"kept": {"prompt_characters": 3}}) for row in rows])
    assert served.look().reason == "no row says what its prompt was"


@pytest.mark.parametrize("log", ["text", "features"])
def test_drift_is_found_under_either_log_and_no_drift_is_not(tmp_path: Path, release: Path, log: Log):
    served = Served(tmp_path / "home", release, log=log)
    served.asked(tickets(300, seed=5))
    before = served.look(2400.0)
    assert (before.decision, before.flagged) == ("none", False)
    assert before.interval is not None
    assert before.interval.low <= 0.5 <= before.interval.high
    served.asked(parcels(tickets(400, seed=6)), since_s=3000.0)
    after = served.look()
    assert (after.decision, after.flagged, after.release) == ("drift", True, "m@1")
    assert after.drift is not None
    assert after.drift > 0.6
    assert set(after.blocks) == {"n_grams", "embeddings"}
    assert after.flagged_s is not None
    assert after.flagged_s > 3000.0
    terms = {term.term: term.direction for term in after.terms}
    if log == "text":
        assert {terms[word] for word in ("parcel", "shipment", "lost")} == {"live"}
    else:
        assert not {"parcel", "shipment"} & terms.keys(), "numbers cannot name what training has no word for"
    rates = {rate.name: (rate.reference, rate.live) for rate in after.rates}
    reference, live = rates["tokens that no (other) training prompt has"]
    assert live is not None
    assert reference is not None
    assert live > reference + 0.02


def test_each_row_is_tested_once_and_what_was_found_stays_found(served: Served):
    served.asked(tickets(200, seed=5))
    first, second = served.look(), served.look()
    assert (first.tested, first.waiting, first.evidence) == (second.tested, second.waiting, second.evidence)
    assert first.tested == 200
    served.asked(parcels(tickets(300, seed=6), every=1), since_s=3000.0)
    found = served.look()
    served.asked(tickets(1500, seed=7), since_s=5000.0)
    calm = served.look()
    assert (calm.flagged, calm.flagged_s) == (True, found.flagged_s)
    assert found.drift is not None
    assert calm.drift is not None
    assert calm.drift < found.drift


def test_a_user_who_floods_does_not_raise_the_alarm(served: Served):
    served.asked(tickets(150, seed=5))
    served.asked(parcels(tickets(400, seed=6), every=1), since_s=3000.0, unit="flooder")
    found = served.look()
    assert (found.flagged, found.rows) == (False, 151)


def test_forced_requests_are_no_users(served: Served):
    served.asked(tickets(150, seed=5))
    served.asked(parcels(tickets(200, seed=6), every=1), since_s=3000.0, forced=True)
    assert served.look().rows == 150


def test_the_last_report_lies_in_the_store_without_a_prompt_or_user(served: Served):
    assert latest(served.store, "support") is None
    served.asked([f"{text} ann{n}@example.com" for n, text in enumerate(tickets(200, seed=5))])
    found = served.look()
    assert latest(served.store, "support") == found
    folder = Path(served.store.path(DRIFT, "support"))
    said = "".join(path.read_text() for path in folder.glob("*.json"))
    assert "example.com" not in said
    assert "u2000" not in said, "users are kept as 32 bits of a hash"
    served.store.put_json({"other": 1}, DRIFT, "support", LATEST)
    assert latest(served.store, "support") is None, "a report of another version is none"


def test_damaged_memory_is_an_error_and_not_a_new_beginning(served: Served):
    served.asked(tickets(200, seed=5))
    served.look()
    (memory,) = [path for path in Path(served.store.path(DRIFT, "support")).glob("*.json") if path.name != LATEST]
    memory.write_text(json.dumps({"test": {"number": "x"}}))
    with pytest.raises(StoreError, match="tested before is damaged"):
        served.look()


def test_the_reference_is_what_most_users_get():
    plain = endpoint(a=10, b=90).model_copy(update={"experiment": None})
    assert reference_arm(plain) == "b"
    assert reference_arm(endpoint(a=10, b=90)) == "a", "the experiment's control"


def test_a_release_of_rows_without_prompts_says_so(tmp_path: Path):
    bare = write_base(tmp_path / "text")
    sketched(bare, [])
    assert "rows without prompts" in Served(tmp_path / "home", bare).look().reason


def test_outcomes_and_failures_are_compared_with_the_first_weeks(served: Served):
    rows: list[Exposure | Outcome] = []
    for place in range(800):
        time_s = 2000.0 + (place if place < 400 else FIRST_S + place)
        is_late = place >= 400
        fields = {"endpoint": "support", "experiment": None, "status": "failed" if is_late and place % 3 else "ok"}
        rows.append(exposure(f"r{place}", f"u{place}", "main", {"main": 1.0}, time_s, **fields))
        value = float(place % 5 > 0) if not is_late else float(place % 2)
        rows.append(Outcome(request=f"r{place}", time_s=time_s + 1, name="success", value=value))
    served.write(rows)
    early = served.look(2000.0 + FIRST_S / 2)
    assert early.outcome is not None
    assert (early.outcome.decided, early.outcome.value) == (False, None)
    found = served.look(2000.0 + FIRST_S + 2000)
    assert found.outcome is not None
    assert found.errors is not None
    assert (found.outcome.name, found.outcome.changed, found.errors.changed) == ("success", True, True)
    assert found.outcome.value == pytest.approx(0.5, abs=0.05)
    assert found.outcome.reference is not None
    assert found.outcome.reference.value == pytest.approx(0.8, abs=0.05)
    assert any("success: CHANGED: 0.5 now, 0.8 in the first weeks" in line for line in found.lines())


def test_the_page_shows_what_was_found_with_its_text_escaped(served: Served):
    served.asked([f"{text} <b>parcel</b>" for text in tickets(400, seed=5)])
    shown = drift_page(served.look())
    assert "<b>parcel" not in shown
    assert "parcel" in shown
    assert "live prompts differ from what the release was trained on" in shown
    empty = drift_page(DriftReport(endpoint="e", release="m@1", at_s=0.0, decision="undecided", reason="no rows"))
    assert "Nothing could be tested." in empty


def test_the_command_prints_one_object_and_writes_the_page(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("HONE_HOME", served.settings.home)
    served.asked(tickets(120, seed=5))
    assert main(["drift", "support", "--json", "--report", str(tmp_path / "drift.html")]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (printed["decision"], printed["endpoint"], printed["flagged"]) == ("none", "support", False)
    assert "no difference is proven so far" in (tmp_path / "drift.html").read_text()
    assert main(["drift", "absent"]) == 2


def test_a_dry_watch_sees_drift_and_leaves_the_store_as_it_was(served: Served):
    served.asked(tickets(200, seed=5))
    served.look(2300.0)
    served.asked(parcels(tickets(400, seed=6)), since_s=3000.0)
    before = contents(served.home)
    looks: list[Look] = []
    for _ in range(2):
        quiet = Progress(StringIO())
        watch("support", "drift > 0.55", served.settings, quiet, is_dry=True, once=True, tell=looks.append)
    assert contents(served.home) == before
    assert [seen.cause for seen in looks] == ["drift > 0.55"] * 2
    assert served.look().drift == looks[0].facts["drift"], "who keeps what is found finds the same"
    assert contents(served.home) != before


def contents(home: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
