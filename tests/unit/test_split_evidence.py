"""A split that is wanted and empty is said with its cause, and so is a weight that cannot be met."""

from __future__ import annotations

import numpy as np

from cluster.spec import DataSpec
from tests.audited_rows import audited, chat, clean_chats
from trainers.audit_evidence import AuditData, Evidence, TokenCounts
from trainers.rows import Row
from trainers.split_evidence import draw_evidence, emptied_evidence, unmet_evidence


def unanswered(num: int) -> list[Row]:
    return [chat(f"question {place}", "", place) for place in range(num)]


def cut(num: int, num_kept: int) -> TokenCounts:
    """Token counts of rows of which only the first ``num_kept`` keep a target token."""
    return TokenCounts(np.full(num, 50), np.full(num, 5), np.where(np.arange(num) < num_kept, 5, 0), 40)


def test_a_given_split_without_an_answer_is_an_error():
    data = audited({"train": clean_chats(30), "test": unanswered(4)}, given=["test"])
    (found,) = emptied_evidence(data)
    assert (found.code, found.severity, found.rows.tolist()) == ("target_missing", "error", [30, 31, 32, 33])
    assert "nothing is left of test: 4 rows without an answer" in found.detail


def test_a_given_split_that_max_length_empties_is_an_error():
    rows = {"train": clean_chats(30), "test": clean_chats(4, seed=1)}
    (found,) = emptied_evidence(audited(rows, given=["test"], tokens=cut(34, 30)))
    assert (found.code, found.severity, found.count) == ("target_truncated", "error", 4)
    assert list(emptied_evidence(audited(rows, given=["test"], tokens=cut(34, 31)))) == []


def test_training_rows_lost_for_two_reasons_are_one_error():
    rows = {"train": [*clean_chats(3), *unanswered(2)], "test": clean_chats(4, seed=1)}
    tokens = TokenCounts(np.full(9, 50), np.full(9, 5), np.array([0, 0, 0, 1, 1, 5, 5, 5, 5]), 40)
    (found,) = emptied_evidence(audited(rows, tokens=tokens))
    assert (found.code, found.severity, found.count) == ("target_truncated", "error", 5)
    assert "2 rows without an answer" in found.detail
    assert "3 rows without a target token" in found.detail


def unmet(data: AuditData, **keys: object) -> list[Evidence]:
    spec = DataSpec.model_validate({"train": "t", **keys})
    return list(unmet_evidence(spec, data, np.arange(len(data.rows))))


def test_too_few_rows_for_a_split_are_a_warning_with_the_numbers():
    validation, test = unmet(audited(clean_chats(3)))
    assert (validation.code, validation.severity) == ("small", "warning")
    assert "validation is empty" in validation.detail
    assert "0.1 of 3 rows is less than half a row" in test.detail


def test_few_groups_are_named_as_the_cause():
    rows = [chat(f"q {place}", f"answer {place}", place, group="all") for place in range(30)]
    (test,) = unmet(audited(rows), validation="v")
    assert "form 1 group that must not be parted" in test.detail
    assert "the smallest of 30 rows; there is room for 3" in test.detail


def test_a_split_that_is_not_wanted_or_given_is_not_missed():
    assert unmet(audited(clean_chats(3)), split={"validation": 0, "test": 0}) == []
    assert unmet(audited(clean_chats(3)), validation="v", test="t") == []


def draws(weight: float, has: int) -> list[Evidence]:
    spec = DataSpec.model_validate({"train": "t", "mix": [{"name": "general", "train": "g", "weight": weight}]})
    return list(draw_evidence(spec, 100, {"general": clean_chats(has)}))


def test_a_weight_that_asks_for_more_than_there_is_or_for_nothing_is_said():
    (more,) = draws(2.0, 150)
    assert (more.severity, "asks for 200 rows, and it has 150" in more.detail) == ("note", True)
    assert "1.5" in more.remedy
    (nothing,) = draws(0.001, 150)
    assert (nothing.severity, "rounds to 0 rows" in nothing.detail) == ("warning", True)
    assert draws(1.5, 150) == []
