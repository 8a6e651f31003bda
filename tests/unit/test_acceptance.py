from __future__ import annotations

from trainers.acceptance import best_base
from trainers.evaluation import Scored
from trainers.gate import Scores, decide


def scored(**roles: dict[str, float]) -> Scored:
    return Scored({role: {"test": metrics} for role, metrics in roles.items()}, {}, {"test": 10}, [])


def test_the_base_is_the_better_of_zero_shot_and_few_shot_metric_by_metric() -> None:
    found = best_base(
        scored(base={"accuracy": 0.2, "rouge_l": 0.5, "loss": 2.0}, base_few_shot={"accuracy": 0.6, "rouge_l": 0.4})
    )
    assert found == {"test": {"accuracy": 0.6, "rouge_l": 0.5, "loss": 2.0}}


def test_lower_is_better_for_a_loss() -> None:
    assert best_base(scored(base={"loss": 2.0}, base_few_shot={"loss": 1.5})) == {"test": {"loss": 1.5}}


def test_tuning_that_does_not_beat_prompting_is_rejected() -> None:
    found = scored(tuned={"accuracy": 0.5}, base={"accuracy": 0.1}, base_few_shot={"accuracy": 0.55})
    report = decide(["accuracy >= base"], Scores(test=found.of("tuned"), base=best_base(found)))
    assert report.decision == "reject"


def test_a_base_that_was_not_scored_leaves_its_rules_undecided() -> None:
    found = scored(tuned={"accuracy": 0.5})
    assert best_base(found) is None
    assert decide(["accuracy >= base"], Scores(test=found.of("tuned"), base=None)).decision == "hold"
