"""Text → the language it is written in, or None when that is not clear; no model and no download.

Scripts that one language family owns decide by themselves; texts in Latin letters are told apart by function words
that only one of the profiled languages has ("the", "nicht", "también"). Words that look the same in two of them are
left out of every profile, so a hit is evidence for one language alone. Short texts without such words stay unknown:
a wrong language costs the user more than a missed one.

Left out: languages inside one non-Latin script (Russian and Bulgarian are both "Cyrillic"), and Danish against
Norwegian, which share their function words.
"""

from __future__ import annotations

import re
from collections import Counter

PROFILES = {
    "English": "the and of is are with that this these which from not would should have has been they their "
    "what when where how your there because about into could does returns you it my please "
    "if its we who why will only other than then them some any all given",
    "German": "der die das und ist nicht ein eine einen einem einer mit auf für von zu wie auch werden wird dem den "
    "sich ich sie wir haben kann oder aber nach bei über durch wenn meine mein bitte wo warum keine noch",
    "French": "le les des et est une dans pour pas avec sur vous nous sont qui cette aux être avoir mais ou où je il "
    "elle ils votre notre leur du au ce ces mon ma comment pourquoi très plus",
    "Spanish": "el los las y es una con para por del está son como pero más muy este esta qué cómo dónde puede tiene "
    "también cuando sobre hay ser yo mi usted nosotros sus porque donde "
    "cuándo quién hola gracias necesito quiero del mis ha he",
    "Portuguese": "os uma não com são você mais muito isso este foi pelo pela também quando ao dos das na nos nas ou "
    "meu minha seu sua tem está até onde porque você vocês é",
    "Italian": "il gli di che è non una per sono della delle dei degli nella nel questo questa come anche più ma con "
    "alla dal perché dove quando mio mia può essere ho lo",
    "Dutch": "het een van en niet met voor zijn dat op te aan ook wordt worden ik je wij deze naar bij maar kan hoe "
    "waar waarom mijn geen nog heeft hebben uit",
    "Polish": "nie się jest na do że jak ale czy dla od przez tak jego które który jestem można moje mój gdzie "
    "dlaczego proszę są było będzie tylko ze lub",
    "Swedish": "och är att det som inte för på med till av den har ett jag kan om var hur min mitt varför från eller "
    "också när hos skulle vara detta",
    "Danish or Norwegian": "og er ikke det til på med som af av jeg kan han hun deres hvordan hvor hvorfor fra eller "
    "også når skal være dette mitt noe noget",
    "Turkish": "ve bir bu için ile değil çok daha olarak gibi ama nasıl nerede neden benim var yok mi olan sonra kadar",
    "Czech": "je se na že není jsem jsou ale jak kde proč který která které pro nebo také byl bylo můj moje jako když",
    "Romanian": "și este nu în cu pe pentru că sunt din mai care să fi sau cum unde această acest am ați dar după",
    "Hungarian": "és az nem hogy egy van meg már csak vagy mint kell lehet hol miért hogyan nekem ez azt volt",
    "Finnish": "ja on ei että se hän kun niin mutta ovat oli tai miten missä miksi minun voi ole myös kuin",
    "Indonesian or Malay": "yang dan di dengan untuk tidak dari ini itu adalah ke pada akan saya dalam bisa bagaimana "
    "karena juga oleh ada anda",
    "Vietnamese": "của và là không có cho được các một những này trong với đã để người tôi như thế nào",
}

ENGLISH_TOO = frozenset(
    ("am", "den", "gift", "had", "hat", "he", "hun", "kan", "ma", "man", "mi", "mis", "plus", "van")
)


def _exclusive(profiles: dict[str, str]) -> dict[str, str]:
    """Return word → language for the words that one profile alone holds and English text does not use otherwise."""
    holders: dict[str, set[str]] = {}
    for language, words in profiles.items():
        for word in words.split():
            holders.setdefault(word, set()).add(language)
    return {
        word: next(iter(languages))
        for word, languages in holders.items()
        if len(languages) == 1 and word not in ENGLISH_TOO
    }


LANGUAGE_OF = _exclusive(PROFILES)
WORD = re.compile(r"[^\W\d_]+")
SCRIPTS = {
    "Cyrillic": r"\u0400-\u052f",
    "Greek": r"\u0370-\u03ff",
    "Hebrew": r"\u0590-\u05ff",
    "Arabic": r"\u0600-\u06ff\u0750-\u077f\ufb50-\ufdff\ufe70-\ufeff",
    "Indic": r"\u0900-\u0dff",
    "Thai": r"\u0e00-\u0e7f",
    "Korean": r"\uac00-\ud7af\u1100-\u11ff",
    "Japanese": r"\u3040-\u30ff",
    "Chinese": r"\u3400-\u4dbf\u4e00-\u9fff",
}
IN_SCRIPT = {name: re.compile(f"[{ranges}]") for name, ranges in SCRIPTS.items()}
BEYOND_LATIN = re.compile(r"[\u0370-\u1fff\u3040-\ud7af\ufb50-\ufdff]")
LANGUAGE_CHARS = 2000
MIN_HITS = 3
MIN_HIT_FRAC = 0.08


def language_of(text: str) -> str | None:
    """Return the language or script of a text, or None where fewer than three clear words or letters speak for one.

    Only the first ``LANGUAGE_CHARS`` are read.
    """
    text = text[:LANGUAGE_CHARS]
    if not text.isascii() and BEYOND_LATIN.search(text):
        script = _script_of(text)
        if script:
            return script
    words = set(WORD.findall(text.lower()))
    hits = Counter(LANGUAGE_OF[word] for word in words & LANGUAGE_OF.keys())
    ranked = sorted(hits.items(), key=lambda item: (-item[1], item[0]))
    if not ranked:
        return None
    best, num_hits = ranked[0]
    runner_up = ranked[1][1] if len(ranked) > 1 else 0
    clear = num_hits >= MIN_HITS and num_hits >= 2 * runner_up and num_hits >= MIN_HIT_FRAC * len(words)
    return best if clear else None


def _script_of(text: str) -> str | None:
    """Return the non-Latin script that holds at least half of a text's letters."""
    counts = {name: len(pattern.findall(text)) for name, pattern in IN_SCRIPT.items()}
    if counts["Japanese"] >= 2:
        counts["Japanese"] += counts.pop("Chinese")
    name = max(counts, key=lambda key: counts[key])
    num_letters = sum(letter.isalpha() for letter in text)
    return name if counts[name] >= 3 and counts[name] >= 0.5 * num_letters else None
