"""Several models on the same rows: what is paired, what is clear, and what may not be compared."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cluster.cli import main
from tests.tiny import ticket_rows, write_base, write_jsonl
from trainers.compare import compared_report
from trainers.metrics import Predictions
from trainers.scoring import paired_difference


def answers(right: list[bool]) -> Predictions:
    return Predictions(["a" if ok else "b" for ok in right], [("a",)] * len(right), ["a"] * len(right), ["a", "b"])


HALF = [place % 2 == 0 for place in range(100)]
BETTER = [place % 10 != 0 for place in range(100)]
SLIGHTLY = [place % 2 == 0 or place == 1 for place in range(100)]


def report(**said: list[bool]):
    models = {name: answers(right) for name, right in said.items()}
    return compared_report(models, {name: name for name in said}, ["accuracy"], ["accuracy"], of=200, notes=[])


def test_two_models_differ_as_a_paired_difference_says():
    found = report(a=HALF, b=BETTER)
    assert found.level == 0.95
    expected = paired_difference(answers(BETTER), answers(HALF), ["accuracy"], 0)["accuracy"]
    assert found.differences["b"]["accuracy"] == expected
    assert (found.examples, found.of) == (100, 200)


def test_the_best_is_clear_only_where_it_is_apart_from_every_other():
    assert report(a=HALF, b=BETTER).best["accuracy"].model == "b"
    assert report(a=HALF, b=BETTER).best["accuracy"].clear
    assert not report(a=HALF, b=SLIGHTLY).best["accuracy"].clear
    assert not report(a=HALF, b=BETTER, c=[*BETTER[:-1], True]).best["accuracy"].clear
    assert not report(a=HALF, b=HALF).best["accuracy"].clear


def test_intervals_hold_for_all_models_together():
    two, four = report(a=HALF, b=BETTER), report(a=HALF, b=BETTER, c=SLIGHTLY, d=BETTER[::-1])
    assert four.level == pytest.approx(1 - 0.05 / 3)
    narrow, wide = (found.differences["b"]["accuracy"] for found in (two, four))
    assert wide.high - wide.low > narrow.high - narrow.low
    assert wide.value == narrow.value


def test_bases_are_compared_on_a_sample_by_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("HONE_HOME", str(tmp_path / "home"))
    data = write_jsonl(tmp_path / "rows.jsonl", ticket_rows(40))
    bases = [f"base:{write_base(tmp_path / str(seed), seed=seed)}" for seed in (0, 1)]
    asked = ["compare", *bases, "--data", str(data), "--sample", "12", "--max-new-tokens", "4"]
    assert main([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["examples"], found["of"]) == (12, 40)
    assert [model["model"] for model in found["models"]] == bases
    assert "loss" in found["differences"][bases[1]], "one vocabulary, so losses are comparable"
    gap = found["models"][1]["metrics"]["loss"] - found["models"][0]["metrics"]["loss"]
    assert found["differences"][bases[1]]["loss"]["value"] == pytest.approx(gap)
    assert main(["compare", bases[0], bases[0], "--data", str(data)]) == 2
    assert np.isfinite(gap)
