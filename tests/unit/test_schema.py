"""The JSON Schema agrees with the loader, and the reference page is complete and fresh."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from cluster.blocks import Block, block_types, dotted_keys
from cluster.schema import json_schema, reference_page
from cluster.spec import JobSpec

PAGE = Path(__file__).parents[2] / "docs" / "job-file.md"
HEAD: dict[str, Any] = {"name": "a", "base": "b", "data": "c.jsonl"}
GOOD: list[dict[str, Any]] = [
    {},
    {"data": ["a", "b"]},
    {"data": {"train": "a", "validation": ["b"], "test": {"old": "o", "new": ["n"]}}},
    {"data": {"train": "a", "test": "t", "columns": {"prompt": "q"}, "audit": {"allow": ["*"], "fix": ["pii"]}}},
    {"data": {"train": "a", "mix": [{"name": "g", "train": "g", "weight": 0.5}]}},
    {"train": {"eval_every": 5, "zero_stage": 2, "early_stopping": None, "lora": {"targets": ["q"]}}},
    {"cluster": {"workers": {"min": 1, "max": 2}, "gpus_per_worker": 0.5}},
    {"sweep": {"space": {"train.lora.targets": ["all-linear", ["q"]], "train.dropout": "uniform(0, 0.2)"}}},
    {"serve": {"endpoint": "e", "arms": {"a": {"release": "m@1", "weight": 1}}}},
]
BAD: list[dict[str, Any]] = [
    {"name": "../x"},
    {"epochs": 3},
    {"data": {"train": []}},
    {"data": {"train": "a", "columns": {"promt": "q"}}},
    {"data": {"train": "a", "audit": {"fix": ["small"]}}},
    {"train": {"epoch": 1}},
    {"train": {"epochs": 0}},
    {"train": {"zero_stage": 4}},
    {"train": {"lora": {"dropout": 1}}},
    {"cluster": {"workers": 0}},
    {"sweep": {"space": {"train.lr": "fixed(1)"}}},
    {"serve": {"endpoint": "e", "arms": {}}},
]


def validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json_schema())


def test_the_schema_is_a_valid_schema():
    jsonschema.Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("blocks", GOOD)
def test_an_editor_takes_what_the_loader_takes(blocks: dict[str, Any]):
    JobSpec.model_validate(HEAD | blocks)
    validator().validate(HEAD | blocks)


@pytest.mark.parametrize("blocks", BAD)
def test_an_editor_marks_what_the_loader_refuses(blocks: dict[str, Any]):
    with pytest.raises(ValueError):  # noqa: PT011 (pydantic's ValidationError, checked in test_spec)
        JobSpec.model_validate(HEAD | blocks)
    assert not validator().is_valid(HEAD | blocks)


def test_an_editor_shows_every_fields_sentence():
    schema = json_schema()
    for definition in (schema, *schema["$defs"].values()):
        for name, field in definition.get("properties", {}).items():
            block = schema["$defs"].get(field.get("$ref", "").rpartition("/")[2], {})
            assert field.get("description") or block["description"], name


def blocks_of(block: type[Block]) -> set[type[Block]]:
    inner = {found for field in block.model_fields.values() for found in block_types(field.annotation)}
    return {block}.union(*(blocks_of(found) for found in inner))


def test_the_page_has_every_key_with_its_sentence():
    page = reference_page()
    for block in blocks_of(JobSpec):
        for name, field in block.model_fields.items():
            row = next(
                line for line in page.splitlines() if line.startswith(f"| `{name}` ") and field.description in line
            )
            assert row.count(" | ") == 3
    for key in dotted_keys(JobSpec):
        above = key.rpartition(".")[0]
        assert not above or f"## `{above}`" in page


@pytest.mark.parametrize(
    "row",
    [
        "| `batch_size` | whole number ≥ 1 | `32` |",
        "| `dropout` | number ≥ 0, < 1 | `0.05` |",
        "| `method` | `full`, `lora` or `qlora` | `lora` |",
        "| `zero_stage` | `auto` or whole number ≥ 0, ≤ 3 | `auto` |",
        "| `workers` | whole number ≥ 1 or block | `1` |",
        "| `base` | text | required |",
        "| `space` | mapping of names to text or list of any value | required |",
    ],
)
def test_a_row_tells_values_bounds_and_default(row: str):
    assert row in reference_page()


def test_the_page_in_the_repository_is_fresh():
    assert PAGE.read_text(encoding="utf-8") == reference_page() + "\n", "hone schema --reference > docs/job-file.md"
