"""Personal data: what counts, what does not, and that reports and fixes show none of it."""

from __future__ import annotations

import random
import time

import pytest

from cluster.personal_data import find_personal_data, mask_personal_data, passes_luhn, passes_mod97

# Published examples: card networks' test numbers, the ISO 13616 registry's IBANs, AWS's and RFC 7519's documentation.
FOUND = [
    ("email", "write to anna.berg+hone@mail.firma-nord.de today", "anna.berg+hone@mail.firma-nord.de"),
    ("card", "card 4111 1111 1111 1111 please", "4111 1111 1111 1111"),
    ("card", "5555-5555-5555-4444", "5555-5555-5555-4444"),
    ("card", "amex 378282246310005.", "378282246310005"),
    ("iban", "IBAN DE89 3704 0044 0532 0130 00 thanks", "DE89 3704 0044 0532 0130 00"),
    ("iban", "GB29NWBK60161331926819", "GB29NWBK60161331926819"),
    ("iban", "to NO93 8601 1117 947", "NO93 8601 1117 947"),
    ("phone", "call (415) 555-2671 now", "(415) 555-2671"),
    ("phone", "call 415-555-2671.", "415-555-2671"),
    ("phone", "Tel. +49 30 901820", "+49 30 901820"),
    ("phone", "+442079460958", "+442079460958"),
    ("phone", "phone: 030 90182000", "030 90182000"),
    ("national_id", "SSN 219-09-9999", "219-09-9999"),
    ("key", "use AKIAIOSFODNN7EXAMPLE here", "AKIAIOSFODNN7EXAMPLE"),
    ("key", "ghp_" + "a1B2" * 9, "ghp_" + "a1B2" * 9),
    ("key", "OPENAI=sk-proj-abc123def456ghi789jkl", "sk-proj-abc123def456ghi789jkl"),
    ("key", 'api_key = "9f8e7d6c5b4a39281706f5e4"', "9f8e7d6c5b4a39281706f5e4"),
]
CLEAN = [
    "Order 1234567890123456 was shipped on 2024-05-17 at 12:30:45.",  # sixteen digits that fail the checksum
    "ISBN 978-3-16-148410-0, version 10.2.3-4, pages 100-200, ratio 3.14159265358979",
    "The range 1000-2000 and the id 555-1234 and 192.168.100.200",
    "DE89 3704 0044 0532 0130 01 is no IBAN, its checksum is wrong",
    "@staticmethod and user@ and a@b are no addresses; x = y @ z",
    "Use the scikit sk-learn-contrib-estimators-collection-package",
    "token: the-quick-brown-fox-jumps-over and password=<your password here>",
    "0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0",
    "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13",
    "price £20-25, customer rating 5 out of 5, 1234567890",
]


@pytest.mark.parametrize(("kind", "text", "item"), FOUND)
def test_every_kind_is_found_with_its_place(kind: str, text: str, item: str):
    assert [(found.kind, text[found.start : found.end]) for found in find_personal_data(text)] == [(kind, item)]


@pytest.mark.parametrize("text", CLEAN)
def test_look_alikes_are_left_alone(text: str):
    assert find_personal_data(text) == []


@pytest.mark.parametrize(("kind", "text", "item"), FOUND)
def test_a_masked_item_shows_at_most_a_hint_of_itself(kind: str, text: str, item: str):
    (found,) = find_personal_data(text)
    assert item not in found.masked
    assert sum(letter.isalnum() for letter in found.masked) <= max(4, 2 + len(item.rpartition(".")[2]))


@pytest.mark.parametrize(("kind", "text", "item"), FOUND)
def test_masking_a_text_leaves_nothing_to_find_and_the_rest_untouched(kind: str, text: str, item: str):
    assert mask_personal_data(text) == text.replace(item, f"[{kind.upper()}]")
    assert find_personal_data(mask_personal_data(text)) == []


def test_several_items_are_all_masked():
    text = "Anna (anna@firma.de, +49 30 901820) paid with 4111111111111111 and bob@firma.de with DE89370400440532013000"
    assert mask_personal_data(text) == "Anna ([EMAIL], [PHONE]) paid with [CARD] and [EMAIL] with [IBAN]"


def test_a_private_key_is_hidden_to_its_end():
    key = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMIIEow+/abc=\n-----END RSA PRIVATE KEY-----"
    assert mask_personal_data(f"before {key} after") == "before [KEY] after"


def test_luhn_refuses_every_single_wrong_digit():
    for place in range(16):
        for digit in "0123456789":
            number = "4111111111111111"
            changed = number[:place] + digit + number[place + 1 :]
            assert passes_luhn(changed) == (changed == number)


def test_mod97_refuses_swapped_neighbours():
    iban = "GB29NWBK60161331926819"
    swapped = [iban[:i] + iban[i + 1] + iban[i] + iban[i + 2 :] for i in range(4, 21) if iban[i] != iban[i + 1]]
    assert passes_mod97(iban)
    assert not any(map(passes_mod97, swapped))


def test_a_long_hostile_text_is_read_in_time_proportional_to_its_length():
    rng = random.Random(0)
    for alphabet in ("1 ", "1-", "a.", "a.@", "+1 ", "eyJ.", "A1 ", "0(1)"):
        find_personal_data("".join(rng.choices(alphabet, k=200_000)))
    find_personal_data("-----BEGIN PRIVATE KEY-----\n" * 7000)
    find_personal_data("token=" * 30_000)


@pytest.mark.parametrize(
    ("item", "mask"),
    [("anna%d@firma.de ", "[EMAIL] "), ("-----BEGIN PRIVATE KEY-----a%d ", "[KEY]a%d "), ("sk-é%d", None)],
)
def test_a_line_full_of_items_takes_time_proportional_to_its_length(item: str, mask: str | None):
    """Under a second here; compared pair by pair, the items took half a minute."""
    num = 60_000
    text = "".join(item % place for place in range(num))
    began_s = time.perf_counter()
    masked = mask_personal_data(text)
    assert time.perf_counter() - began_s < 10
    assert mask is None or masked == "".join(mask % place if "%" in mask else mask for place in range(num))


def test_of_overlapping_readings_the_first_pattern_counts_wherever_it_lies():
    text = "a@b.de token=abcdefghijklmnop1 x AKIAABCDEFGHIJKLMNOP password: AKIAABCDEFGHIJKLMNOP c@d.de"
    found = find_personal_data(text)
    assert [item.kind for item in found] == ["email", "key", "key", "key", "email"]
    assert [item.start for item in found] == sorted(item.start for item in found)
