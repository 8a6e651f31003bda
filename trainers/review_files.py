"""A sample of answers ↔ files that people rate in: CSV for a spreadsheet, JSON for Label Studio.

An item is told by its id alone, so columns may be moved and rows left out. A spreadsheet would run a cell that begins
with `=`, `+`, `-` or `@`: such text gets an apostrophe in front, which is taken off again when it is read.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import DataError, UsageError

COLUMNS = ("item", "prompt", "expected", "answer", "rating", "correction", "rater")
FORMULA = ("=", "+", "-", "@", "\t", "\r")
LOWEST, HIGHEST = 1.0, 5.0
KINDS = ("rating", "choices", "text")
"""Under which Label Studio keeps a value, by the kind of its control."""
CONFIG = """\
<View>
  <Header value="Prompt"/><Text name="prompt" value="$prompt"/>
  <Header value="Answer"/><Text name="answer" value="$answer"/>
  <Header value="Expected"/><Text name="expected" value="$expected"/>
  <Header value="How good is the answer?"/><Rating name="rating" toName="answer" maxRating="5" required="true"/>
  <Header value="A better answer (optional)"/><TextArea name="correction" toName="answer" maxSubmissions="1"/>
</View>
"""


@dataclass(frozen=True)
class Item:
    """One answer to be rated: its id, and what a rater sees."""

    item: str
    prompt: str
    expected: str
    answer: str


@dataclass(frozen=True)
class Rated:
    """What one person said of one item; a rating from 1 to 5, and a better answer if one was written."""

    item: str
    rater: str
    rating: float | None
    correction: str
    where: str


def write_items(path: Path, items: Sequence[Item]) -> Path | None:
    """Write the items as the file's ending says; with Label Studio's JSON its labelling configuration, returned.

    Raises UsageError for another ending, a file that is there, or one that cannot be written.
    """
    if path.suffix not in (".csv", ".json"):
        raise UsageError(f"{path} ends with neither .csv nor .json", "name a CSV, or JSON for Label Studio")
    try:
        with path.open("x", encoding="utf-8", newline="") as file:
            if path.suffix == ".csv":
                writer = csv.writer(file)
                writer.writerow(COLUMNS)
                shown = ([one.item, *map(guarded, (one.prompt, one.expected, one.answer)), "", "", ""] for one in items)
                writer.writerows(shown)
                return None
            tasks = [{"data": vars(one)} for one in items]
            json.dump(tasks, file, ensure_ascii=False, indent=1)
        config = path.with_suffix(".xml")
        config.write_text(CONFIG, encoding="utf-8")
    except FileExistsError as error:
        raise UsageError(f"{path} exists already", "name another file, or remove it") from error
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror}", "name a file in a directory of yours"
        ) from error
    return config


def read_rated(path: Path) -> list[Rated]:
    """Return what was said in a file; items without a rating and a correction are left out.

    In a CSV without names of raters, the file's own name stands for its rater. Raises DataError with the place of
    whatever cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            found = list(_of_label_studio(json.load(file), path) if path.suffix == ".json" else _of_csv(file, path))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", "name the file that was rated") from error
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise DataError(f"it is no rated file: {error}", "save it as UTF-8 CSV, or export JSON", str(path)) from error
    return [one for one in found if one.rating is not None or one.correction]


def guarded(text: str) -> str:
    """Return text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text


def _bare(text: str) -> str:
    text = text.strip()
    return text[1:] if text.startswith("'") and text[1:].startswith(FORMULA) else text


def _of_csv(file: Any, path: Path) -> Iterator[Rated]:
    reader = csv.DictReader(file)
    if missing := [name for name in ("item", "rating") if name not in (reader.fieldnames or ())]:
        raise DataError(
            f"there is no column {missing[0]!r}", "rate the file that `hone review export` wrote", f"{path}:1"
        )
    for row in reader:
        where = f"{path}:{reader.line_num}"
        correction = _bare(row.get("correction") or "")
        rater = (row.get("rater") or "").strip() or path.stem
        yield Rated((row["item"] or "").strip(), rater, _rating(row["rating"], where), correction, where)


def _of_label_studio(tasks: Any, path: Path) -> Iterator[Rated]:
    """Yield what Label Studio's JSON export, or its JSON-MIN, says."""
    if not isinstance(tasks, list):
        raise DataError("it holds no list of tasks", "export the project as JSON", str(path))
    for place, task in enumerate(tasks, start=1):
        where = f"{path}: task {place}"
        if not isinstance(task, dict):
            raise DataError("this task is no object", "export the project as JSON", where)
        if "annotations" not in task:
            rater = str(task.get("annotator", path.stem))
            rating = _rating(_unwrapped(task.get("rating")), where)
            yield Rated(str(task.get("item", "")), rater, rating, _text(task), where)
            continue
        item = str((task.get("data") or {}).get("item", ""))
        for said in task["annotations"]:
            if not said.get("was_cancelled"):
                values = {part.get("from_name"): part.get("value") or {} for part in said.get("result", ())}
                rating = _rating(values.get("rating", {}).get("rating"), where)
                yield Rated(
                    item, _rater(said.get("completed_by")), rating, _text(values.get("correction", {}), "text"), where
                )


def _rater(found: Any) -> str:
    return str(found.get("email") or found.get("id")) if isinstance(found, dict) else str(found)


def _text(holder: Any, key: str = "correction") -> str:
    found = _unwrapped(holder.get(key)) or ""
    return str(_unwrapped(found[0]) if isinstance(found, list) else found).strip()


def _unwrapped(found: Any) -> Any:
    """Return the one value that was said, where JSON-MIN has it in a list of results or under its control's kind."""
    if isinstance(found, list) and len(found) == 1:
        return _unwrapped(found[0])
    if isinstance(found, dict):
        return next((_unwrapped(found[kind]) for kind in KINDS if kind in found), found)
    return found


def _rating(found: Any, where: str) -> float | None:
    if found is None or found == "":
        return None
    try:
        rating = float(str(found).strip().replace(",", "."))
    except ValueError:
        rating = float("nan")
    if not LOWEST <= rating <= HIGHEST:
        raise DataError(f"the rating is {found!r}", "rate from 1 (bad) to 5 (good), or leave it empty", where)
    return rating
