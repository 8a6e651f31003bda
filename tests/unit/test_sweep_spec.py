"""The sweep block: expressions, the keys that may vary, and bounds tried before any trial."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cluster.errors import JobFileError
from cluster.jobfile import dump_job, load_job
from cluster.spec import JobSpec, SweepSpec
from cluster.sweep_spec import Choice, Integers, Range, dimension, swept_keys


def sweep(space: dict[str, Any], **train: Any) -> JobSpec:
    return JobSpec.model_validate({"name": "a", "base": "b", "data": "c", "train": train, "sweep": {"space": space}})


@pytest.mark.parametrize(
    ("expression", "meaning"),
    [
        ("loguniform(1e-5, 1e-3)", Range(1e-5, 1e-3, log=True)),
        (" loguniform ( .1 ,10 ) ", Range(0.1, 10.0, log=True)),
        ("uniform(0.0, 0.2)", Range(0.0, 0.2, log=False)),
        ("uniform(-1, 1)", Range(-1.0, 1.0, log=False)),
        ("int(1, 8)", Integers(1, 8)),
        ("choice(16, 32, 64)", Choice((16, 32, 64))),
        ("choice(cosine, 'linear', \"constant\")", Choice(("cosine", "linear", "constant"))),
        ("choice(true, false, null)", Choice((True, False, None))),
        ("choice(org/model, ./x)", Choice(("org/model", "./x"))),
        ("fixed(0.5)", Choice((0.5,))),
        ([16, 32], Choice((16, 32))),
        (["all-linear", ["q_proj", "v_proj"]], Choice(("all-linear", ["q_proj", "v_proj"]))),
    ],
)
def test_an_expression_means_what_it_says(expression: Any, meaning: object):
    assert dimension(expression) == meaning


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("1e-4", "no dimension"),
        ("lognormal(0, 1)", "did you mean loguniform"),
        ("choic(1, 2)", "did you mean choice"),
        ("uniform(1)", "two numbers"),
        ("uniform(0, 1, 2)", "two numbers"),
        ("uniform(a, b)", "two numbers"),
        ("uniform(false, true)", "two numbers"),
        ("uniform(1, 0)", "LOW below HIGH"),
        ("uniform(1, 1)", "LOW below HIGH"),
        ("loguniform(0, 1)", "above 0"),
        ("loguniform(-1, 1)", "above 0"),
        ("uniform(0, 1e999)", "finite"),
        ("int(1, 2.5)", "whole numbers"),
        ("choice()", "at least one"),
        ("choice(1,,2)", "at least one"),
        ("choice(1, 1)", "twice"),
        ("fixed()", "one value"),
        ("fixed(1, 2)", "one value"),
        ([], "at least one"),
    ],
)
def test_a_wrong_expression_says_why(expression: Any, why: str):
    with pytest.raises(ValueError, match=why):
        dimension(expression)


def test_the_space_is_parsed_by_key():
    spec = sweep({"train.learning_rate": "loguniform(1e-5, 1e-3)", "train.lora.rank": [4, 8]})
    assert spec.sweep is not None
    assert spec.sweep.trials == 24
    assert spec.sweep.dimensions() == {
        "train.learning_rate": Range(1e-5, 1e-3, log=True),
        "train.lora.rank": Choice((4, 8)),
    }


@pytest.mark.parametrize(
    ("key", "expression"),
    [
        ("base", "choice(org/a, org/b)"),
        ("train.method", "choice(full, lora)"),
        ("train.batch_size", "int(1, 64)"),
        ("train.dropout", "uniform(0.0, 0.2)"),
        ("train.epochs", "choice(1, 2)"),
        ("train.eval_every", "choice(0.5, 10)"),
        ("train.zero_stage", "choice(auto, 2)"),
        ("train.lora.targets", ["all-linear", ["q_proj"]]),
        ("train.gradient_checkpointing", "choice(true, false)"),
    ],
)
def test_any_value_of_base_and_train_may_vary(key: str, expression: Any):
    sweep({key: expression})


@pytest.mark.parametrize(
    ("key", "expression", "why"),
    [
        ("train.learning_rat", "uniform(0, 1)", "did you mean train.learning_rate"),
        ("learning_rate", "uniform(0, 1)", "did you mean train.learning_rate"),
        ("train.lora", "choice(1, 2)", "is a block"),
        ("train", "choice(1, 2)", "does not change the model"),
        ("train.best_by", "choice(loss, accuracy)", "how trials are compared"),
        ("train.early_stopping.patience", "int(1, 3)", "how trials are compared"),
        ("evaluate.max_new_tokens", "int(1, 3)", "what trials are compared on"),
        ("data.split.seed", "int(1, 3)", "what trials are compared on"),
        ("name", "choice(a, b)", "what trials are compared on"),
        ("", "choice(a, b)", "no key"),
    ],
)
def test_a_key_that_may_not_vary_is_refused(key: str, expression: str, why: str):
    with pytest.raises(ValidationError, match=why):
        sweep({key: expression})


@pytest.mark.parametrize(
    ("key", "expression"),
    [
        ("train.dropout", "uniform(0.0, 1.0)"),
        ("train.dropout", "uniform(-0.1, 0.5)"),
        ("train.batch_size", "uniform(1, 64)"),
        ("train.batch_size", "int(0, 64)"),
        ("train.batch_size", "choice(16, 32.5)"),
        ("train.batch_size", "choice(16, thirty)"),
        ("train.method", "choice(full, dora)"),
        ("train.learning_rate", "loguniform(1e-3, 10)"),
        ("train.eval_every", "choice(true, 2)"),
        ("base", "choice(1, 2)"),
    ],
)
def test_both_ends_must_lie_within_the_bounds_of_the_key(key: str, expression: str):
    with pytest.raises(ValidationError, match="cannot be"):
        sweep({key: expression})


def test_adapter_keys_vary_only_where_an_adapter_can_be():
    with pytest.raises(ValidationError, match="no adapter"):
        sweep({"train.lora.rank": [4, 8]}, method="full")
    sweep({"train.lora.rank": [4, 8], "train.method": "choice(full, lora)"}, method="full")


@pytest.mark.parametrize("block", [{"space": {}}, {"trials": 0, "space": {"base": ["a"]}}, {}])
def test_an_empty_search_is_refused(block: dict[str, Any]):
    with pytest.raises(ValidationError):
        JobSpec.model_validate({"name": "a", "base": "b", "data": "c", "sweep": block})


def test_swept_keys_are_the_values_of_base_and_train():
    keys = swept_keys(JobSpec)
    assert {"base", "train.learning_rate", "train.lora.rank"} <= set(keys)
    assert not {"name", "train.lora", "train.best_by", "train.seed", "data.template", "cluster.workers"} & set(keys)


@pytest.mark.parametrize(
    ("block", "why"),
    [
        ({"finalists": 1, "seeds": 2}, "one finalist is not trained again"),
        ({"prune": "none", "grace": 0.2}, "grace means nothing under prune none"),
        ({"prune": "median", "reduction": 3}, "reduction means nothing under prune median"),
        ({"search": "grid"}, "a grid has no ranges"),
        ({"max_cost": 5.0}, "max_cost needs a price"),
    ],
)
def test_a_key_that_would_mean_nothing_is_refused(block: dict[str, Any], why: str):
    settings = {"space": {"train.learning_rate": "loguniform(1e-5, 1e-3)"}, **block}
    with pytest.raises(ValidationError, match=why):
        JobSpec.model_validate({"name": "a", "base": "b", "data": "c", "sweep": settings})


@pytest.mark.parametrize(
    ("block", "line", "why"),
    [
        ("prune: asha", 8, "a trial has two"),
        ("until_converged: true", 8, "two values have converged"),
        ("grace: 0.2", 8, "means nothing under prune none"),
        ("trials: 3", 6, "how fast the trained model is"),
    ],
)
def test_what_cannot_go_with_a_tradeoff_is_refused_at_its_line(tmp_path: Path, block: str, line: int, why: str):
    path = tmp_path / "job.yaml"
    path.write_text(
        "name: a\nbase: b\ndata: c.jsonl\nsweep:\n  space: {train.dropout: 'uniform(0, 0.1)'}\n"
        f"  tradeoff: {{against: {'latency' if 'trials' in block else 'cost'}, give_up: 0.02}}\n"
        f"  finalists: 2\n  {block}\n"
    )
    with pytest.raises(JobFileError, match=why) as caught:
        load_job(path)
    assert caught.value.where == f"{path}:{line}"


@pytest.mark.parametrize(
    ("key", "expression", "why"),
    [
        ("train.learning_rat", "uniform(0, 1)", "did you mean train.learning_rate"),
        ("train.batch_size", "int(0, 64)", "train.batch_size cannot be 0"),
        ("train.dropout", "uniform(0.3, 0.1)", "LOW below HIGH"),
        ("train.seed", "int(0, 9)", "the winner would be the luckiest of several draws"),
        ("train.seed", "choice(1, 2)", "sweep.finalists and sweep.seeds"),
    ],
)
def test_a_wrong_key_or_bound_of_the_space_is_refused_at_its_line(tmp_path: Path, key: str, expression: str, why: str):
    path = tmp_path / "job.yaml"
    path.write_text(
        "name: a\nbase: b\ndata: c.jsonl\nsweep:\n  trials: 3\n  space:\n    train.weight_decay: uniform(0, 0.1)\n"
        f"    {key}: {expression}\n"
    )
    with pytest.raises(JobFileError, match=re.escape(why)) as caught:
        load_job(path)
    assert caught.value.where == f"{path}:8"


def test_a_tradeoff_prunes_nobody_unless_asked_and_anything_else_halves():
    space: dict[str, Any] = {"space": {"train.lora.rank": [4, 8]}}
    for traded, prune in (({}, "asha"), ({"tradeoff": {"against": "latency"}}, "none")):
        assert SweepSpec.model_validate(space | traded).prune == prune
    assert SweepSpec.model_validate(space | {"prune": "none", "tradeoff": {"against": "cost"}}).tradeoff is not None


@pytest.mark.parametrize(
    "block",
    [
        {"search": "grid", "prune": "none", "finalists": 1},
        {"tradeoff": {"against": "cost", "give_up": 0.0}},
        {},
    ],
)
def test_a_resolved_sweep_reads_back_equal(tmp_path: Path, block: dict[str, Any]):
    sweep = {"space": {"train.batch_size": "choice(8, 16)"}, **block}
    job = JobSpec.model_validate({"name": "a", "base": "/b", "data": "/c.jsonl", "sweep": sweep})
    path = tmp_path / "job.yaml"
    path.write_text(dump_job(job))
    assert load_job(path) == job


def test_trials_begin_from_fewer_workers_and_a_share_of_the_data() -> None:
    block = {"space": {"train.dropout": "uniform(0.0, 0.1)"}, "workers": 1, "proxy": 0.5}
    settings = {"name": "a", "base": "b", "data": "c", "train": {"subset": 0.4}, "cluster": {"workers": 4}}
    whole = JobSpec.model_validate(settings | {"sweep": block})
    trials = whole.of_trials()
    assert (trials.cluster.workers, trials.train.subset) == (1, 0.2)
    assert trials.model_dump() | {"train": 0, "cluster": 0} == whole.model_dump() | {"train": 0, "cluster": 0}
    assert not trials.train.max_length_given
    plain = JobSpec.model_validate(settings | {"sweep": {"space": block["space"]}})
    assert plain.of_trials() == plain


def test_a_share_that_trials_cannot_keep_is_refused() -> None:
    with pytest.raises(ValidationError, match="share of the data that proxy sets"):
        JobSpec.model_validate(
            {"name": "a", "base": "b", "data": "c"}
            | {"sweep": {"space": {"train.subset": "uniform(0.1, 1.0)"}, "proxy": 0.5}}
        )
