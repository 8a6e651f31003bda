"""General rows: what is read, what is left out, and by how much tuning made it worse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cluster.errors import DataError, JobFileError
from cluster.evaluate_spec import GeneralSpec
from tests.checked_sets import checked_set
from tests.tiny import write_jsonl
from trainers.general import general, likelihoods, read_general
from trainers.look_refusals import refuse_blind_looks
from trainers.metrics import Predictions
from trainers.sources import read_rows

TEXTS = [{"text": f"The river {n} flows to the sea."} for n in range(30)]
PROBES = [{"prompt": f"What is {n} plus one?", "completion": str(n + 1)} for n in range(30)]


def of_loss(per_token: float, noise: float = 0.0) -> Predictions:
    tokens = np.arange(1, 41)
    wobble = np.random.default_rng(0).normal(0, noise, 40) if noise else np.zeros(40)
    return Predictions([], [], nll=tokens * (per_token + wobble), target_tokens=tokens)


def test_the_ratio_of_perplexities_is_paired_and_one_where_nothing_changed():
    found = general("rows", of_loss(2.0 + np.log(1.2)), of_loss(2.0), ["loss", "perplexity"])
    assert found.perplexity_ratio is not None
    assert found.perplexity_ratio.value == pytest.approx(1.2)
    assert found.perplexity_ratio.high - found.perplexity_ratio.low < 1e-9, "every row moved alike"
    assert found.drop["loss"].value == pytest.approx(np.log(1.2))
    same = general("rows", of_loss(2.0, 0.3), of_loss(2.0, 0.3), ["loss", "perplexity"])
    assert same.perplexity_ratio is not None
    assert same.perplexity_ratio.value == 1.0
    better = general("rows", of_loss(1.5), of_loss(2.0, 0.1), ["loss"])
    assert better.drop["loss"].high < 0
    assert better.perplexity_ratio is not None
    assert better.perplexity_ratio.low <= better.perplexity_ratio.value <= better.perplexity_ratio.high < 1


def test_likelihoods_of_several_sources_are_weighed_by_their_tokens():
    joined = likelihoods([of_loss(1.0), Predictions([], [], nll=np.array([60.0]), target_tokens=np.array([20]))])
    assert joined.num_examples == 41
    assert general("mix", joined, joined, ["loss"]).tuned["loss"] == pytest.approx((820 + 60) / 840)


def test_rows_that_were_trained_on_are_left_out_and_counted(tmp_path: Path):
    checked = checked_set(tmp_path / "set", {"train": PROBES[:10], "test": PROBES[10:20]})
    source = write_jsonl(tmp_path / "general.jsonl", PROBES)
    spec = GeneralSpec(data=[str(source)], max_examples=12)
    found = read_general(spec, checked.prepared.rows("train"), 0)
    assert found.left_out == len(checked.prepared.rows("train"))
    assert len(found.examples) == 12
    assert "rouge_l" in found.names


def test_general_rows_that_are_all_trained_on_are_refused(tmp_path: Path):
    spec = GeneralSpec(data=[str(write_jsonl(tmp_path / "general.jsonl", PROBES))])
    trained_on = list(read_rows(spec.data, spec))
    with pytest.raises(DataError, match="all were trained on"):
        read_general(spec, trained_on, 0)
    with pytest.raises(DataError, match="too few"):
        read_general(spec, trained_on[1:], 0)


@pytest.mark.parametrize(
    ("source", "gate", "message"),
    [
        (TEXTS, ["general_drop(rouge_l) <= 0.02"], "general rows have no 'rouge_l'"),
        (None, ["general_perplexity_ratio <= 1.1"], "data.mix holds no rows out"),
    ],
)
def test_a_rule_that_general_rows_cannot_answer_is_refused(
    tmp_path: Path, source: list[dict[str, str]] | None, gate: list[str], message: str
):
    checked = checked_set(tmp_path / "set", {"train": PROBES, "test": PROBES[20:]})
    given = None if source is None else GeneralSpec(data=[str(write_jsonl(tmp_path / "general.jsonl", source))])
    evaluate = checked.job.evaluate.model_copy(update={"general": given})
    job = checked.job.model_copy(update={"evaluate": evaluate, "gate": gate})
    with pytest.raises(JobFileError, match=message):
        refuse_blind_looks(job, checked.prepared)


def test_rules_about_changed_inputs_of_plain_text_are_refused(tmp_path: Path):
    checked = checked_set(tmp_path / "set", {"train": TEXTS, "test": TEXTS[20:]})
    job = checked.job.model_copy(update={"gate": ["robustness_drop(typos).loss <= 1"]})
    with pytest.raises(JobFileError, match="prompts and answers"):
        refuse_blind_looks(job, checked.prepared)
