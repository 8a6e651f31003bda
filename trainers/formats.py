"""Column names → the format that a file is written in, and why.

Six ways of writing training data are read: `messages`, `sharegpt`, `alpaca`, `prompt_completion`, `classification`
(the label is generated) and plain `text`. Only names decide; two formats that fit are an error that tells how to
choose, never a guess. Plain text is taken only where nothing else fits, since many data sets carry a ready-made `text`
column beside the real ones. Left out: reading files (``trainers.sources``) and making rows (``trainers.rows``).
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from cluster.errors import DataError

if TYPE_CHECKING:
    from cluster.layout_spec import DataFormat

Format = Literal["messages", "sharegpt", "alpaca", "prompt_completion", "classification", "text"]

COLUMNS: dict[Format, dict[str, tuple[str, ...]]] = {
    "messages": {"messages": ("messages",)},
    "sharegpt": {"messages": ("conversations", "conversation")},
    "alpaca": {"prompt": ("instruction",), "completion": ("output",)},
    "prompt_completion": {"prompt": ("prompt",), "completion": ("completion",)},
    "classification": {"text": ("text",), "label": ("label", "category", "intent")},
    "text": {"text": ("text",)},
}
"""Our columns of each format, the one that a record must have first, with the names they go by unless told."""
ALWAYS = {"system": "system", "references": "references", "synthetic": "synthetic"}
CORE = frozenset({"messages", "prompt", "completion", "text"})


class Layout(Protocol):
    """How a source writes its rows: a data block, or one source of a mixture."""

    @property
    def format(self) -> DataFormat:
        """The format, or auto."""
        ...

    @property
    def columns(self) -> dict[str, str]:
        """The file's column for each of ours that goes by another name."""
        ...


@dataclass(frozen=True, slots=True)
class FormatChoice:
    """A format, why it was chosen, and the file's column for each of ours."""

    format: Format
    reason: str
    columns: Mapping[str, str]


def infer_format(columns: Collection[str], data: Layout, where: str = "") -> FormatChoice:
    """Return the format that a record with these columns is written in, and the reason.

    Raises DataError, naming the columns seen and what to write, where no format fits, where several do, or where a
    column named in ``data.columns`` that the format needs is missing.
    """
    _refuse_missing(columns, data, where)
    if data.format != "auto":
        first, names = next(iter(COLUMNS[data.format].items()))
        if not any(name in columns for name in _names(first, names, data)):
            raise DataError(
                f"data.format is {data.format}, but none of the columns {_listed(columns)} is {' or '.join(names)}",
                f"Change data.format, or name the column: columns: {{{first}: YOUR COLUMN}}.",
                where,
            )
        return FormatChoice(data.format, "data.format says so", _resolved(data.format, columns, data, where))
    fitting: list[Format] = [name for name in COLUMNS if _fits(name, columns, data)]
    if len(fitting) > 1 and "text" in fitting:
        fitting.remove("text")
    if len(fitting) != 1:
        raise _undecided(columns, fitting, where)
    resolved = _resolved(fitting[0], columns, data, where)
    used = [resolved[ours] for ours in COLUMNS[fitting[0]] if resolved[ours] in columns]
    named = " (named in data.columns)" if CORE & data.columns.keys() else ""
    return FormatChoice(fitting[0], f"it has the columns {_listed(used)}{named}", resolved)


def infer_format_of_all(records: Sequence[Collection[str]], data: Layout, where: str = "") -> FormatChoice:
    """Return the format that most of the records with these columns are written in, the first of equals.

    A single odd record must not decide for its file. Plain text is taken only where no record fits another format, and
    every column named in ``data.columns`` is there. Raises DataError as ``infer_format`` does, if no record fits any.
    """
    choices: list[FormatChoice] = []
    refusals: list[DataError] = []
    for columns in records:
        try:
            choices.append(infer_format(columns, data, where))
        except DataError as error:
            refusals.append(error)
    if not choices:
        raise refusals[0]
    richer = [choice for choice in choices if choice.format != "text"]
    if not richer:
        seen = list(dict.fromkeys(name for columns in records for name in columns))
        require_columns(data, seen, where)
    most_frequent = Counter(choice.format for choice in richer or choices).most_common(1)[0][0]
    return next(choice for choice in choices if choice.format == most_frequent)


def require_columns(data: Layout, columns_seen: Collection[str], where: str = "") -> None:
    """Raise DataError if a column named in ``data.columns`` was in none of the sources; call it when all are read."""
    for ours, theirs in data.columns.items():
        if theirs not in columns_seen:
            raise _missing_column(ours, theirs, columns_seen, where)


def _names(ours: str, defaults: tuple[str, ...], data: Layout) -> tuple[str, ...]:
    return (data.columns[ours],) if ours in data.columns else defaults


def _fits(name: Format, columns: Collection[str], data: Layout) -> bool:
    """Say whether the columns, with the names given in the job, are all that the format needs."""
    named = CORE & data.columns.keys()
    if named - COLUMNS[name].keys() or (named and name in ("alpaca", "sharegpt")):
        return False
    for ours, defaults in COLUMNS[name].items():
        names = _names(ours, defaults, data)
        if ours == "completion":
            names = (*names, data.columns.get("references", "references"))
        if not any(theirs in columns for theirs in names):
            return False
    return True


def _resolved(name: Format, columns: Collection[str], data: Layout, where: str) -> dict[str, str]:
    """Return the file's column for each of ours, whether or not this record has it."""
    resolved = ALWAYS | data.columns
    for ours, defaults in COLUMNS[name].items():
        present = [theirs for theirs in _names(ours, defaults, data) if theirs in columns]
        if len(present) > 1:
            raise DataError(
                f"the columns {_listed(present)} could each be the {ours}",
                f"Say which: columns: {{{ours}: {present[0]}}}.",
                where,
            )
        resolved[ours] = present[0] if present else _names(ours, defaults, data)[0]
    return resolved | ({"input": "input"} if name == "alpaca" else {})


def _refuse_missing(columns: Collection[str], data: Layout, where: str) -> None:
    for ours in sorted(CORE & data.columns.keys()):
        instead = data.columns.get("references", "references") if ours == "completion" else data.columns[ours]
        if not {data.columns[ours], instead} & set(columns):
            raise _missing_column(ours, data.columns[ours], columns, where)


def _missing_column(ours: str, theirs: str, columns: Collection[str], where: str) -> DataError:
    near = difflib.get_close_matches(theirs, list(columns), n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return DataError(
        f"there is no column {theirs!r} (named in data.columns.{ours}); there are {_listed(columns)}",
        f"Change data.columns.{ours} to a column of the file.{hint}",
        where,
    )


def _undecided(columns: Collection[str], fitting: list[Format], where: str) -> DataError:
    if fitting:
        return DataError(
            f"the columns {_listed(columns)} could be {' or '.join(fitting)}",
            f"Say which: data.format: {fitting[0]}.",
            where,
        )
    return DataError(
        f"the columns {_listed(columns)} fit no known format",
        "Name them: columns: {prompt: YOUR COLUMN, completion: YOUR COLUMN}, or {text: .., label: ..}.",
        where,
    )


def _listed(columns: Collection[str]) -> str:
    shown = ", ".join(repr(name) for name in list(columns)[:12])
    return f"{shown}, …" if len(columns) > 12 else shown or "(none)"
