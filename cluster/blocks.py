"""What every block of the job file is made of: a frozen model, its plain value types, and refusals that name a key.

A block is strict on purpose: YAML already has numbers, booleans and text, so ``"16"`` for 16 or ``1`` for true is a
mistake worth a line. A rule between keys raises ``refusal``, which carries the path of the key to change, so that the
loader can point at its line. How the mistakes are worded for a user is left to ``cluster.complaints``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Annotated, ClassVar, cast, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

NAME_PATTERN = r"^[a-z0-9][a-z0-9-]{0,62}$"
WORD_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*$"


class Block(BaseModel):
    """A frozen part of the job file that refuses unknown keys, converted types and infinite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    called: ClassVar[str] = "a job file"
    """What a message calls the file that this is the root of."""


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Word = Annotated[str, Field(pattern=WORD_PATTERN)]
SourceList = Annotated[list[Text], Field(min_length=1)]
Sources = Annotated[SourceList, BeforeValidator(_as_list, json_schema_input_type=Text | SourceList)]
"""Files, globs, URLs or hub ids: one as text or several as a list; always a list once parsed."""


def refusal(path: Sequence[str | int], what: str, remedy: str) -> PydanticCustomError:
    """Return the error of a rule between keys; ``path`` leads from the validated block to the key to change."""
    return PydanticCustomError("rule", "{what}", {"what": what, "remedy": remedy, "path": list(path)})


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean X?`` for the closest known word, or nothing where none is close."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def block_types(annotation: object) -> list[type[Block]]:
    """Return the block classes that a field's annotation mentions, through unions, lists and mappings."""
    if isinstance(annotation, type) and issubclass(annotation, Block):
        return [annotation]
    return [found for part in get_args(annotation) for found in block_types(part)]


def annotation_at(annotation: object, path: Sequence[str | int]) -> object | None:
    """Return the type that stands at ``path`` below ``annotation``, or None where no such key can be."""
    if not path:
        return annotation
    if isinstance(annotation, type) and issubclass(annotation, Block):
        field = annotation.model_fields.get(str(path[0]))
        return None if field is None else annotation_at(field.annotation, path[1:])
    args = cast("tuple[object, ...]", get_args(annotation))
    if get_origin(annotation) in (list, dict):
        return annotation_at(args[-1], path[1:])
    found = (annotation_at(part, path) for part in args)
    return next((part for part in found if part is not None), None)


def dotted_keys(block: type[Block], prefix: str = "") -> list[str]:
    """Return every key a user can set one value under, as dotted paths; keys inside lists and mappings are left out."""
    keys: list[str] = []
    for name, field in block.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Block):
            keys += dotted_keys(field.annotation, f"{prefix}{name}.")
        else:
            keys.append(f"{prefix}{name}")
    return keys
