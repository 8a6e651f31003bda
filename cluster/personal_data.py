"""Text → the e-mail addresses, phone numbers, cards, IBANs, national ids and access keys in it, each with its place.

A warning about personal data is only read when it is right, so every pattern that has a checksum is checked (Luhn for
cards, ISO 7064 mod 97 for IBANs), lengths and issuer prefixes are those in use, and a plain run of digits is never
called a phone number: it needs a country code, brackets or the separators of a national format. A substring test runs
before the patterns, so a row without ``@``, digits or a key's prefix costs about a microsecond.

Left out: names and postal addresses (no pattern finds them without a model), and IP addresses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["key", "iban", "card", "national_id", "email", "phone"]

MASK = re.compile(rf"\[(?:{'|'.join(get_args(Kind)).upper()})\]")
"""What ``mask_personal_data`` puts in place of an item."""

CARD_ISSUERS = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|6(?:011|5\d\d|4[4-9]\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}|3(?:0[0-5]|[68]\d)\d{11}"
)
IBAN_LENGTHS = {
    code: length
    for length, codes in {
        15: "NO",
        16: "BE",
        18: "DK FI FO GL NL SD",
        19: "MK SI",
        20: "AT BA EE KZ LT LU XK",
        21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA",
        23: "AE GI IL IQ TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST",
        26: "IS TR",
        27: "FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HU LB PL SV",
        29: "BR EG PS QA UA",
        30: "JO KW MU",
        31: "MT SC",
        32: "LC",
    }.items()
    for code in codes.split()
}

KEY_PREFIXES = (
    "AKIA",
    "ASIA",
    "sk-",
    "sk_",
    "rk_",
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat_",
    "glpat-",
    "xox",
    "AIza",
    "hf_",
    "npm_",
    "eyJ",
    "PRIVATE",
)
SECRET_WORDS = ("apikey", "api_key", "api-key", "secret", "token", "passwd", "password")
KEY = re.compile(
    r"(?<![A-Za-z0-9_-])(?:(?:AKIA|ASIA)[0-9A-Z]{16}|sk-(?=[\w-]*\d)[\w-]{20,}|[sr]k_(?:live|test)_[0-9A-Za-z]{16,}"
    r"|gh[pousr]_[0-9A-Za-z]{30,}|github_pat_\w{22,}|glpat-[\w-]{20,}|xox[abeoprs]-[\w-]{10,}|AIza[\w-]{35}"
    r"|hf_[0-9A-Za-z]{30,}|npm_[0-9A-Za-z]{36}|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,})(?![A-Za-z0-9_])"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----(?:(?:[\w\s+/=:,]|-(?!-))*-----END [A-Z ]*PRIVATE KEY-----)?",
    re.ASCII,  # what may stand before a key ends one, so that no run of letters is read twice
)
SECRET = re.compile(
    r"(?i:api[_-]?key|secret(?:[_-]?key)?|token|passw(?:or)?d)[\"']?\s*[:=]\s*[\"']?"
    r"(?P<value>(?=[\w+/-]*\d)(?=[\w+/-]*[A-Za-z])[\w+/-]{16,}={0,2})"
)
EMAIL = re.compile(
    r"(?<![\w.+%-])[\w+%-]+(?:\.[\w+%-]+)*@(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z]{2,24}\b"
)
IBAN = re.compile(
    r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?:[A-Z0-9]{11,28}|(?: [A-Z0-9]{4}){2,7}(?: [A-Z0-9]{1,3})?)(?![A-Za-z0-9])"
)
CARD = re.compile(r"(?<![\w.,-])\d(?:[ -]?\d){12,18}(?![\w-])")
NATIONAL_ID = re.compile(r"(?<![\w-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])")
PHONE = re.compile(
    r"(?<![\w+.-])(?<!\d )(?:(?:\+|00)[1-9]\d{0,2}[ ./-]?(?:\(0?\d{1,4}\)|\d{1,4})(?:[ ./-]?\d{2,5}){1,4}"
    r"|(?:1[ -])?\([2-9]\d{2}\) ?\d{3}[ .-]\d{4}|(?:1[ -])?[2-9]\d{2}(?P<mark>[.-])\d{3}(?P=mark)\d{4}"
    r"|\(?0[1-9]\d{1,4}\)?[ /-]\d{3,8}(?:[ -]?\d{2,5}){0,2})(?![\w-]|\.\d)"
)
DIGITS_RUN = re.compile(r"\d[\d ()./-]{7,}")


@dataclass(frozen=True, slots=True)
class Sighting:
    """One item of personal data: ``text[start:end]`` is what to hide."""

    kind: Kind
    start: int
    end: int
    text: str

    @property
    def masked(self) -> str:
        """The item with all but a hint hidden, fit for a report."""
        if self.kind == "email":
            user, _, domain = self.text.partition("@")
            return f"{user[0]}***@{domain[0]}***.{domain.rpartition('.')[2]}"
        if self.kind == "key":
            return f"{self.text[:4]}***"
        digits = re.sub(r"[^0-9A-Za-z]", "", self.text)
        return f"{digits[:2]}***{digits[-2:]}" if self.kind == "iban" else f"***{digits[-2:]}"


def passes_luhn(digits: str) -> bool:
    """Tell whether a string of digits satisfies the Luhn checksum (ISO/IEC 7812-1, annex B)."""
    doubled = (int(digit) * (2 if place % 2 else 1) for place, digit in enumerate(reversed(digits)))
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0


def passes_mod97(iban: str) -> bool:
    """Tell whether an IBAN without spaces has its country's length and satisfies ISO 7064 mod 97-10."""
    if IBAN_LENGTHS.get(iban[:2]) != len(iban):
        return False
    return int("".join(str(int(letter, 36)) for letter in iban[4:] + iban[:4])) % 97 == 1


def _is_card(text: str) -> bool:
    digits = re.sub(r"\D", "", text)
    return CARD_ISSUERS.fullmatch(digits) is not None and len(set(digits)) > 1 and passes_luhn(digits)


def _is_phone(text: str) -> bool:
    num_digits = sum(letter.isdigit() for letter in text)
    return (10 if text[0] not in "+" else 8) <= num_digits <= 15


def _always(text: str) -> bool:
    return True


def _may_hold_key(text: str) -> bool:
    return any(prefix in text for prefix in KEY_PREFIXES)


def _may_hold_secret(text: str) -> bool:
    lowered = text.lower()
    return any(word in lowered for word in SECRET_WORDS)


def _has_run_of_digits(text: str) -> bool:
    return DIGITS_RUN.search(text) is not None


PATTERNS: tuple[tuple[Kind, Callable[[str], bool], re.Pattern[str], Callable[[str], bool]], ...] = (
    ("key", _may_hold_key, KEY, _always),
    ("key", _may_hold_secret, SECRET, _always),
    ("email", lambda text: "@" in text, EMAIL, _always),
    ("iban", _has_run_of_digits, IBAN, lambda text: passes_mod97(text.replace(" ", ""))),
    ("card", _has_run_of_digits, CARD, _is_card),
    ("national_id", _has_run_of_digits, NATIONAL_ID, _always),
    ("phone", _has_run_of_digits, PHONE, _is_phone),
)


def _sightings(text: str, kind: Kind, pattern: re.Pattern[str], is_real: Callable[[str], bool]) -> Iterator[Sighting]:
    """Yield what one pattern finds, in order."""
    for match in pattern.finditer(text):
        group = "value" if pattern is SECRET else 0
        if is_real(match.group(group)):
            yield Sighting(kind, match.start(group), match.end(group), match.group(group))


def _merged(kept: list[Sighting], found: Iterator[Sighting]) -> list[Sighting]:
    """Return both in order, without what overlaps one that is kept; a single pass, since both are in order."""
    free: list[Sighting] = []
    at = 0
    for item in found:
        while at < len(kept) and kept[at].end <= item.start:
            at += 1
        if at == len(kept) or kept[at].start >= item.end:
            free.append(item)
    return sorted([*kept, *free], key=lambda item: item.start)


def find_personal_data(text: str) -> list[Sighting]:
    """Return what a text holds, in order; of two readings that overlap, the first in ``PATTERNS`` counts."""
    kept: list[Sighting] = []
    held: dict[Callable[[str], bool], bool] = {}  # several patterns share a filter
    for kind, may_hold, pattern, is_real in PATTERNS:
        if may_hold not in held:
            held[may_hold] = may_hold(text)
        if held[may_hold]:
            kept = _merged(kept, _sightings(text, kind, pattern, is_real))
    return kept


def mask_personal_data(text: str) -> str:
    """Return the text with every item replaced by its kind in brackets, as ``[EMAIL]``."""
    parts: list[str] = []
    done = 0
    for found in find_personal_data(text):
        parts += [text[done : found.start], f"[{found.kind.upper()}]"]
        done = found.end
    return "".join([*parts, text[done:]])
