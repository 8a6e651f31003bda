"""The JSON that other programs read, key by key and word by word, against the contracts of the design.

Every golden object is parsed and printed again: a renamed, missing or additional key, or another number of levels,
changes the text. The words come from the design, not from the code.
"""

from __future__ import annotations

import json
import pickle

import pytest
from pydantic import ValidationError

from cluster.records import (
    FINDING_CODES,
    CheckReport,
    Finding,
    GateReport,
    RunStatus,
    SweepResult,
    TrainResult,
)

PLAN = """{"workers": 2, "min_workers": null, "gpus_per_worker": 0.0, "cpus_per_worker": 1.0, "device": "cpu",
 "precision": "fp32", "zero_stage": 2, "steps": 30, "steps_per_epoch": 10, "micro_batch_tokens": 2048,
 "micro_batches": 1, "scores_aside": false,
 "parameters": 1000000, "trainable_parameters": 1000000, "memory_bytes": {"weights": 4000000},
 "available_bytes": 8000000000, "formula": "", "hours": null, "hours_source": "", "cost_usd": null, "advice": []}"""

CHECK = f"""{{"ok": true,
 "findings": [{{"code": "duplicate_exact", "severity": "warning", "count": 3, "rows": ["a.jsonl:7"], "remedy": "drop",
               "detail": ""}}],
 "splits": {{"train": {{"rows": 8, "tokens": 80, "target_tokens": 16}}}},
 "plan": {PLAN},
 "fixed": {{"pii": {{"mended": 2, "dropped": 0, "rows": ["a.jsonl:9"]}}}}}}"""

INTERVAL = '{"value": 0.7, "low": 0.6, "high": 0.8}'

GATE = """{"decision": "accept", "rules": [{"rule": "accuracy >= 0.60", "left": 0.7, "right": 0.6, "passed": true,
 "note": ""}]}"""

TRAIN = f"""{{"run": "router-20260301-120000-abcd", "release": "/home/.hone/runs/router-20260301-120000-abcd/release",
 "version": "router@1", "steps": 30, "examples": 960,
 "metrics": {{"validation": {{"loss": 0.5}}, "test": {{"accuracy": 0.7, "macro_f1": 0.6}},
             "base": {{"accuracy": 0.1}}}},
 "intervals": {{"test": {{"accuracy": {INTERVAL}}}, "base": {{"accuracy": {INTERVAL}}}}},
 "throughput": {{"examples_per_s": 24.6, "target_tokens_per_s": 300.0}},
 "gate": {GATE}}}"""

NAMED_TESTS = f"""{{"run": "router-20260301-120000-abcd", "release": "s3://bucket/release", "version": null, "steps": 1,
 "examples": 32,
 "metrics": {{"validation": {{"loss": 0.5}}, "test": {{"easy": {{"accuracy": 0.9}}, "hard": {{"accuracy": 0.4}}}},
             "base": {{"easy": {{"accuracy": 0.2}}, "hard": {{"accuracy": 0.1}}}}}},
 "intervals": {{"test": {{"easy": {{"accuracy": {INTERVAL}}}, "hard": {{"accuracy": {INTERVAL}}}}}}},
 "throughput": {{"examples_per_s": 24.6, "target_tokens_per_s": 300.0}},
 "gate": {{"decision": "hold", "rules": [{{"rule": "hard.accuracy >= champion", "left": 0.4, "right": null,
                                          "passed": null, "note": "missing"}}]}}}}"""

STATUS = """{"run": "router-20260301-120000-abcd", "stage": "train", "state": "running", "why": "", "step": 3,
 "steps": 30, "metrics": {"loss": 1.5}, "eta_s": 12.5}"""

SWEEP = f"""{TRAIN.rstrip()[:-1]}, "study": "router-20260301-120000-abcd", "trials": 12, "pruned": 5, "failed": 1,
 "best": {{"params": {{"train.learning_rate": 0.001, "base": "org/a"}}, "value": 0.5}},
 "comparison": "Trial 9 won and beats the job's own values.", "lead": {INTERVAL}}}"""

TRADED = f"""{SWEEP.rstrip()[:-1]}, "pareto": [
 {{"params": {{"base": "org/small"}}, "value": 0.7, "latency_s": 0.001}},
 {{"params": {{"base": "org/large"}}, "value": 0.8, "latency_s": 0.009}}]}}"""

GOLDEN = [
    (CheckReport, CHECK),
    (TrainResult, TRAIN),
    (TrainResult, NAMED_TESTS),
    (SweepResult, SWEEP),
    (SweepResult, TRADED),
    (RunStatus, STATUS),
    (GateReport, GATE),
]
NAMES = ["check", "train", "train with named tests", "sweep", "sweep with a tradeoff", "status", "gate"]

CODES = [
    *["duplicate_exact", "duplicate_near", "leakage_exact", "leakage_near", "conflicting_answers", "target_missing"],
    *["turn_empty", "roles_broken", "format_mixed", "encoding_damaged", "control_characters", "boilerplate", "pii"],
    *["class_imbalance", "class_rare", "length_outlier", "truncated", "target_truncated", "label_suspect"],
    *["low_diversity", "language_mixed", "small"],
]


@pytest.mark.parametrize(("record", "golden"), GOLDEN, ids=NAMES)
def test_a_record_prints_the_keys_of_its_contract_and_no_others(record, golden):
    assert json.loads(record.model_validate_json(golden).as_json()) == json.loads(golden)


@pytest.mark.parametrize(("record", "golden"), GOLDEN, ids=NAMES)
def test_a_record_is_printed_on_one_line(record, golden):
    assert "\n" not in record.model_validate_json(golden).as_json()


@pytest.mark.parametrize(("record", "golden"), GOLDEN, ids=NAMES)
def test_a_key_that_the_contract_does_not_know_is_refused(record, golden):
    with pytest.raises(ValidationError, match="Extra inputs"):
        record.model_validate(json.loads(golden) | {"extra": 1})


@pytest.mark.parametrize(("record", "golden"), GOLDEN, ids=NAMES)
def test_a_record_crosses_processes_unchanged(record, golden):
    found = record.model_validate_json(golden)
    assert pickle.loads(pickle.dumps(found)) == found


@pytest.mark.parametrize(("record", "golden"), GOLDEN, ids=NAMES)
def test_a_record_cannot_be_changed(record, golden):
    found = record.model_validate_json(golden)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(found, next(iter(record.model_fields)), None)


def test_the_finding_codes_are_those_of_the_contract():
    assert sorted(FINDING_CODES) == sorted(CODES)
    assert len(CODES) == 22


def words(record, field, given):
    """Return which of the ``given`` words a field takes."""
    golden = json.loads(next(text for kind, text in GOLDEN if kind is record)) if record is not Finding else None
    base = golden or json.loads(CHECK)["findings"][0]
    taken = []
    for word in given:
        try:
            record.model_validate(base | {field: word})
        except ValidationError:
            continue
        taken.append(word)
    return taken


@pytest.mark.parametrize(
    ("record", "field", "contract"),
    [
        (RunStatus, "state", ["waiting", "running", "stopping", "finished", "failed", "stopped"]),
        (GateReport, "decision", ["accept", "hold", "reject"]),
        (Finding, "severity", ["error", "warning", "note"]),
    ],
)
def test_a_field_takes_the_words_of_the_contract_and_no_others(record, field, contract):
    others = ["", "Running", "done", "error ", "promote", "accepted", "warn", "info", "killed", "pending", None, 1]
    assert words(record, field, [*contract, *others]) == contract


def test_what_is_not_known_yet_is_null_and_not_missing():
    waiting = RunStatus(run="router-20260301-120000-abcd", stage="data", state="waiting")
    assert json.loads(waiting.as_json()) == {
        "run": "router-20260301-120000-abcd",
        "stage": "data",
        "state": "waiting",
        "why": "",
        "step": 0,
        "steps": 0,
        "metrics": {},
        "eta_s": None,
    }


def test_text_is_printed_as_it_is():
    status = json.loads(STATUS) | {"why": "größer als 3 → zu groß"}
    assert "größer als 3 → zu groß" in RunStatus.model_validate(status).as_json()
