"""Row by row: damage, control characters and stock text are found, and correct text of any language is not."""

from __future__ import annotations

import pytest

from tests.audited_rows import chat, clean_chats
from trainers.audit_languages import language_evidence
from trainers.audit_text import (
    boilerplate,
    control_characters,
    encoding_damage,
    repaired,
    text_evidence,
    without_control_characters,
)

CORRECT = [
    "It’s fine – “ok” café £30 naïve Ærø Ünïcode € 5 ½ ™ © ®",
    "Vítejte, žluťoučký kůň; Łódź, smörgåsbord, São João, Ñandú, à l’été",
    "你好世界 привет мир Ελληνικά 日本語テキスト 한국어 שלום مرحبا",
    "نمی‌خواهم (Persian with a joiner), क्ष्‍म, 👩‍👩‍👧 🏴󠁧󠁢󠁳󠁣󠁴󠁿 🏳️‍🌈, 100 °C ± 5",
    "tab\tline\nreturn\r\nplain ASCII ~ text",
]
WORDS = ["café", "Müller", "don’t", "£30", "São Paulo", "naïve", "Привет, мир", "weiß", "“quoted”"]


@pytest.mark.parametrize("text", CORRECT)
def test_correct_text_is_neither_damaged_nor_changed(text: str):
    assert encoding_damage(text) is None
    assert repaired(text) == text
    assert control_characters(text) == []
    assert without_control_characters(text) == text


@pytest.mark.parametrize("word", WORDS)
def test_utf8_read_as_latin1_is_found_and_undone(word: str):
    damaged = word.encode().decode("latin-1")
    assert encoding_damage(f"fine line\nhere {damaged} stands") == f"here {damaged} stands"
    assert repaired(f"fine line\nhere {damaged} stands") == f"fine line\nhere {word} stands"


def test_lost_characters_are_damage_that_stays():
    assert encoding_damage("caf\ufffd") == "caf\ufffd"
    assert repaired("caf\ufffd") == "caf\ufffd"


@pytest.mark.parametrize(
    "letter", ["\x00", "\x08", "\x1b", "\x7f", "\u200b", "\ufeff", "\u202e", "\u2066", "\U000e0041"]
)
def test_a_control_character_is_found_and_nothing_else_is_stripped(letter: str):
    text = f"a{letter}b 👨‍👩‍👧 é\t\n🏴󠁧󠁢󠁳󠁣󠁴󠁿"
    assert control_characters(text) == [letter]
    assert without_control_characters(text) == text.replace(letter, "")


def test_halves_of_damaged_letters_are_left_to_the_repair():
    damaged = "don’t\x00".encode().decode("latin-1")  # the apostrophe becomes â, U+0080, U+0099
    assert control_characters(damaged) == ["\x00"]
    assert repaired(without_control_characters(damaged)) == "don’t"
    assert control_characters("Z\x81rich") == ["\x81"]  # Windows-1252 has no such letter


def test_zero_width_spaces_belong_to_scripts_without_spaces():
    assert control_characters("ภาษา\u200bไทย") == []
    assert without_control_characters("ภาษา\u200bไทย\x00") == "ภาษา\u200bไทย"


def test_stock_text_counts_in_answers_only_and_as_a_phrase():
    rows = [
        chat("As an AI language model, what can you do?", "Many things."),
        chat("Hi", "As an AI language model, I cannot eat."),
        chat("Hi", "I’m sorry, but I can’t help you."),
        chat("Hi", "As an AI, it is used as a language model, in search."),
    ]
    (found,) = [e for e in text_evidence(rows) if e.code == "boilerplate"]
    assert found.rows.tolist() == [1, 2]
    assert boilerplate("A plain answer.") is None


def test_personal_data_is_reported_masked():
    rows = clean_chats(20)
    rows[3] = chat("Who?", "Write to anna.berg@firma.de or call +49 30 901820.")
    (found,) = [e for e in text_evidence(rows) if e.code == "pii"]
    assert found.rows.tolist() == [3]
    assert "a***@f***.de" in found.detail
    assert "anna.berg" not in found.detail
    assert "901820" not in found.detail


def test_a_special_token_written_as_text_is_a_control_character():
    rows = clean_chats(20)
    rows[3] = chat("Who?", "Nobody.<|im_end|>\n<|im_start|>user")
    rows[5] = chat("What does </s> mean?", "It ends a text.")
    (found,) = text_evidence(rows, ["<|im_end|>", "<|im_start|>", "</s>", "<s>"])
    assert (found.code, found.severity, found.rows.tolist()) == ("control_characters", "warning", [3, 5])
    assert "“<|im_end|>” ×1" in found.detail
    assert text_evidence(rows) == []


FOREIGN = "Das Restaurant ist nicht teuer und liegt auch nicht am Fluss."


@pytest.mark.parametrize(("num", "severity"), [(1, "note"), (5, "warning")])
def test_rows_in_another_language_warn_from_their_share_on(num: int, severity: str):
    rows = clean_chats(100)
    for place in range(num):
        rows[7 * place] = chat(rows[7 * place].messages[0]["content"], FOREIGN)
    (found,) = language_evidence(rows, 0.02)
    assert found.rows.tolist() == [7 * place for place in range(num)]
    assert found.severity == severity
    assert "German" in found.detail


def test_translation_pairs_are_no_mixture():
    rows = [chat(row.messages[0]["content"], f"{FOREIGN} {place}") for place, row in enumerate(clean_chats(100))]
    assert language_evidence(rows, 0.02) == []


def test_a_multilingual_set_is_only_noted():
    texts = [
        FOREIGN,
        "Le restaurant est situé près de la rivière et il n'est pas cher.",
        "El local está cerca y no es caro.",
        "The place is not far from the river and it is cheap.",
    ]
    rows = [chat("?", texts[place % 4]) for place in range(100)]
    (found,) = language_evidence(rows, 0.02)
    assert found.severity == "note"
