"""YAML text → plain values, and for every key the place where it was written.

Three things that PyYAML's own loader does are dangerous in a job file: it forgets lines, it lets the last of two equal
keys win, and it reads YAML 1.1, where ``1e-4`` is text, ``off`` is false and ``12:30`` is a number. So nodes are
composed by PyYAML and turned into values here, with the scalars of YAML 1.2's core schema. Tags, merge keys, self
references and documents that unfold beyond measure are refused: a job file needs none of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias, cast

import yaml

from cluster.errors import JobFileError

YamlValue: TypeAlias = "bool | int | float | str | list[YamlValue] | dict[str, YamlValue] | None"
KeyPath: TypeAlias = tuple[str | int, ...]

MAX_NODES = 50_000
MAX_DEPTH = 50
TAG = "tag:yaml.org,2002:"
CORE_SCALARS: tuple[tuple[str, re.Pattern[str], str], ...] = (
    ("null", re.compile(r"^(?:~|null|Null|NULL|)$"), "~nN\0"),
    ("bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF"),
    ("int", re.compile(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"), "-+0123456789"),
    ("float", re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$"), "-+.0123456789"),
    ("float", re.compile(r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"), "-+."),
)


class CoreLoader(yaml.SafeLoader):
    """PyYAML's parser with the scalars of YAML 1.2's core schema."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own shape)


class CoreDumper(yaml.SafeDumper):
    """PyYAML's writer; quotes text that either YAML 1.1 or ``CoreLoader`` would read as something else."""


for _kind, _pattern, _first in CORE_SCALARS:
    for _class in (CoreLoader, CoreDumper):
        _class.add_implicit_resolver(TAG + _kind, _pattern, [character.strip("\0") for character in _first])


def _written_text(dumper: CoreDumper, text: str) -> yaml.ScalarNode:
    # PyYAML folds Unicode's line separators inside single quotes and so loses them; in double quotes it escapes them.
    escaped = any(separator in text for separator in "\x85\u2028\u2029")
    return dumper.represent_scalar(f"{TAG}str", text, style='"' if escaped else None)


CoreDumper.add_representer(str, _written_text)


@dataclass(frozen=True, slots=True)
class Located:
    """A parsed document and, for each key and list item in it, where it was written."""

    value: YamlValue
    places: dict[KeyPath, str]


def parse_yaml(text: str, place: Callable[[int], str]) -> Located:
    """Return the values of one YAML document; ``place`` names a line (counted from 1) for a user.

    Raises JobFileError for what is no YAML, for two equal keys, and for what a job file does not need.
    """
    try:
        node = _composed(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        what = f"the character {chr(error.character)!r} is not allowed"
        raise JobFileError(what, "Save the file as plain UTF-8 text.", place(line)) from None
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, place) from None
    except RecursionError:
        raise JobFileError("the YAML is nested too deeply", "Write the keys of a job file.", place(1)) from None
    if node is None:
        return Located(None, {})
    reading = _Reading(place)
    return Located(reading.value(node, ()), reading.places)


def _composed(text: str) -> yaml.Node | None:
    loader = CoreLoader(text)
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


def _syntax_error(error: yaml.MarkedYAMLError, place: Callable[[int], str]) -> JobFileError:
    mark = error.problem_mark or error.context_mark
    problem = error.problem or "it cannot be read"
    remedy = "Check the indentation, and quote text that holds ': ' or '#'."
    if "'\\t'" in problem:
        remedy = "Indent with spaces; YAML allows no tabs."
    elif "'@'" in problem or "'`'" in problem or "'%'" in problem:
        remedy = "Put the value in quotes."
    elif "single document" in (error.context or ""):
        problem, remedy = "a second document begins", "Keep one job in a file: remove the line of three hyphens."
    return JobFileError(f"this is no valid YAML: {problem}", remedy, place(mark.line + 1 if mark else 1))


@dataclass(slots=True)
class _Reading:
    """One walk over the nodes of a document."""

    place: Callable[[int], str]
    places: dict[KeyPath, str] = field(default_factory=dict)
    num_nodes: int = 0

    def value(self, node: yaml.Node, path: KeyPath) -> YamlValue:
        where = self.places.setdefault(path, self._place_of(node))
        self.num_nodes += 1
        if self.num_nodes > MAX_NODES or len(path) > MAX_DEPTH:
            what = "it unfolds to too many values, or refers to itself"
            raise JobFileError(what, "Write the keys of a job file, without anchors and aliases.", where)
        if isinstance(node, yaml.MappingNode) and node.tag == f"{TAG}map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{TAG}seq":
            return self._list(node, path)
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node, where)
        raise JobFileError(f"the tag {node.tag} is not allowed", "Remove the tag.", where)

    def _place_of(self, node: yaml.Node) -> str:
        return self.place(node.start_mark.line + 1)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> YamlValue:
        values: dict[str, YamlValue] = {}
        for key_node, value_node in cast("list[tuple[yaml.Node, yaml.Node]]", node.value):
            where = self._place_of(key_node)
            key = _scalar(key_node, where) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                shown = str(cast("object", key_node.value)) if isinstance(key_node, yaml.ScalarNode) else "a collection"
                raise JobFileError(f"{shown} stands where a key belongs", "Keys are text; put it in quotes.", where)
            if key in values:
                what = f"{key} is given twice, first at {self.places[(*path, key)]}"
                raise JobFileError(what, "Remove one of them.", where)
            self.places[(*path, key)] = where
            values[key] = self.value(value_node, (*path, key))
        return values

    def _list(self, node: yaml.SequenceNode, path: KeyPath) -> YamlValue:
        items = enumerate(cast("list[yaml.Node]", node.value))
        return [self.value(item, (*path, place)) for place, item in items]


def _scalar(node: yaml.ScalarNode, where: str) -> YamlValue:
    text = cast("str", node.value)
    kind = node.tag
    try:
        if kind == f"{TAG}str":
            return text
        if kind == f"{TAG}null":
            return None
        if kind == f"{TAG}bool" and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if kind == f"{TAG}int":
            return int(text, 0 if text[:2] in ("0o", "0x") else 10)
        if kind == f"{TAG}float":
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError:
        raise JobFileError(f"{text[:40]!r} cannot be read as a number", "Write a plain number.", where) from None
    raise JobFileError(f"the tag {node.tag} is not allowed", "Remove the tag.", where)
