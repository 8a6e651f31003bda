"""The training report: what it must say of every kind of run, what it must never show, and that its times add up."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import pytest

from cluster.phases import Phase
from cluster.pipeline import REPORT_PAGE
from cluster.records import GateReport, Interval, RuleOutcome
from cluster.run_context import RunContext
from cluster.train_spec import TrainSpec
from tests.checked_sets import PLAN
from tests.finished_runs import HASH, RUN, Logged, finished_run, history, trained, written_page
from tests.page_outline import Outline, refuse_fetching_or_running
from tests.tiny import ticket_rows
from trainers.evaluation import Scored
from trainers.splits import EvaluationExample
from trainers.train_curves import MIN_POINTS, curves_section, points, with_mean
from trainers.train_scores import scores_section
from trainers.train_time import REST, inside_training, stages_timed, time_section

EVIL = "<script>document.title = 'owned'</script><img src=x onerror=alert(1)>"
PRIVATE = "anna.schmidt@firma.de"
REJECTED = GateReport(
    decision="reject",
    rules=[
        RuleOutcome(rule="accuracy >= 0.9", left=0.8123, right=0.9, passed=False),
        RuleOutcome(rule="loss <= champion", left=None, right=None, passed=True, note="no champion yet"),
    ],
)


def tickets(count: int, seed: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [dict(row) for row in ticket_rows(count, seed)]
    for row in rows:
        row["text"] += f" {EVIL} {PRIVATE}"
    return rows


def by_place(role: str, example: EvaluationExample) -> str:
    """Answer by the example's line: of five, tuning fixes two, breaks one, and leaves two as they are."""
    right = {"base": (2, 3), "tuned": (0, 1, 3)}[role]
    return str(example.label) if int(example.where.rpartition(":")[2]) % 5 in right else f"{EVIL} {PRIVATE}"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    files = {"train": tickets(200, 0), "test": tickets(50, 1)}
    return finished_run(tmp_path_factory.mktemp("run"), files, by_place, points=history(700, 100))


@pytest.fixture(scope="module")
def page(run: RunContext) -> str:
    return written_page(run)


def text_of(section: str, page: str) -> str:
    """Return one section of a page as text."""
    start = page.index(f'<section id="{section}">')
    return Outline(page[start : page.index("</section>", start)]).text


def test_it_is_one_well_formed_page_that_fetches_and_runs_nothing(page: str):
    refuse_fetching_or_running(page)
    assert "owned" in Outline(page).text, "the rows are shown, escaped"


def test_it_is_kept_with_the_run_and_in_mlflow_and_is_the_same_every_time(run: RunContext, page: str):
    assert cast("Logged", run.registry).texts == {REPORT_PAGE: page}
    assert written_page(run) == page


def test_personal_data_is_nowhere_on_it(page: str):
    assert "[EMAIL]" in page
    for private in ("anna", "firma.de"):
        assert private not in page


def test_the_head_says_what_came_out_of_what(page: str):
    head = Outline(page[page.index("<header>") : page.index("</header>")]).text
    for said in ("Accepted: checked@1", RUN, f"{RUN}/release", HASH, "accuracy >= base + 0.1", "holds", "0.35"):
        assert said in head
    for said in ("LoRA of rank 16 over ./base", "180 train", "2 workers on cpu (a processor)", "fp32", "ZeRO stage 2"):
        assert said in head


def test_scores_stand_with_their_intervals_and_paired_differences(page: str):
    text = text_of("scores", page)
    assert "50 examples" in text
    assert re.search(r"accuracy\s*0\.400\s*0\.\d+ to 0\.\d+\s*0\.600\s*0\.\d+ to 0\.\d+\s*\+0\.200", text)
    assert re.search(r"loss\s*1\.\d+\s*.*better", text)


def test_examples_are_shown_before_and_after_in_the_groups_they_belong_to(page: str):
    text = text_of("before-and-after", page)
    for told in (r"✓ fixed\s*20", r"✗ broken\s*10", r"! still wrong\s*10", r"right before and after\s*10"):
        assert re.search(told, text), told
    assert text.count("expected") == 12 + 1, "twelve examples, and the word in the lead"
    assert re.search(r"Fixed: 3 of 20", text)


def test_confusions_count_every_example(page: str):
    body = page[page.index('<table class="confusion">') :]
    counts = re.findall(r'class="(?:hit|miss) shade-\d">(\d+)<', body[: body.index("</table>")])
    assert sum(map(int, counts)) == 50


def test_curves_mark_the_best_step_and_say_how_they_are_drawn(page: str):
    text = text_of("curves", page)
    for said in ("best: step 700", "mean of the 15 steps around", "an epoch 40 steps", "thinned to 600 points"):
        assert said in text
    for name in ("Loss", "Learning rate", "Gradient norm", "Examples a second"):
        assert f"<title>{name}</title>" in page


def test_a_rejected_run_says_which_rule_failed(tmp_path: Path):
    files = {"train": tickets(60, 0), "test": tickets(20, 1)}
    page = written_page(finished_run(tmp_path, files, by_place, gate=REJECTED))
    head = Outline(page[page.index("<header>") : page.index("</header>")]).text
    assert "Rejected: no version was made" in head
    assert "1 of 2 gate rules failed." in head
    assert re.search(r"fails\s*accuracy >= 0.9\s*0.8123\s*0.9", head)
    assert "no champion yet" in head


def answers(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"prompt": f"describe pub {start + place}", "completion": f"Pub {start + place} is {word} and serves fish."}
        for place in range(count)
        for word in ("cosy", "quiet", "cheap", "near", "old")
    ]


def test_generation_shows_references_slices_and_the_few_shot_base(tmp_path: Path):
    general = [{"prompt": f"repeat {n * 7919}", "completion": f"{n * 7919} it is"} for n in range(150)]
    source = {"name": "general", "train": f"{tmp_path}/set/general.jsonl", "weight": 0.1}
    files = {"train": answers(60), "test": answers(20, 100), "general": general}
    page = written_page(
        finished_run(
            tmp_path,
            files,
            lambda role, example: example.references[0] if role == "tuned" else "no idea",
            roles=("tuned", "base", "base_few_shot"),
            data={"mix": [source]},
            train={"method": "full"},
        )
    )
    refuse_fetching_or_running(page)
    assert "base, few-shot" in text_of("scores", page)
    assert "general a slice that no rule without its name judges" in text_of("scores", page)
    shown = text_of("before-and-after", page)
    assert "and 2 more right answers" in shown
    assert "ROUGE-L 1.00" in shown
    assert 'id="confusions"' not in page
    assert "all weights of ./base" in page


def test_plain_text_is_shown_by_its_loss(tmp_path: Path):
    rows = [{"text": f"Once upon a time there was a fox number {place}."} for place in range(80)]
    files = {"train": rows, "test": [{"text": f"A bear went to market {place}."} for place in range(30)]}
    page = written_page(finished_run(tmp_path, files, lambda _role, _example: ""))
    assert re.search(r"base loss per token \d\.\d+", text_of("before-and-after", page))
    assert "A bear went to market" in text_of("before-and-after", page)
    assert 'id="confusions"' not in page


def test_a_run_without_test_and_validation_says_what_is_not_known(tmp_path: Path):
    ctx = finished_run(
        tmp_path,
        {"train": tickets(60, 0)},
        by_place,
        data={"split": {"test": 0.0, "validation": 0.0}},
        gate=GateReport(decision="accept", rules=[]),
        points=history(3, 0),
        phases=[],
    )
    page = written_page(ctx)
    refuse_fetching_or_running(page)
    assert "No rows were held out for a test" in text_of("scores", page)
    assert "There is no validation split" in text_of("curves", page)
    assert "The job has no gate rules" in page
    assert 'id="before-and-after"' not in page


def test_a_base_that_was_not_scored_is_not_on_the_page(tmp_path: Path):
    files = {"train": tickets(60, 0), "test": tickets(20, 1)}
    page = written_page(finished_run(tmp_path, files, by_place, roles=("tuned",)))
    assert "difference" not in text_of("scores", page).removeprefix("Scores").split("row by row.")[1]
    assert re.search(r"✗ wrong\s*8", text_of("before-and-after", page))


@pytest.mark.parametrize(
    ("metric", "low", "high", "said"),
    [
        ("accuracy", 0.1, 0.3, "better"),
        ("accuracy", -0.3, -0.1, "worse"),
        ("accuracy", -0.1, 0.3, "not clear"),
        ("loss", -0.3, -0.1, "better"),
        ("loss", 0.1, 0.3, "worse"),
    ],
)
def test_a_difference_is_judged_by_its_interval_and_the_metrics_direction(
    metric: str, low: float, high: float, said: str
):
    span = Interval(value=(low + high) / 2, low=low, high=high)
    scores = {role: {"test": {metric: 0.5}} for role in ("tuned", "base")}
    section = scores_section(Scored(scores, {"difference": {"test": {metric: span}}}, {"test": 9}, []), {}, 1)
    assert said in Outline(section.body).text


def test_gradient_norms_that_the_engine_did_not_say_are_no_curve():
    unsaid = [{**row, "grad_norm": 0.0} if "grad_norm" in row else row for row in history()]
    body = curves_section(unsaid, trained(unsaid), PLAN, TrainSpec())
    assert "<title>Gradient norm</title>" not in body.body
    assert "Gradient norms are not known" in body.lead


def test_short_curves_are_drawn_as_they_are():
    (alone,) = with_mean("loss", points(history(MIN_POINTS - 1, 0), "loss"))
    assert alone.stroke == "main"
    assert [series.stroke for series in with_mean("loss", points(history(MIN_POINTS, 0), "loss"))] == ["faint", "main"]


def test_times_inside_training_add_up_to_its_stage_over_all_attempts():
    weights = trained(history())
    phases = [Phase(stage="train", took_s=25.0), Phase(stage="train", took_s=75.0, done=True)]
    stages = stages_timed(phases, weights)
    parts = inside_training(weights, stages)
    assert parts[REST] == 15.0
    assert sum(parts.values()) == sum(time.took_s for time in stages) == 100.0


def test_the_time_of_a_killed_attempt_is_unknown_not_nothing():
    weights = trained(history())
    phases = [Phase(stage="train"), Phase(stage="train", took_s=40.0, done=True), Phase(stage="report")]
    (stage,) = stages_timed(phases, weights)
    assert stage.took_s == 85.0, "at least what the loop counted over all attempts"
    assert REST not in inside_training(weights, [stage])
    text = Outline(time_section(phases, weights, PLAN).body).text
    assert "at least 1 min 25 s" in text
    assert "nothing can say when" in text


def test_the_page_adds_up_the_stages(page: str):
    text = text_of("time", page)
    assert "train (2 attempts)1 min 40 s" in text
    assert re.search(r"all stages\s*2 min 02 s", text)
    assert "start-up, waiting, steps done again15 s" in text
