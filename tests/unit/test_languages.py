"""Languages: clear texts are recognised, unclear ones are left open."""

from __future__ import annotations

import pytest

from cluster.languages import LANGUAGE_OF, language_of

# The first article of the Universal Declaration of Human Rights, and everyday sentences.
CLEAR = [
    ("English", "All human beings are born free and equal in dignity and rights. They are endowed with reason."),
    ("English", "Where is my order? It should have been here."),
    (
        "German",
        "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft begabt und sollen "
        "einander im Geist der Brüderlichkeit begegnen.",
    ),
    ("German", "Das Restaurant ist nicht teuer und liegt am Fluss."),
    ("French", "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison."),
    (
        "Spanish",
        "Todos los seres humanos nacen libres e iguales en dignidad y derechos y, dotados como están de razón y "
        "conciencia, deben comportarse fraternalmente los unos con los otros.",
    ),
    (
        "Portuguese",
        "Todos os seres humanos nascem livres e iguais em dignidade e em direitos. São dotados de razão e não "
        "devem agir uns para com os outros sem isso.",
    ),
    (
        "Italian",
        "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti. Essi sono dotati di ragione e di "
        "coscienza e devono agire gli uni verso gli altri, che è della natura.",
    ),
    (
        "Dutch",
        "Alle mensen worden vrij en gelijk in waardigheid en rechten geboren. Zij zijn begiftigd met verstand en "
        "geweten, en behoren zich jegens elkander in een geest van broederschap te gedragen.",
    ),
    (
        "Polish",
        "Wszyscy ludzie rodzą się wolni i równi, nie tylko pod względem swej godności, ale jest to dla nas prawo.",
    ),
    (
        "Swedish",
        "Alla människor är födda fria och lika i värde och rättigheter. De har förnuft och samvete och det är för "
        "alla som inte kan.",
    ),
    ("Cyrillic", "Все люди рождаются свободными"),
    ("Greek", "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι"),
    ("Arabic", "يولد جميع الناس أحرارا"),
    ("Chinese", "人人生而自由"),
    ("Japanese", "すべての人間は、生まれながらにして自由であり"),
    ("Korean", "모든 인간은 태어날 때부터 자유로우며"),
]
UNCLEAR = [
    "",
    "Hello",
    "OK",
    "class 3",
    "name[The Eagle], food[French], area[riverside]",
    "12 345",
    "x = foo(bar)[0]",
    "é",
]


@pytest.mark.parametrize(("language", "text"), CLEAR)
def test_a_clear_text_is_recognised(language: str, text: str):
    assert language_of(text) == language


@pytest.mark.parametrize("text", UNCLEAR)
def test_an_unclear_text_stays_open(text: str):
    assert language_of(text) is None


def test_foreign_names_in_an_english_sentence_change_nothing():
    assert language_of("The Café Les Deux is near La Tour and Das Haus, and it is not for the poor.") == "English"
    assert language_of("The word привет is what they say when you are there.") == "English"


def test_no_word_speaks_for_two_languages():
    assert {LANGUAGE_OF[word] for word in ("the", "und", "también")} == {"English", "German", "Spanish"}
    assert not {"hat", "in", "de", "la", "con", "plus", "am"} & LANGUAGE_OF.keys()
