"""The audit of languages: rows whose prompt or answer is in another language than most.

Left out: which languages there are and how they are told apart (``cluster.languages``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np

from cluster.languages import LANGUAGE_CHARS, language_of
from trainers.audit_evidence import Evidence
from trainers.audit_text import REMEMBERED_TEXTS, Tally
from trainers.rows import Row


def language_evidence(rows: Sequence[Row], language_frac: float) -> list[Evidence]:
    """Return the rows whose prompt or answer is in another language than most prompts or answers.

    Prompts and answers are judged apart, so translation pairs are no mixture. Where no language has half of the clear
    texts, the data is meant to be multilingual and gets a note.
    """
    foreign: dict[int, str] = {}
    mains: list[str] = []
    multilingual = False
    for side, languages in _languages(rows).items():
        if not languages:
            continue
        main, num_main = min(Counter(languages.values()).items(), key=lambda item: (-item[1], item[0]))
        multilingual |= num_main < 0.5 * len(languages)
        mains.append(f"{side} {num_main / len(languages):.0%} {main}")
        for i, language in languages.items():
            if language != main:
                foreign.setdefault(i, language)
    if not foreign:
        return []
    others = Tally(values=Counter(foreign.values())).listed()
    warn = not multilingual and len(foreign) >= language_frac * len(rows)
    detail = f"of texts whose language is clear: {', '.join(mains)}; other rows: {others}"
    remedy = "Drop the rows if one language is wanted (audit: {fix: [language_mixed]}), or tune for each on purpose."
    return [
        Evidence("language_mixed", "warning" if warn else "note", np.array(sorted(foreign), np.int64), detail, remedy)
    ]


def _languages(rows: Iterable[Row]) -> dict[str, dict[int, str]]:
    """Return the rows whose prompts, and those whose answers, are in a language that is clear."""
    prompts, answers = dict[int, str](), dict[int, str]()
    remembered = lru_cache(REMEMBERED_TEXTS)(language_of)
    for index, row in enumerate(rows):
        for found, text in ((prompts, _asked(row)), (answers, row.completion)):
            if language := remembered(text[:LANGUAGE_CHARS]):
                found[index] = language
    return {"prompts": prompts, "answers": answers}


def _asked(row: Row) -> str:
    return "\n".join(message["content"] for message in row.prompt if message["role"] == "user")
