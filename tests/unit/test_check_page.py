"""The check's page: what it must say, what it must never show, and that it is written when it is needed most."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from cluster.cli import main
from cluster.errors import CapacityError
from cluster.records import Fixed
from cluster.resources import plan_facts
from tests.checked_sets import PLAN, CheckedSet, checked_set
from tests.page_outline import Outline, refuse_fetching_or_running
from tests.tiny import ticket_rows, write_base, write_jsonl
from trainers.report_records import FileRecord
from trainers.token_view import SPACE
from trainers.tokens import TokenSet

EVIL = "<script>document.title = 'owned'</script><img src=x onerror=alert(1)>"


def tickets(count: int = 260) -> list[dict[str, Any]]:
    """Return rows of three labels, a few of them hostile, private, damaged or copied."""
    rows: list[dict[str, Any]] = [dict(row) for row in ticket_rows(count)]
    rows[3]["text"] = f"{EVIL} my invoice is wrong"
    rows[4]["text"] = "write to anna.schmidt@firma.de or +49 170 1234567 about the refund"
    rows[5]["text"] = "the cafÃ© login\x00 is \u202elocked"
    rows[6] = dict(rows[7])
    for row in rows[:10]:
        row["synthetic"] = True
    rows[8]["channel"] = "mail"
    return rows


def text_of(section: str, page: str) -> str:
    """Return one section of a page as text."""
    start = page.index(f'<section id="{section}">')
    return Outline(page[start : page.index("</section>", start)]).text


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> CheckedSet:
    held_out = [{"text": f"a fresh question {place} of refund", "label": "billing"} for place in range(20)]
    files = {"train": tickets(), "test": [*held_out, *tickets()[10:12]]}
    return checked_set(tmp_path_factory.mktemp("set"), files, 250, audit={"fix": ["duplicate_exact", "truncated"]})


@pytest.fixture(scope="module")
def page(checked: CheckedSet) -> str:
    return checked.page()


def test_it_is_one_well_formed_page_that_fetches_and_runs_nothing(page: str):
    refuse_fetching_or_running(page)
    assert "owned" in Outline(page).text


def test_it_is_the_same_every_time(checked: CheckedSet, page: str):
    assert checked.page() == page


def test_personal_data_is_nowhere_on_it(page: str):
    assert "[EMAIL]" in page
    assert "[PHONE]" in page
    for private in ("anna", "firma.de", "1234567"):
        assert private not in page


def test_characters_that_would_mislead_a_reader_are_spelled_out(page: str):
    assert "U+202E" in page
    assert "\u202e" not in page
    assert "\x00" not in page


def test_every_finding_is_there_with_its_remedy_and_places(checked: CheckedSet, page: str):
    text = Outline(page).text
    codes = {finding.code for finding in checked.prepared.record.findings}
    assert {"leakage_exact", "encoding_damaged", "control_characters", "pii"} <= codes
    for finding in checked.prepared.record.findings:
        assert finding.code in text
        assert finding.remedy in text
        if finding.code != "small":
            assert all(place in text for place in finding.rows)


def test_errors_are_the_first_thing_said(page: str):
    head = page[: page.index("<main>")]
    assert "Not fit to train on" in head
    assert "1 error" in head


def test_the_tokens_marked_are_those_that_are_learned(checked: CheckedSet, page: str):
    record = checked.prepared.record
    path = checked.prepared.tokens_path("train")
    assert path is not None
    ids, is_target = TokenSet.load(path).example(record.typical.index)
    drawn = page[page.index('<div class="tokens">') : page.index("The chat template")]
    tags = re.findall(r'<(mark|span) class="[^"]*" title="token (\d+)"', drawn)
    assert [(tag == "mark", int(token)) for tag, token in tags] == list(
        zip(is_target.tolist(), ids.tolist(), strict=True)
    )
    assert f"{int(is_target.sum())} learned" in text_of("one-example-as-the-model-sees-it", page)


def test_the_typical_example_is_the_row_that_it_names(checked: CheckedSet, page: str):
    typical = checked.prepared.record.typical
    row = checked.prepared.rows("train")[typical.index]
    assert row.where == typical.where
    drawn = page[page.index('<div class="tokens">') : page.index("The chat template")]
    text = Outline(drawn).text.replace(SPACE, " ")
    assert row.messages[0]["content"] in text
    assert f"{row.completion}<|end|>" in text


def test_the_histograms_count_every_training_row(checked: CheckedSet, page: str):
    lengths = page[page.index('<section id="lengths">') : page.index("The same for")]
    drawn = [chart.split("</svg>")[0] for chart in lengths.split("<svg")[1:]]
    assert len(drawn) == 2
    for chart in drawn:
        counts = [int(found.replace(",", "")) for found in re.findall(r": ([\d,]+)</title>", chart)]
        assert sum(counts) == checked.prepared.record.splits["train"].rows
    assert "max_length 250" in drawn[0]


def test_how_the_format_was_inferred_is_said_for_every_file(checked: CheckedSet, page: str):
    train = checked.prepared.record.files[0]
    assert train == FileRecord(
        name=train.name,
        source="train",
        format="classification",
        reason="it has the columns 'text', 'label'",
        columns={"synthetic": "synthetic", "text": "text", "label": "label"},
        unused=["channel"],
        records=260,
        rows=260,
    )
    text = text_of("how-the-files-were-read", page)
    for said in ("classification", train.reason, "label → the answer, learned", "channel → not used", "test.jsonl"):
        assert said in text


def test_fixes_asked_for_are_told_with_what_they_did(checked: CheckedSet, page: str):
    assert checked.prepared.record.fixed == {"duplicate_exact": Fixed(dropped=1, rows=[f"{train_file(checked)}:8"])}
    text = text_of("how-the-files-were-read", page)
    assert f"{train_file(checked)}:8" in text
    assert "nothing to fix" in text


def train_file(checked: CheckedSet) -> str:
    return checked.prepared.record.files[0].name


def test_splits_tell_rows_inputs_copies_references_and_synthetic_rows(tmp_path: Path):
    rows = [{"prompt": f"question {place}", "completion": f"answer {place}"} for place in range(60)]
    rows += [{"prompt": "question 1", "completion": "another answer"}, rows[2]]
    test = [
        {"prompt": f"held {n}", "completion": "yes", "references": ["yea", "aye"], "synthetic": True} for n in range(4)
    ]
    split = {"validation": 0, "test": 0}
    page = checked_set(tmp_path, {"train": rows, "test": test}, split=split).page()
    table = page[page.index('<section id="splits">') :]
    cells = [re.findall(r'<td class="number">([\d,]*)', row) for row in table.split("<tr>")[2:4]]
    assert [row[:6] for row in cells] == [["62", "60", "1", "0", "0", "0"], ["4", "4", "0", "8", "4", "0"]]


def test_sources_of_a_mixture_are_told_with_their_weight_and_share(tmp_path: Path):
    rows = [{"prompt": f"question {place}", "completion": f"answer {place}"} for place in range(60)]
    general = [{"text": f"general text {place} of nothing in particular"} for place in range(90)]
    mix = [{"name": "general", "train": f"{tmp_path}/general.jsonl", "weight": 0.5}]
    split = {"validation": 0, "test": 0}
    page = checked_set(tmp_path, {"train": rows, "general": general}, mix=mix, split=split).page()
    row = next(row for row in page.split("<tr>") if row.startswith('<td class="words">general<'))
    assert re.findall(r'"number">([^<]*)<', row) == ["0.5", "90", "30", "33.3%"]
    assert "general.jsonl" in text_of("how-the-files-were-read", page)


def test_rows_that_max_length_empties_are_counted_as_left_out(tmp_path: Path):
    rows = [{"prompt": f"question {place}", "completion": f"answer {place}"} for place in range(60)]
    rows[5] = {"prompt": "long " * 200, "completion": "never seen"}
    split = {"validation": 0, "test": 0}
    checked = checked_set(tmp_path, {"train": rows}, 100, split=split)
    assert checked.prepared.record.without_target == {"train": 1, "validation": 0, "test": 0}
    assert checked.prepared.record.splits["train"].rows == 59
    assert f"{train_file(checked)}:6" in checked.page()


def test_every_class_is_counted(checked: CheckedSet, page: str):
    counts = checked.prepared.counts("train", "label")
    text = text_of("classes", page)
    for label, num in counts.items():
        assert re.search(rf"{label}\s*{num:,} \({num / counts.total():.1%}\)", text)


def test_rows_without_labels_have_no_classes(tmp_path: Path):
    rows = [{"prompt": f"question {place}", "completion": f"answer {place}"} for place in range(60)]
    assert 'id="classes"' not in checked_set(tmp_path, {"train": rows}).page()


def test_all_turns_that_are_learned_are_marked(tmp_path: Path):
    turns = [("user", "One?"), ("assistant", "First."), ("user", "Two?"), ("assistant", "Second.")]
    rows = [{"messages": [{"role": role, "content": text} for role, text in turns]} for _ in range(3)]
    page = checked_set(tmp_path, {"train": rows}, split={"validation": 0, "test": 0}, loss_on="all").page()
    drawn = page[page.index('<div class="tokens">') : page.index("The chat template")]
    marked = "".join(Outline(part.split("</mark>")[0]).text for part in drawn.split("<mark")[1:])
    assert re.sub(r'[a-z "]*title="token \d+">| class="[a-z ]*"', "", marked) == "First.<|end|>Second.<|end|>"
    assert "2 (" in text_of("one-example-as-the-model-sees-it", page)


def test_all_of_the_plan_is_there_with_its_memory_in_bars(page: str):
    text = text_of("plan", page)
    for name, said in plan_facts(PLAN):
        assert name in text
        assert said in text
    parts = [name for name, size in PLAN.memory_bytes.items() if size]
    bars = page[page.index("Memory of one worker") :]
    assert re.findall(r"<tr><td>([a-z]+)</td>", bars) == parts


def test_a_run_that_is_refused_says_why_in_place_of_a_plan(checked: CheckedSet):
    refused = CapacityError(
        "4 workers asked, the cluster has room for 2", "set cluster.workers to 2", "cluster.workers"
    )
    text = text_of("plan", checked.page(plan=None, refused=refused))
    assert refused.what in text
    assert refused.remedy in text


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


def job_file(directory: Path, base: Path, more: str = "") -> Path:
    train = write_jsonl(directory / "train.jsonl", ticket_rows(60))
    test = write_jsonl(directory / "test.jsonl", ticket_rows(3))
    path = directory / "job.yaml"
    path.write_text(
        f"name: t\nbase: {base}\ndata: {{train: {train}, test: {test}}}\ntrain: {{max_length: 100}}\n{more}"
    )
    return path


def test_check_writes_the_page_also_where_the_data_has_errors(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("HONE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert main(["check", str(job_file(tmp_path, base)), "--json", "--report"]) == 2
    shown = capsys.readouterr()
    assert "check-report.html" in shown.err
    assert shown.out.count("\n") == 1
    text = (tmp_path / "check-report.html").read_text(encoding="utf-8")
    assert "Not fit to train on" in text
    refuse_fetching_or_running(text)


def test_check_writes_the_page_also_where_the_run_cannot_fit(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("HONE_HOME", str(tmp_path / "home"))
    page = tmp_path / "page.html"
    assert main(["check", str(job_file(tmp_path, base, "cluster: {workers: 999}\n")), "--report", str(page)]) == 2
    assert "the audit found errors (above), and 999 workers asked" in capsys.readouterr().err  # the data comes first
    assert "999 workers asked" in text_of("plan", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--report", "job.yaml"], "behind the job file"),
        (["job.yaml", "--report", "no/such/place.html"], "no directory"),
    ],
)
def test_a_page_never_replaces_another_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text("name: x\n")
    with pytest.raises(SystemExit) as ended:
        main(["check", *arguments])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert (tmp_path / "job.yaml").read_text() == "name: x\n"
