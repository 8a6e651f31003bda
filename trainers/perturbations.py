"""A text → the same text changed in a way that should leave its right answer as it is; a function of the seed alone.

Six kinds. `typos`: a letter dropped, doubled, swapped with its neighbour or replaced by one beside it on a keyboard, in
about a word of eight (one at least). `case`: all lower, all upper, or the first letters turned. `punctuation`: marks
removed, or each sentence's end doubled. `whitespace`: spaces doubled, breaks around the text. `paraphrase`: the text
put into a frame as people write them. `distractor`: an unrelated sentence before it.

That the right answer stays the same is an assumption about the task. It fails where case, spelling or layout *is* the
answer (proof-reading, code), and a value misspelt in the input of a data-to-text task may be copied as it stands, which
counts against the model here. Frames and distractors are English. Left out: translation, synonyms from a model.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from cluster.evaluate_spec import Perturbation

KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
NEIGHBOURS = {
    letter: [row[place] for place in (at - 1, at + 1) if 0 <= place < len(row)]
    for row in KEYBOARD
    for at, letter in enumerate(row)
}
WORD = re.compile(r"[^\W\d_]{4,}")
TYPO_RATE = 0.125
MARKS = re.compile(r"[.,;:!?'\"()–—-]+(?=\s|$)")
ENDS = re.compile(r"[.!?](?=\s|$)")
FRAMES = (
    "Please help me with this: {}",
    "{} Thanks in advance!",
    "Hello, I have the following for you. {}",
    "Quick one: {}",
    "{}\n\nLet me know, please.",
    "I was wondering about this. {}",
)
DISTRACTORS = (
    "It has been raining here since Tuesday.",
    "My neighbour bought a red bicycle last week.",
    "By the way, the library closes at six.",
    "The train was late again this morning.",
    "Our garden has more apples than ever this year.",
)


def perturbed(kind: Perturbation, text: str, seed: str) -> str:
    """Return the text changed in this way; the same text, kind and seed give the same change.

    A text that the kind has nothing to change in comes back as it is.
    """
    return CHANGES[kind](text, random.Random(f"{kind}:{seed}:{text}"))


def _typos(text: str, rng: random.Random) -> str:
    words = list(WORD.finditer(text))
    if not words:
        return text
    chosen = [word for word in words if rng.random() < TYPO_RATE] or [rng.choice(words)]
    pieces: list[str] = []
    end = 0
    for word in chosen:
        pieces += [text[end : word.start()], _mistyped(word[0], rng)]
        end = word.end()
    return "".join([*pieces, text[end:]])


def _mistyped(word: str, rng: random.Random) -> str:
    """Return a word with one mistake after its first letter."""
    at = rng.randrange(1, len(word) - 1)
    letter, following = word[at], word[at + 1]
    beside = NEIGHBOURS.get(letter.lower(), [letter + letter])
    options = [
        word[:at] + word[at + 1 :],
        word[:at] + letter + word[at:],
        word[:at] + rng.choice(beside) + word[at + 1 :],
    ]
    if letter != following:
        options.append(word[:at] + following + letter + word[at + 2 :])
    return rng.choice(options)


def _case(text: str, rng: random.Random) -> str:
    options = [text.lower(), text.upper(), WORD.sub(lambda word: word[0][0].swapcase() + word[0][1:], text)]
    changed = [option for option in options if option != text]
    return rng.choice(changed) if changed else text


def _punctuation(text: str, rng: random.Random) -> str:
    if not MARKS.search(text):
        return f"{text}{rng.choice(('.', '!', ' ...'))}"
    removed, doubled = MARKS.sub("", text), ENDS.sub(lambda end: end[0] * 2, text)
    options = [option for option in (removed, doubled) if option != text]
    return rng.choice(options) if options else text


def _whitespace(text: str, rng: random.Random) -> str:
    wider = re.sub(r" ", lambda _: " " * rng.choice((1, 2, 3)), text)
    return rng.choice((f"  {wider}\n", f"\n\n{wider} ", f"{wider}  \n\n"))


def _paraphrase(text: str, rng: random.Random) -> str:
    return rng.choice(FRAMES).replace("{}", text)


def _distractor(text: str, rng: random.Random) -> str:
    return f"{rng.choice(DISTRACTORS)} {text}"


CHANGES: dict[Perturbation, Callable[[str, random.Random], str]] = {
    "typos": _typos,
    "case": _case,
    "punctuation": _punctuation,
    "whitespace": _whitespace,
    "paraphrase": _paraphrase,
    "distractor": _distractor,
}
