"""Does the drift test cry wolf, however often it is looked at, and when does it find what is there? Prints markdown.

    HONE_REALDATA=shared/data python benchmarks/drift_validity.py > benchmarks/results/drift_validity.md

Simulated streams of real prompts through the product's own test (``serving.drift_test``): first sentences of the
standard library's docstrings, and meaning representations of E2E. Sketch and stream are drawn with replacement from
the same prompts, so that without drift both come of one distribution exactly. Exits with 1 where more than 5 % of the
streams without drift are flagged.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import sysconfig
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from heading import heading
from scipy.sparse import csr_matrix, vstack

from cluster.sketch import sketch_of
from cluster.token_features import Tokens
from serving.drift_judge import Rows
from serving.drift_sides import Sides
from serving.drift_test import BATCH, Live, Pass, Reference, play
from serving.live_prompts import Measure
from serving.two_sample import cross_fitted_auc
from trainers.demo_data import docstring_rows, sources

LOOKS = 60
SKETCH_ROWS = 2500
SHARES = (0.05, 0.10, 0.25, 0.50)
LATE_LOOK = 20
Ints = np.ndarray


@dataclass(frozen=True)
class Prompts:
    """Prompts as the test sees them: those of training first, then the foreign ones."""

    name: str
    rows: Rows
    num_own: int
    groups: Sequence[int]
    """Of every prompt of training: what it is about."""


def prompts_of(name: str, own: Sequence[str], groups: Sequence[str], foreign: Sequence[str], model: Path) -> Prompts:
    """Return prompts measured by the product: n-grams, and mean embeddings of the model in a directory."""
    measured = sketch_of(own, "m@1", 0.0, tokens=Tokens(model), model=model)
    measure, sides = Measure(measured, Tokens(model)), Sides.of(measured)
    live = [measure.measured(text) for text in [*own, *foreign]]
    names = sorted(set(groups))
    return Prompts(name, sides.rows_of(live), len(own), [names.index(group) for group in groups])


def docstrings(model: Path) -> Prompts:
    rows = docstring_rows(sources(Path(sysconfig.get_paths()["stdlib"])))
    held = set(sorted({row.label for row in rows})[-4:])
    own = [row for row in rows if row.label not in held]
    foreign = [row.text for row in rows if row.label in held]
    return prompts_of("docstrings", [row.text for row in own], [row.label for row in own], foreign, model)


def e2e(data: Path, model: Path) -> Prompts:
    with (data / "e2e" / "trainset.csv").open(newline="", encoding="utf-8") as file:
        texts = list(dict.fromkeys(row["mr"] for row in csv.DictReader(file)))
    foreign = [text for text in texts if "eatType[restaurant]" in text]
    own = [text for text in texts if "eatType[restaurant]" not in text]
    return prompts_of("E2E", own, [text.split(",")[0] for text in own], foreign, model)


@dataclass(frozen=True)
class Stream:
    """The rows of one endpoint's live prompts, in order, with their users."""

    places: Ints
    units: Sequence[int]


def plain_stream(draw: np.random.Generator, prompts: Prompts, share: float, begins: int = 0) -> Stream:
    """Return one prompt a user, a share of them foreign from the row ``begins`` on."""
    num = LOOKS * BATCH
    places = draw.integers(prompts.num_own, size=num)
    is_foreign = (draw.random(num) < share) & (np.arange(num) >= begins)
    num_foreign = len(prompts.rows.marks) - prompts.num_own
    places[is_foreign] = prompts.num_own + draw.integers(num_foreign, size=int(is_foreign.sum()))
    return Stream(places, range(num))


def returning_stream(draw: np.random.Generator, prompts: Prompts) -> Stream:
    """Return the prompts of users who come again, often or seldom, nine in ten times with the same kind of prompt."""
    groups = np.asarray(prompts.groups)
    num, num_users = LOOKS * BATCH, 400
    kinds = groups[draw.integers(prompts.num_own, size=num_users)]
    often = draw.pareto(1.2, num_users) + 0.2
    units = draw.choice(num_users, size=num, p=often / often.sum())
    places = draw.integers(prompts.num_own, size=num)
    members = [np.flatnonzero(groups == kind) for kind in range(int(groups.max()) + 1)]
    for row in np.flatnonzero(draw.random(num) < 0.9).tolist():
        of_kind = members[kinds[units[row]]]
        places[row] = of_kind[draw.integers(len(of_kind))]
    return Stream(places, units.tolist())


def sketch_rows(draw: np.random.Generator, prompts: Prompts) -> Reference:
    places = draw.integers(prompts.num_own, size=SKETCH_ROWS).tolist()
    return Reference(f"{int(draw.integers(2**40)):x}", prompts.rows.picked(places))


def found_at(draw: np.random.Generator, prompts: Prompts, stream: Stream) -> int | None:
    """Return after how many rows drift was found, None where it never was. A look is a full batch."""
    rows = prompts.rows.picked(stream.places.tolist())
    num = len(stream.places)
    live = Live([f"{row:06d}" for row in range(num)], stream.units, [float(row) for row in range(num)], rows)
    course = play(Pass.begun(len(rows.blocks), 1, -1.0), sketch_rows(draw, prompts), live, rows.picked([]))
    return None if course.found_s is None else int(course.found_s) + 1


def false_alarms(cases: Sequence[Prompts], num: int) -> float:
    """Print how many streams without drift are flagged, and return the highest share."""
    print(f"\n## False alarms: {LOOKS} looks, one after every {BATCH} rows, α = 0.05\n")
    print("| stream | streams | flagged | rate |\n|---|---:|---:|---:|")
    rates: list[float] = []
    for place, prompts in enumerate(cases):
        draw = np.random.default_rng([1, place])
        found = [found_at(draw, prompts, plain_stream(draw, prompts, 0.0)) for _ in range(num)]
        rates.append(_alarm_row(f"{prompts.name}, a user a row", found))
    draw = np.random.default_rng(2)
    found = [found_at(draw, cases[0], returning_stream(draw, cases[0])) for _ in range(num)]
    rates.append(_alarm_row(f"{cases[0].name}, 400 returning users", found))
    return max(rates)


def _alarm_row(name: str, found: Sequence[int | None]) -> float:
    hits = sum(one is not None for one in found)
    print(f"| {name} | {len(found)} | {hits} | {hits / len(found):.2%} |", flush=True)
    return hits / len(found)


def naive_alarms(prompts: Prompts, num: int) -> None:
    """Print what the same streams come to where requests are rows, and where one-look intervals are looked at often."""
    print("\nFor comparison, without drift as well:\n")
    print("| instead | streams | flagged | rate |\n|---|---:|---:|---:|")
    draw = np.random.default_rng(3)
    found: list[int | None] = []
    for _ in range(num):
        stream = returning_stream(draw, prompts)
        found.append(found_at(draw, prompts, Stream(stream.places, range(len(stream.places)))))
    _alarm_row("the same test, every request of the 400 returning users a row", found)
    flagged = [_one_look_alarm(draw, prompts) for _ in range(num)]
    _alarm_row("the AUC's interval for one look above 0.5, looked at 20 times, a user a row", flagged)


def _one_look_alarm(draw: np.random.Generator, prompts: Prompts) -> int | None:
    reference = prompts.rows.picked(draw.integers(prompts.num_own, size=1000).tolist()).blocks[0]
    live: csr_matrix = prompts.rows.picked(draw.integers(prompts.num_own, size=1000).tolist()).blocks[0]
    for num in range(50, 1001, 50):
        is_live = np.repeat([False, True], [reference.shape[0], num])
        if cross_fitted_auc(vstack([reference, live[:num]]).tocsr(), is_live).low > 0.5:
            return num
    return None


def delays(cases: Sequence[Prompts], num: int) -> None:
    print(f"\n## Detection: rows until drift is found, {LOOKS * BATCH:,} at most\n")
    print("Foreign: docstrings of 4 held-out packages of 16; E2E restaurants, in a sketch without any.\n")
    print(
        "| stream | foreign rows | begin at row | streams | found | median rows after it began | middle 80 % |\n"
        "|---|---:|---:|---:|---:|---:|---:|"
    )
    late = LATE_LOOK * BATCH
    for place, prompts in enumerate(cases):
        for share, begins in [*((share, 0) for share in SHARES), (0.25, late), (0.50, late)]:
            draw = np.random.default_rng([4, place, int(100 * share), begins])
            found = [found_at(draw, prompts, plain_stream(draw, prompts, share, begins)) for _ in range(num)]
            hits = [one - begins for one in found if one is not None and one > begins]
            early = sum(one is not None and one <= begins for one in found)
            waits = sorted([*hits, *[10**9] * (num - early - len(hits))])
            middle = median(waits) if waits[len(waits) // 2] < 10**9 else 10**9
            low, high = waits[len(waits) // 10], waits[-1 - len(waits) // 10]
            print(
                f"| {prompts.name} | {share:.0%} | {begins:,} | {num} | {len(hits) / num:.0%} "
                f"| {_rows(middle)} | {_rows(low)} to {_rows(high)} |",
                flush=True,
            )


def _rows(found: float) -> str:
    return "never" if found >= 10**9 else f"{found:,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Validity and power of the drift test.")
    parser.add_argument("--streams", type=int, default=200, help="streams without drift per case")
    parser.add_argument("--drifting", type=int, default=20, help="streams with drift per case")
    arguments = parser.parse_args()
    data = Path(os.environ["HONE_REALDATA"])
    model = data / "stories260K"
    own = [f"--{name} {value}" for name, value in vars(arguments).items() if value != parser.get_default(name)]
    packages = ["numpy", "scipy", "scikit-learn"]
    print(heading("Validity of the drift test", " ".join(["benchmarks/drift_validity.py", *own]), packages))
    cases = [docstrings(model), e2e(data, model)]
    sizes = "; ".join(f"{one.name} {one.num_own:,} and {len(one.rows.marks) - one.num_own:,} foreign" for one in cases)
    print(
        f"Sketches of {SKETCH_ROWS:,} rows; hashed n-grams and mean input embeddings of the 260K model. Prompts: "
        f"{sizes}. A rate of 5 % has a standard error of {100 * (0.05 * 0.95 / arguments.streams) ** 0.5:.1f} %."
    )
    highest = false_alarms(cases, arguments.streams)
    naive_alarms(cases[0], arguments.drifting)
    delays(cases, arguments.drifting)
    print(f"\nThe highest rate of false alarms is {highest:.2%}. Took {time.process_time():.0f} s of one processor.")
    if highest > 0.05:
        sys.exit(1)


if __name__ == "__main__":
    main()
