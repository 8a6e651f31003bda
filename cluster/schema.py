"""The spec's fields → the JSON Schema for editors and the reference page for people.

Both are generated, so neither can say what the program does not do: bounds come from the fields' own constraints,
sentences from their descriptions, defaults from the spec. Nothing is written here by hand but the frame of the page.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TypeAlias, get_args, get_origin

from pydantic.fields import FieldInfo

from cluster.blocks import Block, block_types
from cluster.spec import JobSpec
from cluster.starter import starter_job
from cluster.sweep_spec import swept_keys

JsonSchema: TypeAlias = dict[str, Any]

INTRODUCTION = """\
# The job file

Generated from the program's own fields by `hone schema --reference`; change the descriptions there, not this page.

A job file is YAML. `name`, `base` and `data` are required; everything else has a default. Paths are relative to the
file. Unknown keys, equal keys and values out of bounds are refused with file and line before anything runs. Any key
can be set for one run: `--set train.learning_rate=1e-4`. Numbers such as `1e-4` are numbers, and only `true` and
`false` are booleans (YAML 1.2). For completion and checks in an editor, save `hone schema` as a JSON Schema.
"""
TYPE_WORDS = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "`true` or `false`",
    "null": "`null`",
    "object": "mapping of names to text",
}
BOUNDS = (("exclusiveMinimum", "> "), ("minimum", "≥ "), ("exclusiveMaximum", "< "), ("maximum", "≤ "))


def json_schema() -> JsonSchema:
    """Return the job file's JSON Schema (draft 2020-12), as an editor or validator takes it."""
    schema = JobSpec.model_json_schema(mode="validation")
    space: JsonSchema = schema["$defs"]["SweepSpec"]["properties"]["space"]
    space["propertyNames"] = {"enum": swept_keys(JobSpec)}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "hone job file"}


def reference_page() -> str:
    """Return the reference of all keys as Markdown, without a newline at its end."""
    schema = json_schema()
    example = starter_job("my-model", "./models/base", "data.jsonl").rstrip()
    parts = [INTRODUCTION, f"## A job file to start from\n\n```yaml\n{example}\n```\n"]
    parts += [_section(path, block, schema) for path, block in _sections(JobSpec, "")]
    return "\n".join(parts).rstrip()


def _sections(block: type[Block], path: str) -> Iterator[tuple[str, type[Block]]]:
    """Yield each block with the path a user finds it under, outer blocks first."""
    yield path, block
    for name, field in block.model_fields.items():
        for inner in block_types(field.annotation):
            yield from _sections(inner, f"{path}.{name}{_member(field.annotation)}".lstrip("."))


def _member(annotation: object) -> str:
    """Return how the members of a list or mapping are written in a path."""
    for part in (annotation, *get_args(annotation)):
        if get_origin(part) is list:
            return "[]"
        if get_origin(part) is dict:
            return ".NAME"
    return ""


def _section(path: str, block: type[Block], schema: JsonSchema) -> str:
    properties = (schema if block is JobSpec else schema["$defs"][block.__name__])["properties"]
    rows: list[str] = []
    for name, field in block.model_fields.items():
        cells = (_value(properties[name], schema), _default(field), field.description or "")
        rows.append(f"| `{name}` | " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    head = f"## `{path}`" if path else "## The whole file"
    table = "\n".join(["| Key | Value | Default | Meaning |", "|---|---|---|---|", *rows])
    return f"{head}\n\n{block.__doc__}\n\n{table}\n"


def _value(schema: JsonSchema, root: JsonSchema) -> str:
    """Return what a property may hold, in words and bounds."""
    if "$ref" in schema:
        return "any value" if schema["$ref"].endswith("/JsonValue") else "block"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_value(branch, root) for branch in schema["anyOf"]))
    if "const" in schema:
        return f"`{_written(schema['const'])}`"
    if "enum" in schema:
        *first, last = [f"`{_written(word)}`" for word in schema["enum"]]
        return f"{', '.join(first)} or {last}" if first else last
    if schema.get("type") == "array":
        return f"list of {_value(schema['items'], root)}" if schema["items"] else "list"
    if schema.get("type") == "object" and schema["additionalProperties"].get("type") != "string":
        return f"mapping of names to {_value(schema['additionalProperties'], root)}"
    words = TYPE_WORDS.get(schema.get("type", ""), "any value")
    bounds = ", ".join(f"{sign}{schema[key]}" for key, sign in BOUNDS if key in schema)
    matches = f" matching `{schema['pattern']}`" if "pattern" in schema else ""
    return f"{words} {bounds}".rstrip() + matches


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default_factory_takes_validated_data:
        return "depends"
    value: object = field.get_default(call_default_factory=True)
    return "see its keys" if isinstance(value, Block) else f"`{_written(value)}`"


def _written(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
