"""`hone train` end to end on a tiny base and a task it can learn, through the command line's own entry."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cluster.cli import main
from cluster.records import FINDING_CODES
from cluster.registry import Registry
from cluster.session import Settings
from cluster.sketch import Sketch
from tests.tiny import KEYWORDS, write_diverging_base

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HONE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def job_file(directory: Path, base: Path, data: Path, gate: str = "[]", **train: Any) -> Path:
    settings = {"method": "full", "epochs": 6, "learning_rate": 3e-3, "batch_size": 16, "eval_every": 2.0} | train
    lines = "\n".join(f"  {key}: {json.dumps(value)}" for key, value in settings.items())
    path = directory / "job.yaml"
    path.write_text(
        f"name: tickets\nbase: {base}\ndata: {data}\ntrain:\n{lines}\n"
        f"cluster: {{workers: 2}}\nevaluate: {{max_new_tokens: 8, batch_size: 64}}\ngate: {gate}\n"
    )
    return path


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any], str]:
    code = main([*arguments, "--json"])
    shown = capsys.readouterr()
    last = shown.out.splitlines()[-1] if shown.out.strip() else ""
    if code not in (0, 3):
        assert not last.startswith("{"), "an error prints no result"
        return code, {}, shown.err
    return code, json.loads(last), shown.err


def test_full_tuning_learns_is_released_and_registered(
    tmp_path: Path, home: Path, tiny_base: Path, tickets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = job_file(tmp_path, tiny_base, tickets, gate='["accuracy >= base + 0.3", "macro_f1 >= 0.6"]', zero_stage=2)
    code, result, _ = run_json(capsys, "train", str(job))
    assert code == 0
    assert result["gate"]["decision"] == "accept"
    assert result["version"] == "tickets@1"
    assert set(result) == {
        "run", "release", "version", "steps", "examples", "metrics", "intervals", "throughput", "gate",
    }  # fmt: skip
    assert result["metrics"]["test"]["accuracy"] > 0.6 > result["metrics"]["base"]["accuracy"]
    assert result["intervals"]["test"]["accuracy"].keys() == {"value", "low", "high"}
    assert result["throughput"]["examples_per_s"] > 0
    loads_like_any_model(Path(result["release"]))
    check = (home / "runs" / result["run"] / "check.html").read_text(encoding="utf-8")
    assert "<h1>tickets</h1>" in check
    assert [path.read_text(encoding="utf-8") for path in home.glob("mlartifacts/*/*/artifacts/check.html")] == [check]
    report = (home / "runs" / result["run"] / "report.html").read_text(encoding="utf-8")
    assert "Accepted: tickets@1" in report
    assert [path.read_text(encoding="utf-8") for path in home.glob("mlartifacts/*/*/artifacts/report.html")] == [report]
    code, again, _ = run_json(capsys, "evaluate", "tickets@champion", "--data", str(tickets))
    assert code == 0
    assert again["metrics"]["accuracy"] > 0.6
    assert main(["list"]) == 0
    assert result["run"] in capsys.readouterr().out
    code, status, _ = run_json(capsys, "status", result["run"])
    assert status.keys() == {"run", "stage", "state", "why", "step", "steps", "metrics", "eta_s"}
    assert (code, status["state"], status["step"]) == (0, "finished", result["steps"])


def loads_like_any_model(release: Path) -> None:
    """A stranger loads the release with transformers alone and gets an answer that ends."""
    tokenizer = AutoTokenizer.from_pretrained(release)
    model = AutoModelForCausalLM.from_pretrained(release)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "please help the invoice"}], add_generation_prompt=True, tokenize=False
    )
    ids = torch.tensor([tokenizer(asked, add_special_tokens=False)["input_ids"]])
    answer = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)[
        0, ids.shape[1] :
    ]
    assert tokenizer.decode(answer, skip_special_tokens=True).strip() == "billing"
    assert answer[-1] == tokenizer.eos_token_id
    assert {path.suffix for path in release.iterdir()} <= {".json", ".safetensors", ".md", ".jinja", ".npz"}
    sketch = Sketch.load(release)
    assert sketch is not None
    assert sketch.classes == sorted(KEYWORDS)
    assert sketch.tokens is not None
    assert "## Limits" in (release / "README.md").read_text()


def test_lora_under_zero_3_gives_an_adapter_that_reloads(
    tmp_path: Path, home: Path, tiny_base: Path, tickets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = job_file(
        tmp_path, tiny_base, tickets, gate='["accuracy >= 0.999"]',
        method="lora", lora={"rank": 8}, zero_stage=3, epochs=1, learning_rate=1e-2, best_by="loss",
    )  # fmt: skip
    code, result, _ = run_json(capsys, "train", str(job), "--set", "tracking=[mlflow, tensorboard]")
    release = Path(result["release"])
    assert code == 3
    assert result["gate"]["decision"] == "reject"
    assert result["version"] is None
    assert (release / "adapter_config.json").is_file()
    assert json.loads((release / "release.json").read_text())["reload_max_abs_diff"] < 1e-4
    assert list((release.parent / "tensorboard").glob("events.out.tfevents.*"))
    code, merged, _ = run_json(capsys, "merge", str(release), str(tmp_path / "merged"))
    assert code == 0
    assert Sketch.load(Path(tmp_path / "merged")) is not None, "an adapter's is made with its base's embeddings"
    assert merged["max_abs_logit_difference"] < 1e-3 < merged["adapter_effect"]


def test_the_best_checkpoint_can_be_chosen_by_a_generated_metric(
    tmp_path: Path, home: Path, tiny_base: Path, tickets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = job_file(tmp_path, tiny_base, tickets, epochs=2, best_by="accuracy", eval_every=1.0)
    job.write_text(job.read_text() + "sweep: {space: {train.dropout: [0.0, 0.1]}}\n")
    code, result, said = run_json(capsys, "train", str(job))
    assert code == 0
    assert "study" not in result, "one training, although the job has a sweep block"
    assert "hone sweep" in said
    assert 0 <= result["metrics"]["validation"]["accuracy"] <= 1


def test_check_prints_the_contract_and_trains_nothing(
    tmp_path: Path, home: Path, tiny_base: Path, tickets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, report, _ = run_json(capsys, "check", str(job_file(tmp_path, tiny_base, tickets)))
    assert code == 0
    assert report.keys() == {"ok", "findings", "splits", "plan"}
    assert report["splits"].keys() == {"train", "validation", "test"}
    assert report["splits"]["train"].keys() == {"rows", "tokens", "target_tokens"}
    assert {finding["code"] for finding in report["findings"]} <= FINDING_CODES
    assert not (home / "runs").exists()


def test_a_loss_that_is_not_finite_ends_the_run_and_registers_nothing(
    tmp_path: Path, home: Path, tickets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = write_diverging_base(tmp_path / "base")
    code, _, err = run_json(capsys, "train", str(job_file(tmp_path, base, tickets)))
    assert code == 1
    assert "the loss became" in err
    assert "Traceback" not in err
    run = next((home / "runs").iterdir())
    assert not (run / "release").exists()
    assert json.loads((run / "status.json").read_text())["state"] == "failed"
    assert main(["evaluate", "tickets@1", "--data", str(tickets)]) == 2


def test_used_up_time_stops_with_a_checkpoint_and_more_of_it_finishes_the_run(
    tmp_path: Path, home: Path, tiny_base: Path, tickets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = job_file(tmp_path, tiny_base, tickets, zero_stage=2)
    code, result, err = run_json(capsys, "train", str(job), "--set", "cluster.max_hours=1e-5")
    assert (code, result) == (1, {})
    assert "max_hours" in err
    (run,) = (path.name for path in (home / "runs").iterdir())
    code, status, _ = run_json(capsys, "status", run)
    assert (status["state"], status["step"] < status["steps"]) == ("stopped", True)
    code, result, err = run_json(capsys, "resume", run, "--set", "cluster.max_hours=1")
    assert code == 0
    assert f"goes on after step {status['step']}" in err
    assert result["steps"] == status["steps"]
    code, _, err = run_json(capsys, "resume", run)
    assert code == 2
    assert "finished" in err
    code, _, err = run_json(capsys, "resume", run, "--set", "train.epochs=1")
    assert code == 2


def test_a_mixture_is_scored_apart_from_the_task_and_every_look_has_its_numbers(
    tmp_path: Path, home: Path, tiny_base: Path, tickets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    general = tmp_path / "general.jsonl"
    rows = [{"prompt": f"repeat {n * 7919}", "completion": f"{n * 7919} it is"} for n in range(100)]
    general.write_text("".join(json.dumps(row) + "\n" for row in rows))
    probes = tmp_path / "probes.jsonl"
    probes.write_text("".join(json.dumps({"text": f"a probe {n} about nothing at all"}) + "\n" for n in range(40)))
    rules = [
        "general.rouge_l >= 0.0",
        "worst_slice(class).accuracy >= 0.0",
        "slice_gap(length).accuracy <= 1.0",
        "robustness_drop(typos).accuracy <= 1.0",
        "consistency >= 0.0",
        "general_perplexity_ratio <= 1000",
        "memorised <= 1.0",
    ]
    job = job_file(tmp_path, tiny_base, tickets, zero_stage=1, epochs=1, gate=json.dumps(rules))
    mixed = f"data: {{train: {tickets}, mix: [{{name: general, train: {general}, weight: 0.1}}]}}\n"
    looks = "slices: [class, length], min_slice_examples: 5"
    looks += ", robustness: {kinds: [typos, case], max_examples: 20, repeats: 2}"
    looks += f", general: {probes}, memorisation: {{prefix_tokens: 0, match_tokens: 1}}"
    job.write_text(
        job.read_text().replace(f"data: {tickets}\n", mixed).replace("batch_size: 64", f"batch_size: 64, {looks}")
    )
    code, result, _ = run_json(capsys, "train", str(job))
    assert code == 0
    assert "accuracy" in result["metrics"]["test"]
    assert result["metrics"]["test_slices"].keys() == {"general"}
    assert "rouge_l" in result["metrics"]["test_slices"]["general"]
    assert "accuracy" not in result["metrics"]["test_slices"]["general"]
    assert [rule["passed"] for rule in result["gate"]["rules"]] == [True] * len(rules)
    found = result["acceptance"]
    by_class = found["slices"]["tuned"]["test"]["class"]["slices"]
    examples = sum(score["examples"] for score in by_class.values())
    mean = sum(score["examples"] * score["metrics"]["accuracy"] for score in by_class.values()) / examples
    assert mean == pytest.approx(result["metrics"]["test"]["accuracy"]), "slices add up to the test"
    assert found["slices"].keys() == {"tuned", "base"}
    robust = found["robustness"]["test"]
    assert robust["kinds"].keys() == {"typos", "case"}
    assert robust["kinds"]["typos"]["changed"] == robust["examples"] == 20
    assert (found["general"]["source"], found["general"]["examples"]) == ("evaluate.general", 40)
    assert found["general"]["perplexity_ratio"]["low"] > 0
    assert found["memorisation"]["trained"] >= 10
    page = Path(home / "runs" / result["run"] / "report.html").read_text()
    for section in ("slices", "robustness", "general-ability", "memorisation", "calibration"):
        assert f'<section id="{section}">' in page
    card = Path(result["release"], "README.md").read_text()
    assert "`robustness_drop(typos).accuracy`" in card
    assert "`memorised`" in card
    worst = found["slices"]["tuned"]["test"]["class"]["worst"]["accuracy"]["value"]
    kept = Registry(Settings.here()).version_metrics("tickets@1")
    assert kept["test.worst_slice_class_.accuracy"] == pytest.approx(worst)
    assert {"test.consistency", "general_perplexity_ratio", "memorised"} <= kept.keys()
    _rate(capsys, result["run"], tmp_path)
    assert Registry(Settings.here()).version_metrics("tickets@1")["review.mean_rating"] == pytest.approx(4.0)


def _rate(capsys: pytest.CaptureFixture[str], run: str, directory: Path) -> None:
    """Export answers of a run, rate them 3 and 5 in turn, and import that."""
    sample, rated = directory / "sample.csv", directory / "rated.csv"
    code, _, _ = run_json(capsys, "review", "export", run, "--out", str(sample), "--count", "6")
    assert code == 0
    with sample.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with rated.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(row | {"rating": (3, 5)[place % 2]} for place, row in enumerate(rows))
    code, report, _ = run_json(capsys, "review", "import", str(rated))
    assert (code, report["items"], report["rows"]) == (0, 6, 3)
