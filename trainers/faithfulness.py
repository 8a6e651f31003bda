"""An answer and the values it has to hold → how many it lacks, and how many it states without a right to.

Two forms. `slots` (data-to-text): the last user turn holds NAME[VALUE] pairs, and the answer has to put every value
into words. `json` (extraction): the right answer is a JSON object, and the answer has to hold the same values at the
same keys; one that is no object lacks them all, and of several references the nearest counts.

Slots are matched as runs of words after case, accents, punctuation, currency signs and number words are evened out,
with a plural s allowed at the end; the job can give further wordings (`aliases`). A value counts as added where the
answer holds it, the input does not, and some input of the training or test rows has it for a slot. A slot that is only
ever yes or no is stated by its name's words (familyFriendly → "family friendly"), and denied by a negation up to four
words before.

Known limits: values put into other words without an alias count as missing ("by the river" for riverside); a common
word that is also a value ("high", "restaurant") counts as added where it means something else; a value that two slots
of an input share is found for both by one mention; which slot a value was said of is not checked; invented values that
no row has, and relations between values, are not seen. Measured on human references in benchmarks/results.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.errors import JobFileError
from cluster.evaluate_spec import FaithfulnessSpec
from trainers.prepared import TRAIN

if TYPE_CHECKING:
    from trainers.metrics import Predictions
    from trainers.prepared import Prepared
    from trainers.splits import EvaluationExample
    from trainers.turns import Message

Words = tuple[str, ...]
Slot = tuple[str, str]
Counts = tuple[int, int, int, int]
"""Values lacking, required, added, stated."""

SLOT = re.compile(r"([^\s,;\[\]][^,;\[\]\n]*?)\s*\[([^\[\]]*)\]")
YES, NO = frozenset({"yes", "true"}), frozenset({"no", "false"})
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {word: str(place) for place, word in enumerate(DIGITS)}
# fmt: off
NEGATIONS = frozenset(
    (
        "not", "no", "non", "never", "nor", "neither", "without", "hardly", "isnt", "arent", "wasnt", "werent",
        "doesnt", "dont", "didnt", "wont", "cant", "cannot",
    )
)
# fmt: on
NEGATION_REACH = 4


def slots_of(text: str) -> list[Slot]:
    """Return the NAME[VALUE] pairs of a text, in order, without empty values."""
    return [(name.strip(), value.strip()) for name, value in SLOT.findall(text) if value.strip()]


@lru_cache(maxsize=65_536)
def words_of(text: str) -> Words:
    """Return a text as words with what does not matter evened out."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    plain = re.sub(r"['\u2019]", "", plain)
    words: list[str] = re.findall(r"[^\W_]+", plain)
    return tuple(NUMBERS.get(word, word) for word in words)


@dataclass(frozen=True)
class Inventory:
    """The values that slots take anywhere in the data: those said in words, longest first, and yes/no slots' names."""

    spoken: tuple[str, ...]
    polar: tuple[str, ...]

    @classmethod
    def of(cls, prompts: Iterable[Sequence[Message]]) -> Inventory:
        """Return the inventory of these inputs; a slot that is only ever yes or no says so by its name."""
        values: defaultdict[str, set[str]] = defaultdict(set)
        for prompt in prompts:
            for name, value in slots_of(asked(prompt)):
                values[name].add(value)
        polar = {name for name, known in values.items() if {value.casefold() for value in known} <= YES | NO}
        spoken = {value for name, known in values.items() if name not in polar for value in known}
        return cls(tuple(sorted(spoken, key=lambda value: (-len(value), value))), tuple(sorted(polar)))


@dataclass(frozen=True)
class Faithfulness:
    """What answers are held against: the form, and for slots the inventory of all values."""

    spec: FaithfulnessSpec
    inventory: Inventory

    def counted(self, examples: Sequence[EvaluationExample], predictions: Predictions) -> Predictions:
        """Return predictions with the counts of each answer's values; as they are where nothing was answered."""
        if not predictions.texts:
            return predictions
        found = [self.counts(one, text) for one, text in zip(examples, predictions.texts, strict=True)]
        return replace(predictions, values=np.array(found, dtype=np.int64).reshape(len(found), 4))

    def counts(self, example: EvaluationExample, text: str) -> Counts:
        """Return what one answer lacks, had to hold, added and states."""
        if self.spec.form == "json":
            return json_counts(example.references, text)
        return slot_counts(slots_of(asked(example.prompt)), text, self.inventory, self.spec.aliases)

    def has_values(self, examples: Iterable[EvaluationExample]) -> bool:
        """Say whether any example requires a value."""
        if self.spec.form == "json":
            return any(pairs_of(text) for example in examples for text in example.references)
        return any(slots_of(asked(example.prompt)) for example in examples)


def faithfulness_of(
    spec: FaithfulnessSpec, prepared: Prepared, tests: Mapping[str, Sequence[EvaluationExample]]
) -> Faithfulness:
    """Return what the answers to a job's tests are held against; raises JobFileError where no test requires a value."""
    slots = spec.form == "slots"
    prompts = [row.prompt for name in (TRAIN, *tests) for row in prepared.rows(name)] if slots else []
    found = Faithfulness(spec, Inventory.of(prompts))
    if not any(found.has_values(examples) for examples in tests.values()):
        wanted = "NAME[VALUE] in its last user turn" if slots else "a JSON object as its answer"
        what = f"evaluate.faithfulness.form is {spec.form}, and no test row has {wanted}"
        raise JobFileError(what, "change the form, or remove evaluate.faithfulness", "evaluate.faithfulness")
    return found


def slot_counts(required: Sequence[Slot], text: str, inventory: Inventory, aliases: dict[str, list[str]]) -> Counts:
    """Return the counts of one answer against its input's slots."""
    words = list(words_of(text))
    spoken = [value for name, value in required if name not in inventory.polar]
    found = {value: _places_of(value, words, aliases) for value in spoken}
    missing = sum(not found[value] for value in spoken)
    stated = len(spoken) - missing
    free = _without(words, [place for places in found.values() for place in places])
    added = 0
    for value in inventory.spoken:
        if value not in found and (places := _places_of(value, free, aliases)):
            added += 1
            free = _without(free, places)
    wanted = {name: value.casefold() in YES for name, value in required if name in inventory.polar}
    for name in inventory.polar:
        said = _polarity(name, words, aliases)
        missing += name in wanted and said != wanted[name]
        added += said is not None and wanted.get(name) != said
        stated += said is not None and wanted.get(name) == said
    return missing, len(spoken) + len(wanted), added, stated + added


def json_counts(references: Sequence[str], text: str) -> Counts:
    """Return the counts of one answer against the nearest reference that is an object; no requirements without one."""
    said = pairs_of(text) or Counter[Slot]()
    known = [pairs for pairs in map(pairs_of, references) if pairs is not None]
    every = [((pairs - said).total(), pairs.total(), (said - pairs).total(), said.total()) for pairs in known]
    return min(every, key=lambda found: found[0] + found[2], default=(0, 0, 0, said.total()))


def pairs_of(text: str) -> Counter[Slot] | None:
    """Return the values of the JSON object in a text, each with its path; None where there is no object."""
    for begin in (place for place, letter in enumerate(text) if letter == "{"):
        try:
            found, _ = json.JSONDecoder().raw_decode(text[begin:])
        except (json.JSONDecodeError, RecursionError):
            continue
        return Counter(_leaves(found, ""))
    return None


def asked(prompt: Sequence[Message]) -> str:
    """Return the last user turn of a prompt."""
    return next((turn["content"] for turn in reversed(prompt) if turn["role"] == "user"), "")


def _leaves(value: Any, path: str) -> Iterator[Slot]:
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _leaves(below, f"{path}.{key}")
    elif isinstance(value, list):
        for below in value:
            yield from _leaves(below, f"{path}[]")
    elif value is not None and value != "":
        yield path, " ".join(words_of(str(value))) or str(value)


def _places_of(value: str, words: Sequence[str], aliases: dict[str, list[str]]) -> list[tuple[int, int]]:
    """Return where a value is said, in any wording."""
    return [place for wording in (value, *aliases.get(value, ())) for place in _places(words_of(wording), words)]


def _places(wanted: Words, words: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield where a run of words occurs, a plural s at its end allowed."""
    size = len(wanted)
    if not size or (size > 1 and wanted[0] not in words):
        return
    last = (wanted[-1], f"{wanted[-1]}s")
    for begin in range(len(words) - size + 1):
        if words[begin + size - 1] in last and tuple(words[begin : begin + size - 1]) == wanted[:-1]:
            yield begin, begin + size


def _without(words: Sequence[str], places: Iterable[tuple[int, int]]) -> list[str]:
    """Return the words with those at these places blanked, so that no value is found in them again."""
    left = list(words)
    for begin, end in places:
        left[begin:end] = [""] * (end - begin)
    return left


def _polarity(name: str, words: Sequence[str], aliases: dict[str, list[str]]) -> bool | None:
    """Return whether a text affirms or denies a yes/no slot, by its first mention; None where it has none."""
    spelled = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    places = [at for wording in (spelled, *aliases.get(name, ())) for at in _places(words_of(wording), words)]
    if not places:
        return None
    begin, _ = min(places)
    return not NEGATIONS & set(words[max(0, begin - NEGATION_REACH) : begin])
