"""What a gate rule may name beside metrics: numbers that other looks at a release come to.

Each term is one row of `TERMS`: how it is written, where its number comes from, and what may be compared with it. A
term ``on_tests`` has a number for each test and is looked up in the same tables as metrics are, under the text that
`spelled` gives; any other has one number for the release and is looked up in the gate's ``facts``. A new look adds a
row here and its numbers in trainers/acceptance.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cluster.speed_spec import SPEED_METRICS

Takes = Literal["nothing", "a column", "a kind", "a metric"]


@dataclass(frozen=True)
class Term:
    """One term: what stands in its parentheses, whether a metric follows after a dot, and what it means.

    ``bounds`` are the lowest and highest value that it can take; None where that depends on the metric or is unknown.
    ``needs_rows`` says of a number of the release that it is measured on the rows of its tests.
    """

    name: str
    meaning: str
    takes: Takes = "nothing"
    of_metric: bool = False
    on_tests: bool = False
    has_peers: bool = False
    higher_is_better: bool = False
    bounds: tuple[float, float] | None = None
    needs_rows: bool = False

    @property
    def written(self) -> str:
        """How the term is written, with words in capitals for what is filled in."""
        inside = {"nothing": "", "a column": "(COLUMN)", "a kind": "(KIND)", "a metric": "(METRIC)"}[self.takes]
        return f"{self.name}{inside}{'.METRIC' if self.of_metric else ''}"


_TABLE = (
    Term(
        "worst_slice",
        "the metric's worst value among the column's slices that are large enough",
        takes="a column",
        of_metric=True,
        on_tests=True,
        has_peers=True,
    ),
    Term(
        "slice_gap",
        "the difference of the best and the worst of these slices",
        takes="a column",
        of_metric=True,
        on_tests=True,
        has_peers=True,
    ),
    Term(
        "robustness_drop",
        "by how much the metric is worse on inputs changed in this way; below 0: better",
        takes="a kind",
        of_metric=True,
        on_tests=True,
    ),
    Term(
        "consistency",
        "how far sampled answers to one input agree: equal labels, or ROUGE-L of pairs",
        on_tests=True,
        higher_is_better=True,
        bounds=(0.0, 1.0),
    ),
    Term("general_perplexity_ratio", "perplexity on general rows, tuned divided by base"),
    Term("general_drop", "by how much the metric on general rows is worse than the base's", takes="a metric"),
    Term(
        "memorised",
        "share of training answers recited from their beginnings, less that of held-out answers",
        bounds=(-1.0, 1.0),
    ),
)
_SPEED = (
    Term(name, meaning, higher_is_better=name.endswith("_per_s"), needs_rows=True)
    for name, meaning in SPEED_METRICS.items()
)
TERMS: dict[str, Term] = {term.name: term for term in (*_TABLE, *_SPEED)}


def spelled(name: str, argument: str = "", metric: str = "") -> str:
    """Return the name under which a term's number is looked up."""
    return f"{name}({argument})" * bool(argument) + name * (not argument) + (f".{metric}" if metric else "")
