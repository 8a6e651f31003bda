"""Real text with faults at known lines: what ``audit_planted.py`` measures the audit on.

The text is the standard library's docstrings, as conversations and as labelled sentences. Each kind of fault is one
function from a sound row to a faulty one, or an added row that repeats, leaks or contradicts another.
"""

from __future__ import annotations

import ast
import random
import sysconfig
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

Record = dict[str, object]
Planted = dict[str, set[int]]
"""Code → lines of the training file, from 1, at which the fault was planted."""
NUM_EACH = 60
LONG_CHARS = 250
OUTLIER_WORDS = 4000
FOREIGN = (
    "Das Protokoll ist nicht sicher, weil die Verbindung auch ohne Schlüssel nach einer Minute noch offen ist.",
    "Cette fonction est utile pour les listes qui sont dans une base, mais elle n'est pas très rapide avec vous.",
    "Esta función es útil para las listas que están en una base, pero no es muy rápida con los ficheros grandes.",
    "Deze functie is niet snel voor grote bestanden, maar het kan ook met een lijst die op de schijf staat.",
    "Эта функция возвращает список всех открытых файлов и закрывает их после чтения.",
    "この関数は開いているファイルの一覧を返し、読み終えたらそれらを閉じます。",
)
STOCK = ("As an AI language model, I cannot run code.", "I'm sorry, but I can't help with that request.")
PERSONAL = (
    "Mail {user}@{user}-consulting.de for access.",
    "Call +49 30 {digits:08} before noon.",
    "Or phone (415) 555-{four} instead.",
    "Pay to DE89 3704 0044 0532 0130 00 or with 4111 1111 1111 1111.",
    "Set AWS_KEY to AKIA{upper}.",
)


def docstrings() -> Iterator[tuple[str, str, str]]:
    """Yield (package, qualified name, docstring) of the standard library, every name and text once."""
    root = Path(sysconfig.get_paths()["stdlib"])
    seen: set[str] = set()
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if {"site-packages", "test", "tests", "idle_test"} & set(parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                text = " ".join((ast.get_docstring(node) or "").split())
                name = ".".join((*parts, node.name))
                if 40 < len(text) < 2000 and not {text, name} & seen:
                    seen |= {text, name}
                    yield parts[0], name, text


def turns(prompt: str, answer: str) -> Record:
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}


def texts(record: Record) -> tuple[str, str]:
    prompt, answer = (str(turn["content"]) for turn in record["messages"])  # pyright: ignore
    return prompt, answer


def edited(text: str, rng: random.Random) -> str:
    """Return the text with one word of it replaced: a near-duplicate if the text is long."""
    words = text.split()
    words[rng.randrange(len(words))] = "altered"
    return " ".join(words)


def without_answer(prompt: str, answer: str, rng: random.Random) -> Record:
    return turns(prompt, rng.choice(["", "  ", "\n"]))


def without_question(prompt: str, answer: str, rng: random.Random) -> Record:
    return turns(rng.choice(["", " "]), answer)


def out_of_order(prompt: str, answer: str, rng: random.Random) -> Record:
    middle = {"role": rng.choice(["user", "narrator"]), "content": "And?"}
    return {"messages": [{"role": "user", "content": prompt}, middle, {"role": "assistant", "content": answer}]}


def in_another_format(prompt: str, answer: str, rng: random.Random) -> Record:
    return {"prompt": prompt, "completion": answer}


def misread(prompt: str, answer: str, rng: random.Random) -> Record:
    damage = [" – “café”".encode().decode("latin-1"), " It costs £30.".encode().decode("cp1252"), " caf\ufffd"]
    return turns(prompt, answer + rng.choice(damage))


def with_control_character(prompt: str, answer: str, rng: random.Random) -> Record:
    return turns(prompt, answer[:20] + rng.choice("\x00\x08\x1b\u200b\ufeff\u202e") + answer[20:])


def with_stock_text(prompt: str, answer: str, rng: random.Random) -> Record:
    return turns(prompt, f"{rng.choice(STOCK)} {answer}")


def with_personal_data(prompt: str, answer: str, rng: random.Random) -> Record:
    user, upper = "".join(rng.choices("abcdefgh", k=6)), "".join(rng.choices("ABCDEFGH234567", k=16))
    item = rng.choice(PERSONAL).format(
        user=user, upper=upper, four=rng.randrange(1000, 9999), digits=rng.randrange(10**8)
    )
    return turns(prompt, f"{answer} {item}")


def in_another_language(prompt: str, answer: str, rng: random.Random) -> Record:
    return turns(prompt, f"{rng.choice(FOREIGN)} {rng.random()}")


def far_too_long(prompt: str, answer: str, rng: random.Random, num_words: int = OUTLIER_WORDS) -> Record:
    return turns(prompt, " ".join(rng.choices(answer.split(), k=num_words)))


FAULTS: dict[str, Callable[[str, str, random.Random], Record]] = {
    "target_missing": without_answer,
    "turn_empty": without_question,
    "roles_broken": out_of_order,
    "format_mixed": in_another_format,
    "encoding_damaged": misread,
    "control_characters": with_control_character,
    "boilerplate": with_stock_text,
    "pii": with_personal_data,
    "language_mixed": in_another_language,
    "length_outlier": far_too_long,
}


def plant_in_conversations(train: list[Record], test: list[Record], rng: random.Random) -> tuple[list[Record], Planted]:
    """Return the training records with ``NUM_EACH`` faults of every kind, none with two, and where they are."""
    records = [dict(record) for record in train]
    planted: defaultdict[str, set[int]] = defaultdict(set)
    free = rng.sample(range(len(records)), len(records))
    for code, make in FAULTS.items():
        for line in (free.pop() for _ in range(NUM_EACH)):
            records[line] = make(*texts(records[line]), rng)
            planted[code].add(line + 1)
    planted["truncated"] = planted["target_truncated"] = planted["length_outlier"]

    def add(code: str, record: Record) -> None:
        records.append(record)
        planted[code].add(len(records))

    long = [train[line] for line in free if len(" ".join(texts(train[line]))) > LONG_CHARS]
    for record in long[:NUM_EACH]:
        add("duplicate_exact", record)
    for prompt, answer in map(texts, long[NUM_EACH : 2 * NUM_EACH]):
        add("duplicate_near", turns(prompt, edited(answer, rng)))
    leaks = [record for record in test if len(" ".join(texts(record))) > LONG_CHARS]
    for record in leaks[: NUM_EACH // 2]:
        add("leakage_exact", record)
    for prompt, answer in map(texts, leaks[NUM_EACH // 2 : NUM_EACH]):
        add("leakage_exact", turns(prompt, f"{answer[:30]} {rng.random()}"))
    for prompt, answer in map(texts, leaks[NUM_EACH : 2 * NUM_EACH]):
        add("leakage_near", turns(f"{prompt}?", edited(answer, rng)))
    return records, planted


def plant_in_labels(train: list[Record], rng: random.Random) -> tuple[list[Record], Planted]:
    """Return the router's records with wrong, contradicting and rare labels, and where they are."""
    records = [dict(record) for record in train]
    labels = sorted({str(record["label"]) for record in train})
    planted: defaultdict[str, set[int]] = defaultdict(set)
    chosen = rng.sample(range(len(records)), 3 * NUM_EACH)
    for line in chosen[:NUM_EACH]:
        records[line]["label"] = rng.choice([label for label in labels if label != records[line]["label"]])
        planted["label_suspect"].add(line + 1)
    for line in chosen[NUM_EACH : 2 * NUM_EACH]:
        other = rng.choice([label for label in labels if label != records[line]["label"]])
        records.append({"text": records[line]["text"], "label": other})
        planted["conflicting_answers"].add(len(records))
    for line in chosen[2 * NUM_EACH : 2 * NUM_EACH + 18]:
        records[line]["label"] = f"rare {line % 6}"
        planted["class_rare"].add(line + 1)
        planted["label_suspect"].add(line + 1)  # a label made up is a wrong one
    return records, planted
