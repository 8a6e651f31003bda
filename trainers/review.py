"""`hone review`: a run's answers to its test → a sample for people, and what they said → metrics and rows.

The sample is drawn by a seed over one test of the run's own evaluation, the answers are the tuned model's, and neither
scores nor the base are shown. What comes back is a mean rating with its interval over items, the raters' agreement, and
rows: the correction where one was written (the one most raters wrote), the answer where it was rated well enough.

These rows' inputs are a test's. Trained on beside that same test file they would leak, and the audit says so; they are
meant for a data set that is divided anew (equal inputs stay on one side), or as a test of their own.
"""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.compare_records import ReviewReport, ReviewSample
from cluster.errors import DataError, UsageError
from cluster.registry import Registry
from cluster.runs import find_run
from cluster.store import Store
from trainers.agreement import agreement
from trainers.bootstrap import bootstrap_intervals, from_mean
from trainers.evaluation import read_predictions
from trainers.review_files import HIGHEST, LOWEST, Item, Rated, read_rated, write_items

if TYPE_CHECKING:
    from cluster.session import Settings
    from trainers.splits import EvaluationExample

SEED = 0


def export_review(of: str, out: Path, settings: Settings, *, count: int, test: str | None, seed: int) -> ReviewSample:
    """Write a sample of a run's or release's answers for people to rate; raises UsageError where there are none."""
    store = Store(settings.home)
    run = run_of(of, settings, store)
    test, examples, answers = _answers(store, run, test)
    chosen = sorted(random.Random(seed).sample(range(len(examples)), min(count, len(examples))))
    items = [_item(run, test, place, examples[place], answers[place]) for place in chosen]
    config = write_items(out, items)
    return ReviewSample(
        run=run, test=test, items=len(items), of=len(examples), file=str(out), config=str(config) if config else ""
    )


def import_review(files: Sequence[Path], out: Path, settings: Settings, *, accept: float) -> ReviewReport:
    """Bring ratings back: keep the report with the run, and write the rows to ``out``.

    ``accept`` is the mean rating from which an answer becomes a row as it is. Raises DataError for a rating or item
    that is none, and UsageError where nothing was rated or the rows cannot be written.
    """
    said = [one for file in files for one in read_rated(file)]
    if not said:
        raise UsageError(f"nothing is rated in {', '.join(map(str, files))}", "fill in the column rating, from 1 to 5")
    store = Store(settings.home)
    run, known = _items_of(said, store)
    ratings, corrections = _by_item(said)
    rows = list(_rows(known, ratings, corrections, accept))
    try:
        with out.open("x", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    except FileExistsError as error:
        raise UsageError(f"{out} exists already", "name another file: --rows FILE") from error
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}", "name another file: --rows FILE") from error
    report = review_report(run, ratings, corrections, rows=len(rows), file=str(out))
    store.put_json(report.model_dump(mode="json"), "runs", run, "review.json")
    numbers = {"review.mean_rating": report.mean_rating.value, "review.rating": report.rating}
    if (alpha := report.agreement.krippendorff_alpha) is not None:
        numbers["review.krippendorff_alpha"] = alpha
    Registry(settings).log_metrics(run, numbers)
    return report


def review_report(
    run: str,
    ratings: Mapping[str, Mapping[str, float]],
    corrections: Mapping[str, Sequence[str]],
    *,
    rows: int,
    file: str,
) -> ReviewReport:
    """Return what the ratings come to; an item counts once, by its mean. Raises UsageError for fewer than two items."""
    means = np.array([np.mean(list(by.values())) for by in ratings.values()], dtype=np.float64)
    spans = bootstrap_intervals({"mean": from_mean(means)}, len(means), SEED) if len(means) else {}
    if "mean" not in spans:
        raise UsageError(f"{len(means)} items are rated", "rate two or more")
    mean = spans["mean"]
    return ReviewReport(
        run=run,
        items=len(ratings),
        raters=len({rater for by in ratings.values() for rater in by}),
        ratings=sum(map(len, ratings.values())),
        mean_rating=mean,
        rating=(mean.value - LOWEST) / (HIGHEST - LOWEST),
        agreement=agreement(ratings),
        corrections=sum(map(len, corrections.values())),
        rows=rows,
        file=file,
    )


def run_of(of: str, settings: Settings, store: Store) -> str:
    """Return the run that a run's id, NAME@N, NAME@champion or a release's directory names."""
    if "@" not in of and not Path(of).is_dir():
        return find_run(store, of)
    release = Registry(settings).release_of(of) if "@" in of else of
    described = Path(release) / "release.json"
    if not described.is_file():
        raise UsageError(f"{of} is no release here", "give a run, NAME@N, or a release's directory")
    return str(json.loads(described.read_text(encoding="utf-8"))["run"])


def _answers(store: Store, run: str, test: str | None) -> tuple[str, list[EvaluationExample], list[str]]:
    """Return a test of a run with the tuned model's answers: the one that is named, or the first that has any."""
    if not store.is_committed("runs", run, "evaluation"):
        raise UsageError(f"the run {run} has no evaluation here", "name a run that finished")
    directory = store.reading("runs", run, "evaluation")
    scored = json.loads((directory / "scores.json").read_text())
    names = [name for name in scored["rows"] if name not in scored["slices"]]
    if test is not None and test not in names:
        raise UsageError(f"{run} has no test {test!r}", f"use one of: {', '.join(names)}")
    for name in [test] if test else names:
        examples, said = read_predictions(directory / f"tuned-{name}.parquet", [])
        if said.texts:
            return name, examples, said.texts
    raise UsageError(f"no test of {run} has answers to rate", "plain text is scored by likelihood alone")


def _item(run: str, test: str, place: int, example: EvaluationExample, answer: str) -> Item:
    turns = [
        turn["content"] if len(example.prompt) == 1 else f"{turn['role']}: {turn['content']}" for turn in example.prompt
    ]
    return Item(f"{run}:{test}:{place}", "\n\n".join(turns), example.references[0], answer)


def _items_of(said: Sequence[Rated], store: Store) -> tuple[str, dict[str, tuple[EvaluationExample, str]]]:
    """Return the one run that all items belong to, and each item's example and answer."""
    known: dict[str, tuple[EvaluationExample, str]] = {}
    runs = {one.item.partition(":")[0] for one in said}
    if len(runs) > 1:
        raise UsageError(f"these ratings are of several runs: {', '.join(sorted(runs))}", "import each on its own")
    run = runs.pop()
    tests: dict[str, tuple[list[EvaluationExample], list[str]]] = {}
    for one in said:
        _, _, place = one.item.partition(":")
        test, _, number = place.partition(":")
        try:
            if test not in tests:
                tests[test] = _answers(store, run, test)[1:]
            examples, answers = tests[test]
            known[one.item] = (examples[int(number)], answers[int(number)])
        except (UsageError, ValueError, IndexError) as error:
            what = f"{one.item!r} is no item of a run here"
            raise DataError(what, "leave the column item as `hone review export` wrote it", one.where) from error
    return run, known


def _by_item(said: Sequence[Rated]) -> tuple[dict[str, dict[str, float]], dict[str, list[str]]]:
    """Return ratings by item and rater, a rater's last word counting, and the corrections of each item."""
    ratings: defaultdict[str, dict[str, float]] = defaultdict(dict)
    corrections: defaultdict[str, list[str]] = defaultdict(list)
    for one in said:
        if one.rating is not None:
            ratings[one.item][one.rater] = one.rating
        if one.correction:
            corrections[one.item].append(one.correction)
    return dict(ratings), dict(corrections)


def _rows(
    known: Mapping[str, tuple[EvaluationExample, str]],
    ratings: Mapping[str, Mapping[str, float]],
    corrections: Mapping[str, Sequence[str]],
    accept: float,
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for item, (example, answer) in known.items():
        rated = [*ratings.get(item, {}).values()]
        if corrections.get(item):
            text, how = Counter(corrections[item]).most_common(1)[0][0], "corrected"
        elif rated and float(np.mean(rated)) >= accept:
            text, how = answer, "accepted"
        else:
            continue
        messages = [dict(turn) for turn in example.prompt] + [{"role": "assistant", "content": text}]
        rows.append({"messages": messages, "review": how, "item": item})
    return rows
