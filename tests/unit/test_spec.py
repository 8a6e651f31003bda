"""The job file's fields, bounds and rules between keys; expected values are written out here, from the design."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cluster.blocks import Block, annotation_at, block_types, dotted_keys
from cluster.errors import JobFileError
from cluster.jobfile import load_job
from cluster.spec import JobSpec, MinMax


def job(**blocks: Any) -> JobSpec:
    return JobSpec.model_validate({"name": "a", "base": "b", "data": "c.jsonl", **blocks})


def nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def value_at(spec: JobSpec, key: str) -> Any:
    found: Any = spec
    for part in key.split("."):
        found = getattr(found, part)
    return found


DEFAULTS: dict[str, Any] = {
    "name": "a",
    "base": "b",
    "data": {
        "train": ["c.jsonl"],
        "validation": [],
        "test": {},
        "format": "auto",
        "template": None,
        "loss_on": "completion",
        "columns": {},
        "split": {"validation": 0.1, "test": 0.1, "stratify": "auto", "seed": 0},
        "audit": {
            "allow": [],
            "fix": [],
            "near_similarity": 0.8,
            "imbalance_ratio": 20.0,
            "rare_rows": 10,
            "outlier_factor": 3.0,
            "suspect_neighbours": 10,
            "min_diversity": 0.05,
            "language_frac": 0.02,
            "synthetic_frac": 0.5,
            "small_rows": 200,
            "sample_rows": 20000,
        },
        "mix": None,
    },
    "train": {
        "method": "lora",
        "lora": {
            "rank": 16,
            "alpha": 32,
            "dropout": 0.05,
            "targets": "all-linear",
            "dora": False,
            "rslora": False,
            "lora_plus_ratio": 1.0,
        },
        "epochs": 3.0,
        "subset": 1.0,
        "learning_rate": 2e-4,
        "schedule": "cosine",
        "warmup": 0.05,
        "batch_size": 32,
        "dropout": 0.0,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "zero_stage": "auto",
        "offload": "none",
        "precision": "auto",
        "gradient_checkpointing": False,
        "eval_every": 0.25,
        "checkpoint": {"every": 0.25, "keep": 2},
        "early_stopping": {"patience": 3},
        "best_by": "loss",
        "seed": 0,
    },
    "cluster": {
        "workers": 1,
        "gpus_per_worker": "auto",
        "cpus_per_worker": "auto",
        "max_failures": 3,
        "hang_timeout_s": 1800.0,
        "tokens_per_s": None,
        "price_per_gpu_hour": None,
        "max_hours": None,
        "max_wait_hours": 24.0,
        "max_cost": None,
    },
    "evaluate": {
        "metrics": "auto",
        "base": True,
        "few_shot": 0,
        "max_examples": None,
        "max_new_tokens": 64,
        "slices": [],
        "min_slice_examples": 30,
        "robustness": None,
        "general": None,
        "memorisation": None,
        "faithfulness": None,
        "batch_size": 16,
    },
    "gate": [],
    "tracking": ["mlflow"],
    "speed": {"concurrency": 8, "requests": 64, "warm_up": 8},
    "sweep": None,
    "serve": None,
    "parent": None,
}


def test_three_keys_are_enough_and_the_rest_has_the_designs_defaults():
    assert job().model_dump() == DEFAULTS
    assert job().train.max_length == 1024


BOUNDS = [
    ("name", ["a", "0", "a-b-9", "x" * 63], ["", "A", "-a", "a_b", "a/b", "../a", "a.b", "a b", "a\n", "x" * 64, 7]),
    ("base", ["gpt2", "./x"], ["", 3]),
    ("train.method", ["full", "lora", "qlora"], ["LoRA", 1]),
    ("train.epochs", [0.1, 1, 1e3], [0, -1, "3", True, float("inf"), float("nan")]),
    ("train.learning_rate", [1e-6, 1, 2.0e-4], [0, -1e-4, 1.5, "1e-4", True]),
    ("train.schedule", ["cosine", "linear", "constant"], ["step"]),
    ("train.warmup", [0, 0.05, 0.99], [-0.1, 1, 100]),
    ("train.batch_size", [1, 32], [0, -4, 1.5, 32.0, "32", True]),
    ("train.dropout", [0, 0.0, 0.99], [-0.01, 1, 1.5]),
    ("train.weight_decay", [0, 0.1], [-1, 1]),
    ("train.max_grad_norm", [0, 1.0], [-1, float("inf")]),
    ("train.max_length", [8, 1024], [7, 0, 1024.0]),
    ("train.zero_stage", ["auto", 0, 1, 2, 3], [4, -1, "2", 1.0, True]),
    ("train.offload", ["none", "optimizer", "all"], ["cpu", None]),
    ("train.precision", ["auto", "fp32", "bf16"], ["fp16"]),
    ("train.gradient_checkpointing", [True, False], [1, "yes"]),
    ("train.eval_every", [0.25, 2.0, 1, 100], [0, 0.0, -1, -0.5, True, False, "1"]),
    ("train.early_stopping", [None, {"patience": 1}, {}], [{"patience": 0}, 3, False]),
    ("train.best_by", ["loss", "rouge_l"], ["", "a b", "test.loss"]),
    ("train.seed", [0, 2**32 - 1], [-1, 2**32, 0.5]),
    ("train.lora.rank", [1, 256], [0, 1.5]),
    ("train.lora.alpha", [1, 64], [0, -1, 0.5]),
    ("train.lora.dropout", [0, 0.5], [1, -0.1]),
    ("train.lora.targets", ["all-linear", ["q_proj", "v_proj"]], ["all", [], [""], [1]]),
    ("train.lora.lora_plus_ratio", [1, 16], [0.5]),
    ("cluster.workers", [1, 8, {"min": 1, "max": 4}, {"min": 2, "max": 2}], [0, -1, 1.5, "2", {"min": 0, "max": 1}]),
    ("cluster.workers", [], [{"min": 3, "max": 2}, {"min": 1}, {}, True]),
    ("cluster.gpus_per_worker", ["auto", 0, 0.5, 1, 2], [-1, 1.5, "one"]),
    ("cluster.price_per_gpu_hour", [None, 0, 2.5], [-1]),
    ("cluster.max_hours", [None, 0.5], [0, -1]),
    ("cluster.max_wait_hours", [None, 0.5], [0, -1]),
    ("evaluate.metrics", ["auto", ["accuracy"]], [[], "accuracy", ["a b"]]),
    ("evaluate.base", [True, False], [0]),
    ("evaluate.few_shot", [0, 5], [-1]),
    ("evaluate.max_examples", [None, 1, 200], [0, "all"]),
    ("evaluate.max_new_tokens", [1], [0]),
    ("evaluate.batch_size", [1], [0]),
    ("data.split.validation", [0, 0.0, 0.5, 0.89], [-0.1, 1, 0.9]),
    ("data.split.test", [0, 0.89], [-0.1, 1.0, 0.95]),
    ("data.split.stratify", ["auto", True, False], [1, "yes"]),
    ("data.format", ["auto", "messages", "sharegpt", "alpaca", "classification", "text"], ["csv"]),
    ("data.loss_on", ["completion", "all"], ["prompt"]),
    ("data.columns", [{"prompt": "question", "group": "id"}], [{"promt": "q"}, {"prompt": ""}, {"prompt": 3}]),
    ("data.audit.allow", [["*"], ["truncated", "pii"]], [["trunc"], "*"]),
    ("data.audit.fix", [["duplicate_exact"]], [["*"], ["small"], ["nonsense"]]),
    ("data.mix", [None, [{"name": "g", "train": "g.jsonl", "weight": 0.2}]], [[{"name": "g", "train": "g.jsonl"}]]),
    ("data.mix", [], [[{"name": "g", "train": "g.jsonl", "weight": 0}], [{"name": "g", "train": [], "weight": 1}]]),
    ("data.mix", [], [[{"name": "g", "train": "g", "weight": 1, "columns": {"promt": "x"}}]]),
    ("data.mix", [], [[{"name": "g", "train": "g", "weight": 1}, {"name": "g", "train": "h", "weight": 1}]]),
    ("data.test", ["t.jsonl", ["a", "b"], {"old": "o", "new": ["n"]}, None], [{"base": "x"}, {"a-b": "x"}, {"a": []}]),
    ("gate", [[], ["accuracy >= 0.70", "new.accuracy > base + 0.10", "p95_latency_s <= 2"]], ["accuracy > 1", [""]]),
    (
        "gate",
        [["worst >= 0.6"]],
        [["accuracy"], ["> 0.5"], ["a > b > c"], [3], ["worst_slice(region).accuracy >= 0.6"]],
    ),
]


def with_value(key: str, value: Any) -> JobSpec:
    blocks = nested(key, value)
    if key.startswith("data."):
        blocks["data"]["train"] = "c.jsonl"
    return job(**blocks)


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, good, _ in BOUNDS for value in good])
def test_a_value_within_bounds_is_taken(key: str, value: Any):
    with_value(key, value)


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, _, bad in BOUNDS for value in bad])
def test_a_value_out_of_bounds_is_refused(key: str, value: Any):
    with pytest.raises(ValidationError):
        with_value(key, value)


@pytest.mark.parametrize("price", [None, 0])
def test_a_cost_limit_without_a_price_is_refused(price: float | None):
    with pytest.raises(ValidationError, match="needs a price"):
        job(cluster={"max_cost": 10, "price_per_gpu_hour": price})
    assert job(cluster={"max_cost": 10, "price_per_gpu_hour": 2}).cluster.max_cost == 10


@pytest.mark.parametrize("data", ["a.jsonl", ["a.jsonl"], {"train": "a.jsonl"}, {"train": ["a.jsonl"]}])
def test_all_ways_to_write_one_source_mean_the_same(data: Any):
    assert job(data=data) == job(data={"train": ["a.jsonl"]})


@pytest.mark.parametrize(
    ("test", "named"),
    [
        ("t", {"test": ["t"]}),
        (["t", "u"], {"test": ["t", "u"]}),
        ({"old": "o", "new": ["n", "m"]}, {"old": ["o"], "new": ["n", "m"]}),
        (None, {}),
    ],
)
def test_an_unnamed_test_is_called_test(test: Any, named: dict[str, list[str]]):
    assert job(data={"train": "a", "test": test, "validation": "v"}).data.test == named


def test_a_block_with_nothing_in_it_means_its_defaults():
    assert job(train=None, cluster=None, evaluate=None, gate=None) == job()


@pytest.mark.parametrize("blocks", [{"trian": {}}, {"train": {"epoch": 1}}, {"train": {"lora": {"r": 1}}}])
def test_an_unknown_key_is_refused_at_every_depth(blocks: dict[str, Any]):
    with pytest.raises(ValidationError, match="Extra inputs"):
        job(**blocks)


@pytest.mark.parametrize("missing", ["name", "base", "data"])
def test_each_of_the_three_required_keys_is_required(missing: str):
    settings = {"name": "a", "base": "b", "data": "c"}
    del settings[missing]
    with pytest.raises(ValidationError, match="Field required"):
        JobSpec.model_validate(settings)


def test_a_spec_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        job().train.epochs = 5  # pyright: ignore[reportAttributeAccessIssue]


def all_blocks(block: type[Block]) -> set[type[Block]]:
    inner = {found for field in block.model_fields.values() for found in block_types(field.annotation)}
    return {block}.union(*(all_blocks(found) for found in inner))


def test_every_field_has_one_sentence():
    for block in all_blocks(JobSpec):
        assert block.__doc__
        for name, field in block.model_fields.items():
            assert field.description, f"{block.__name__}.{name}"
            assert field.description.endswith("."), f"{block.__name__}.{name}"


def test_every_default_is_within_its_own_bounds():
    spec = job()
    assert JobSpec.model_validate(spec.model_dump()) == spec
    assert JobSpec.model_validate(spec.model_dump()).model_dump_json() == spec.model_dump_json()


def test_dotted_keys_name_values_that_exist():
    spec = job()
    keys = dotted_keys(JobSpec)
    assert {"base", "data.split.seed", "train.lora.rank", "train.learning_rate", "cluster.workers"} <= set(keys)
    for key in keys:
        value_at(spec, key)
        assert annotation_at(JobSpec, key.split(".")) is not None


def test_a_type_is_found_through_lists_mappings_and_unions():
    assert annotation_at(JobSpec, ("cluster", "workers", "min")) is int
    assert annotation_at(JobSpec, ("data", "mix", 0, "weight")) is float
    assert annotation_at(JobSpec, ("serve", "arms", "x", "generation", "top_p")) is float
    assert annotation_at(JobSpec, ("train", "lora", "r")) is None
    assert block_types(annotation_at(JobSpec, ("cluster", "workers"))) == [MinMax]


def test_importing_the_spec_loads_nothing_but_pydantic():
    code = "import sys, cluster.spec; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"yaml", "torch", "ray", "numpy", "transformers", "mlflow", "fsspec"} & set(loaded)


@pytest.mark.parametrize(
    ("rule", "evaluate", "message"),
    [
        ("worst_slice(regoin).accuracy >= 0.6", "{slices: [region]}", "did you mean region"),
        ("accuracy >= slice_gap(region).accuracy", "{}", "'region' is not in evaluate.slices"),
        ("robustness_drop(typos).accuracy <= 0.1", "{}", "'typos' is not in evaluate.robustness"),
        ("robustness_drop(typo).accuracy <= 0.1", "{robustness: {kinds: [typos]}}", "did you mean typos"),
        ("consistency >= 0.8", "{robustness: {kinds: [typos]}}", "needs evaluate.robustness.repeats"),
        ("general_perplexity_ratio <= 1.1", "{}", "needs evaluate.general"),
        ("memorised <= 0.05", "{}", "needs evaluate.memorisation"),
        ("old.slots_missing <= 0.05", "{}", "needs evaluate.faithfulness"),
    ],
)
def test_a_rule_about_a_look_that_was_not_asked_for_names_its_line(
    tmp_path: Path, rule: str, evaluate: str, message: str
):
    path = tmp_path / "job.yaml"
    path.write_text(f"name: a\nbase: b\ndata: c.jsonl\nevaluate: {evaluate}\ngate:\n  - loss <= 3\n  - {rule}\n")
    with pytest.raises(JobFileError) as refusal:
        load_job(path)
    assert refusal.value.where == f"{path}:7"
    assert message in str(refusal.value)


def test_general_rows_are_a_source_or_a_block_and_their_paths_are_the_files(tmp_path: Path):
    path = tmp_path / "job.yaml"
    path.write_text("name: a\nbase: b\ndata: c.jsonl\nevaluate: {general: texts.jsonl}\n")
    general = load_job(path).evaluate.general
    assert general is not None
    assert general.data == [str(tmp_path / "texts.jsonl")]
    with pytest.raises(JobFileError, match=r"evaluate\.base: true"):
        load_job(path, ["evaluate.base=false"])
