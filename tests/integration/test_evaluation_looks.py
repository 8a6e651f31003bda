"""The evaluation stage with every look asked for, on a real base and real answers, in this process instead of Ray."""

from __future__ import annotations

import io
import json
import shutil
from typing import Any

import pytest

from cluster.jobfile import load_job
from cluster.progress import Progress
from cluster.registry import Registry
from cluster.run_context import RunContext
from cluster.session import Settings
from cluster.store import Store
from tests.tiny import write_base, write_jsonl
from trainers import evaluation
from trainers.acceptance import gate_scores
from trainers.gate import decide
from trainers.inference import Inference, predict
from trainers.memorisation import Recital, recite
from trainers.prepare import ready

RUN = "looked-20260301-120000-abcd"
JOB = """
name: looked
base: {base}
data: {{train: rows.jsonl, split: {{test: 0.4}}, audit: {{allow: ["*"]}}}}
train: {{max_length: 128}}
evaluate:
  max_new_tokens: 6
  slices: [region, length, source]
  min_slice_examples: 5
  robustness: {{kinds: [typos, distractor], max_examples: 8, repeats: 2}}
  general: general.jsonl
  memorisation: {{prefix_tokens: 2, match_tokens: 2, max_examples: 30}}
  faithfulness: {{form: slots}}
gate:
  - worst_slice(region).rouge_l >= 0.0
  - slice_gap(region).loss <= base + 1e-6
  - robustness_drop(typos).slots_missing <= 1.0
  - robustness_drop(distractor).loss <= 100
  - consistency >= 0.0
  - general_perplexity_ratio <= 1.000001
  - general_drop(loss) <= 1e-6
  - memorised <= 1.0
"""


@pytest.fixture(scope="module")
def ctx(tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    """Return a run whose trained model is its base, so that every comparison of the two is known."""
    home = tmp_path_factory.mktemp("looked")
    base = write_base(home / "base")
    rows: list[Any] = [
        {"prompt": f"name[Pub {n}], food[kind {n % 7}]", "completion": f"Pub {n} has kind {n % 7}."} for n in range(60)
    ]
    rows = [row | {"region": "ns"[place % 2]} for place, row in enumerate(rows)]
    write_jsonl(home / "rows.jsonl", rows)
    write_jsonl(home / "general.jsonl", [{"text": f"A text {n} about nothing."} for n in range(30)])
    (home / "job.yaml").write_text(JOB.format(base=base))
    job = load_job(home / "job.yaml")
    settings = Settings.from_env({"HONE_HOME": str(home / "home")}, home)
    done = ready(job, settings, Progress(io.StringIO()))
    store = Store(settings.home)
    document = {"check": done.report.model_dump(mode="json"), "prepared": done.prepared, "data_hash": done.data_hash}
    store.put_json(document, "runs", RUN, "data.json")
    with store.writing("runs", RUN, "model") as fresh:
        shutil.copytree(base, fresh, dirs_exist_ok=True)
    found = RunContext(RUN, job, settings, store, Registry(settings), Progress(io.StringIO()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "_ask", lambda asked, gpus: [_answered(one) for one in asked])
        evaluation.run(found)
    return found


def _answered(one: Inference | Recital) -> Any:
    return recite(one) if isinstance(one, Recital) else predict(one)


def test_every_look_has_numbers_that_rules_can_compare(ctx: RunContext):
    report = decide(ctx.job.gate, gate_scores(evaluation.read_scored(ctx), evaluation.read_acceptance(ctx)))
    assert [(rule.rule, rule.passed) for rule in report.rules] == [(rule, True) for rule in ctx.job.gate]
    assert all(rule.note for rule in report.rules if "base" not in rule.rule)


def test_a_model_that_is_its_base_lost_nothing_and_memorised_nothing(ctx: RunContext):
    found = evaluation.read_acceptance(ctx)
    assert found.general is not None
    ratio = found.general.perplexity_ratio
    assert ratio is not None
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((1.0, 1.0, 1.0))
    assert found.memorisation is not None
    assert found.memorisation.memorised is not None
    assert found.memorisation.memorised.low <= 0 <= found.memorisation.memorised.high
    assert found.slices["tuned"] == found.slices["base"]


def test_changed_inputs_are_held_against_the_values_of_the_inputs_as_they_were(ctx: RunContext):
    robust = evaluation.read_acceptance(ctx).robustness["test"]
    assert robust.examples == 8
    assert robust.kinds["distractor"].changed == 8
    assert "slots_missing" in robust.kinds["typos"].drop
    assert "auc_roc" not in robust.kinds["typos"].drop


def test_slices_add_up_to_the_test(ctx: RunContext):
    tables = evaluation.read_acceptance(ctx).slices["tuned"]["test"]
    examples = evaluation.read_scored(ctx).rows["test"]
    assert tables.keys() == {"region", "length", "source"}
    assert all(sum(one.examples for one in table.slices.values()) == examples for table in tables.values())
    (source,) = tables["source"].slices.values()
    assert source.metrics == pytest.approx(evaluation.read_scored(ctx).of("tuned")["test"], abs=1e-9)


def test_it_is_kept_beside_the_scores(ctx: RunContext):
    directory = ctx.store.reading("runs", RUN, "evaluation")
    assert json.loads((directory / "acceptance.json").read_text())["general"]["examples"] == 30
