"""Pydantic's errors about a job → one error that a user can act on.

Each mistake is told as: the key, the value seen, the bound, and the place where it was written (FILE:LINE or the
override). Unknown keys get the closest known one, also where it lives in another block. The branches of a union that
the value never meant are left out. Wording lives here, so that the spec stays a list of fields and rules.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from cluster.blocks import Block, annotation_at, block_types, did_you_mean, dotted_keys
from cluster.errors import JobFileError
from cluster.located_yaml import KeyPath

MAX_SHOWN = 5
MAX_VALUE_CHARACTERS = 60
KINDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a block of keys",
    "model_type": "a block of keys",
    "string_too_short": "text that is not empty",
    "too_short": "a collection that is not empty",
}
USUAL_NAMES = {
    "lr": "learning_rate",
    "num_epochs": "epochs",
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "max_seq_length": "max_length",
    "max_seq_len": "max_length",
    "wd": "weight_decay",
    "warmup_ratio": "warmup",
    "warmup_steps": "warmup",
}
"""What other tools call a key of ours."""
TYPE_KINDS = frozenset(kind for kind in KINDS if kind.endswith("_type"))
Mistake: TypeAlias = tuple[KeyPath, str, str]
"""Path of the key, what is wrong with it, what to do."""


def job_error(
    error: ValidationError, root: type[Block], settings: object, places: Mapping[KeyPath, str], shown: str
) -> JobFileError:
    """Return the one error that tells up to five mistakes; ``settings`` is what was validated as ``root``."""
    written = {path: order for order, path in enumerate(places)}
    mistakes = sorted(_mistakes(error, root, settings), key=lambda mistake: written.get(mistake[0], -1))
    if len(mistakes) == 1:
        path, what, remedy = mistakes[0]
        return JobFileError(what, remedy, place_of(path, places, shown))
    lines = [f"{place_of(path, places, shown)}: {what}" for path, what, _ in mistakes[:MAX_SHOWN]]
    if len(mistakes) > MAX_SHOWN:
        lines.append(f"and {len(mistakes) - MAX_SHOWN} more")
    what = f"{len(mistakes)} mistakes\n  " + "\n  ".join(lines)
    every = "; `hone schema` prints every key with its bounds" if root.called == Block.called else ""
    return JobFileError(what, f"Correct these keys{every}.", shown)


def place_of(path: KeyPath, places: Mapping[KeyPath, str], shown: str) -> str:
    """Return where ``path`` was written, or the nearest block around it, or the file as a whole."""
    around = (path[:length] for length in range(len(path), -1, -1))
    return next((places[part] for part in around if part in places), shown)


def shown_value(value: object) -> str:
    """Return a value as it would stand in the file, clipped to a readable length."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MAX_VALUE_CHARACTERS else f"{text[: MAX_VALUE_CHARACTERS - 1]}…"


def _mistakes(error: ValidationError, root: type[Block], settings: object) -> list[Mistake]:
    details: dict[KeyPath, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        if detail["type"] == "default_factory_not_called":  # only ever follows another mistake
            continue
        details.setdefault(_written_path(detail, settings), []).append(detail)
    return [
        _mistake(path, found, root, settings)
        for path, found in details.items()
        if not any(len(other) > len(path) and other[: len(path)] == path for other in details)
    ]


def _written_path(detail: ErrorDetails, settings: object) -> KeyPath:
    """Drop from pydantic's location what the user never wrote: names of union branches, keys made by normalising."""
    path: list[str | int] = []
    here = settings
    rule = cast("Sequence[str | int]", detail.get("ctx", {}).get("path", ())) if detail["type"] == "rule" else ()
    missing = detail["type"] == "missing"
    for part in (*(detail["loc"][:-1] if missing else detail["loc"]), *rule):
        if isinstance(here, dict) and part in here:
            here = cast("dict[object, object]", here)[part]
        elif isinstance(here, list) and isinstance(part, int) and part < len(cast("list[object]", here)):
            here = cast("list[object]", here)[part]
        elif not (isinstance(here, dict) and part in rule):
            continue
        path.append(part)
    return (*path, detail["loc"][-1]) if missing else tuple(path)


def _mistake(path: KeyPath, found: list[ErrorDetails], root: type[Block], settings: object) -> Mistake:
    key = ".".join(str(part) for part in path)
    first = found[0]
    if first["type"] == "rule":
        ctx = cast("dict[str, str]", first.get("ctx", {}))
        return path, f"{key}: {ctx['what']}" if key else ctx["what"], ctx["remedy"]
    if first["type"] == "missing":
        return path, f"{key} is missing", _meaning(root, path)
    if first["type"] == "extra_forbidden":
        return _unknown_key(path, root)
    kinds = {detail["type"] for detail in found}
    if kinds - TYPE_KINDS and kinds != {"literal_error", "bool_type"}:  # a word, true or false: any of them was meant
        found = [detail for detail in found if detail["type"] not in TYPE_KINDS]
    bounds = " or ".join(dict.fromkeys(_bound(detail) for detail in found))
    value = _value_at(path, settings)
    return path, f"{key or 'the file'} is {shown_value(value)}; it must be {bounds}", _meaning(root, path)


def _bound(detail: ErrorDetails) -> str:
    if detail["type"] == "string_pattern_mismatch":
        return f"text that matches {detail.get('ctx', {})['pattern']}"
    if detail["type"] == "greater_than_equal":
        return f"at least {detail.get('ctx', {})['ge']}"
    if detail["type"] == "less_than_equal":
        return f"at most {detail.get('ctx', {})['le']}"
    return KINDS.get(detail["type"], detail["msg"].removeprefix("Input should be "))


def _value_at(path: KeyPath, settings: object) -> object:
    for part in path:
        settings = cast("dict[str | int, object]", settings)[part]
    return settings


def _unknown_key(path: KeyPath, root: type[Block]) -> Mistake:
    *parents, last = path
    above = "".join(f"{part}." for part in parents)
    around = annotation_at(root, parents)
    siblings = [name for block in block_types(around) for name in block.model_fields]
    what = f"{above}{last} is no key of {root.called}"
    elsewhere = [dotted for dotted in dotted_keys(root) if last in (dotted, dotted.rpartition(".")[2])]
    if elsewhere:
        return path, f"{what}; did you mean {elsewhere[0]}?", f"Move it to {elsewhere[0]}, or remove the key."
    usual = USUAL_NAMES.get(str(last))
    close = f"; did you mean {usual}?" if usual in siblings else did_you_mean(str(last), siblings)
    if close:
        return path, f"{what}{close}", "Correct the name, or remove the key."
    inside = f"The keys of {above.rstrip('.')}" if parents else "The keys"
    return path, what, f"{inside} are {', '.join(siblings)}."


def _meaning(root: type[Block], path: KeyPath) -> str:
    """Return the key's own sentence from the spec, as the remedy of a wrong or missing value."""
    *parents, last = path
    for block in block_types(annotation_at(root, parents)) if path else []:
        field = block.model_fields.get(str(last))
        if field is not None and field.description:
            return f"{last}: {field.description}"
    return _meaning(root, tuple(parents)) if parents else "`hone schema` prints every key with its bounds."
