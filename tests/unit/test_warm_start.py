"""Where a search begins: the published prior, then the job's own values, each where the space holds it."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.spec import JobSpec
from cluster.train_spec import Method
from tuning.space import METHOD, RATE
from tuning.warm_start import Base, usual_rate, warm_starts

SMALL = Base("llama", 64)


def job(space: dict[str, Any], sweep: dict[str, Any] | None = None, **train: Any) -> JobSpec:
    return JobSpec.model_validate(
        {"name": "a", "base": "b", "data": "c", "train": train, "sweep": {"space": space, **(sweep or {})}}
    )


@pytest.mark.parametrize(
    ("method", "base", "rate"),
    [
        ("lora", Base("llama", 2048), 4.9e-4),
        ("lora", Base("llama", 4096), 2.9e-4),
        ("lora", Base("qwen3", 4096), 4.7e-4),
        ("full", Base("llama", 2000), 5e-5),
        ("lora", SMALL, 7.3e-3),
        ("qlora", Base("gpt2", 768), 2e-4),
        ("full", None, 2e-5),
    ],
)
def test_the_usual_rate_falls_with_the_width_as_published_and_is_the_default_where_nothing_is_known(
    method: Method, base: Base | None, rate: float
) -> None:
    """5e-5 · 10 · (2000 / 2048)^0.781 and so on, worked out by hand."""
    assert usual_rate(method, base) == pytest.approx(rate, rel=0.02)


def test_the_prior_comes_first_and_the_jobs_own_values_third() -> None:
    space = {RATE: "loguniform(1e-5, 1e-1)", "train.batch_size": "choice(16, 32)"}
    found = warm_starts(job(space, method="lora", learning_rate=1e-3, batch_size=32), SMALL)
    assert found == {
        0: {RATE: pytest.approx(7.3e-3, rel=0.01), "train.batch_size": 32},
        2: {RATE: 1e-3, "train.batch_size": 32},
    }


@pytest.mark.parametrize(("trials", "own"), [(1, 0), (2, 1), (3, 2), (24, 2)])
def test_however_few_the_trials_the_jobs_own_values_are_among_them(trials: int, own: int) -> None:
    found = warm_starts(job({RATE: "loguniform(1e-5, 1e-1)"}, {"trials": trials}, learning_rate=1e-3), SMALL)
    assert found[own] == {RATE: 1e-3}
    assert max(found) < trials


def test_own_values_come_first_where_nothing_else_is_known() -> None:
    assert warm_starts(job({"train.lora.dropout": "uniform(0.0, 0.2)"})) == {0: {"train.lora.dropout": 0.05}}
    assert list(warm_starts(job({RATE: "loguniform(1e-5, 1e-3)"}, method="lora"))) == [0], "they are the prior"
    assert list(warm_starts(job({RATE: "loguniform(1e-5, 1e-3)"}, learning_rate=5e-4), SMALL)) == [0], "out of reach"


def test_a_prior_on_a_choice_is_the_option_nearest_by_order_of_magnitude() -> None:
    found = warm_starts(job({RATE: [2e-4, 3e-3, 8e-3, 2e-2]}, learning_rate=2e-4), SMALL)
    assert found == {0: {RATE: 8e-3}, 2: {RATE: 2e-4}}


def test_a_value_outside_the_space_is_left_to_the_search() -> None:
    space = {RATE: "loguniform(1e-4, 1e-3)", "train.batch_size": "choice(16, 64)"}
    assert warm_starts(job(space, method="full", learning_rate=5e-4, batch_size=32)) == {0: {RATE: 5e-4}}


def test_under_another_method_the_jobs_rate_is_moved_by_ten_and_tried_second() -> None:
    space = {METHOD: "choice(full, lora)", RATE: "loguniform(1e-6, 1e-1)"}
    found = warm_starts(job(space, method="full", learning_rate=1e-4))
    assert found == {
        0: {METHOD: "full", RATE: 2e-5},
        1: {METHOD: "lora", RATE: pytest.approx(1e-3)},
        2: {METHOD: "full", RATE: 1e-4},
    }
    found = warm_starts(job(space, method="lora", learning_rate=1e-3))
    assert found[1] == {METHOD: "full", RATE: pytest.approx(1e-4)}


def test_a_grid_has_all_of_its_points_anyway() -> None:
    assert warm_starts(job({RATE: [1e-4, 1e-3]}, {"search": "grid"}), SMALL) == {}
