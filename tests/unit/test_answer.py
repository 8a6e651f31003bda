"""An answer's pieces: when they are sent, and which tokens belong to which text."""

from __future__ import annotations

from typing import Any

from serving.answer import Answer, Vocabulary
from serving.generation import GenerationRequest, Piece
from serving.sampling import Chosen
from tests.served import STOP_ID
from tests.small_tokenizers import bytewise

TOKENIZER = bytewise()
VOCABULARY = Vocabulary(TOKENIZER.decode, lambda token: TOKENIZER.decode([token]), {STOP_ID})
FLUSH_S = 1.0


def ids_of(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def pieces(ids: list[int], every_s: float = 0.0, **asked: Any) -> list[Piece | None]:
    """What an answer gives after each of its tokens, taken ``every_s``; the tokens behind its end are left."""
    settings: dict[str, Any] = {"max_tokens": 99} | asked
    answer = Answer(0, GenerationRequest("", **settings), 5, VOCABULARY)
    out: list[Piece | None] = []
    for number, token in enumerate(ids):
        answer.take(Chosen(token, True, -1.0, ((token, -1.0),)))
        out.append(answer.piece(number * every_s, FLUSH_S))
        if answer.finish:
            break
    return out


def texts(out: list[Piece | None]) -> list[str | None]:
    return [piece.text if piece else None for piece in out]


def test_the_first_text_goes_out_at_once_and_then_what_has_gathered():
    assert texts(pieces(ids_of("abcdefgh"), 0.4, max_tokens=8)) == ["a", None, None, "bcd", None, None, "efg", "h"]


def test_half_a_character_waits_for_its_other_half():
    assert texts(pieces(ids_of("é€a"), 9.0, max_tokens=6)) == [None, "é", None, None, "€", "a"]


def test_an_answer_cut_in_a_character_ends_before_it():
    out = pieces(ids_of("a€")[:3], 9.0, max_tokens=3)
    last = out[-1]
    assert texts(out) == ["a", None, ""]
    assert last
    assert last.finish == "length"
    assert last.token_ids == tuple(ids_of("€")[:2])


def test_tokens_are_sent_with_the_end_of_their_text():
    out = [piece for piece in pieces(ids_of("é€a"), 9.0, max_tokens=6) if piece]
    assert [piece.token_ids for piece in out] == [tuple(ids_of(text)) for text in ("é", "€", "a")]
    assert [piece.completion_tokens for piece in out] == [2, 5, 6]
    assert {piece.prompt_tokens for piece in out} == {5}


def test_the_token_that_ends_an_answer_is_its_last_and_has_no_text():
    last = pieces([*ids_of("ab"), STOP_ID, *ids_of("c")])[-1]
    assert last
    assert (last.finish, last.text) == ("stop", "b")
    assert last.token_ids == (*ids_of("b"), STOP_ID)
    assert last.completion_tokens == 3


def test_a_stop_text_across_tokens_ends_the_answer_and_no_part_of_it_is_seen():
    out = pieces(ids_of("one<<E>two"), 9.0, stop=("<E>",), logprobs=1)
    assert texts(out) == ["o", "n", "e", None, "<", None, ""]
    seen = [piece for piece in out if piece]
    assert [token for piece in seen for token in piece.token_ids] == ids_of("one<")
    assert [one.text for piece in seen for one in piece.logprobs] == [*"one<"]
    assert seen[-1].finish == "stop"
    assert seen[-1].completion_tokens == 7


def test_a_token_that_only_begins_before_the_stop_text_is_kept():
    vocabulary = Vocabulary(lambda ids: "".join(["one", "two END"][one] for one in ids), str, {STOP_ID})
    answer = Answer(0, GenerationRequest("", max_tokens=9, stop=("END",)), 1, vocabulary)
    out = []
    for token in (0, 1):
        answer.take(Chosen(token, True))
        out.append(answer.piece(9.0 * token, FLUSH_S))
    assert [(piece.text, piece.token_ids) for piece in out if piece] == [("one", (0,)), ("two ", (1,))]


def test_what_only_began_a_stop_text_is_shown_at_the_end():
    for end in ({"max_tokens": 4}, {"max_tokens": 9}):
        last = pieces([*ids_of("ab<E"), STOP_ID], 9.0, stop=("<E>",), **end)[-1]
        assert last
        assert last.text == "<E"
        assert [*last.token_ids][:2] == ids_of("<E")


def test_log_probabilities_come_only_where_asked_for():
    for logprobs, expected in ((None, 0), (0, 3), (1, 3)):
        out = [piece for piece in pieces(ids_of("abc"), 9.0, max_tokens=3, logprobs=logprobs) if piece]
        assert sum(len(piece.logprobs) for piece in out) == expected
