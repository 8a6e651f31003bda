from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.small_tokenizers import CHATML, bytewise, merging
from trainers.pieces import Piece, example_pieces
from trainers.rows import Row
from trainers.templates import Template, load_tokenizer
from trainers.token_view import HIDDEN, PART, tokens_markup
from trainers.tokens import encode_rows

TEXTS = ["Hi there,\n\tyou", "Grüße nach 日本 👩‍👩‍👧!", "lost \ufffd\ufffd here", "two  spaces "]
TOKENIZERS = {"bytewise": bytewise(), "merging": merging(TEXTS)}


def pieces_of(tokenizer: Any, *turns: str, loss_on: Any = "completion") -> tuple[list[Piece], list[bool]]:
    roles = ("user", "assistant")
    row = Row(tuple({"role": roles[place % 2], "content": text} for place, text in enumerate(turns)), where="f:1")
    (encoded,) = encode_rows([row], Template(tokenizer, CHATML), loss_on, 10_000)
    return example_pieces(tokenizer, encoded.ids_T.tolist(), encoded.is_target_T.tolist()), encoded.is_target_T.tolist()


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("text", TEXTS)
def test_pieces_together_are_the_text_that_the_template_rendered(name: str, text: str):
    pieces, _ = pieces_of(TOKENIZERS[name], text, "An answer.")
    whole = f"<|start|>user\n{text}<|end|>\n<|start|>assistant\nAn answer.<|end|>"
    assert "".join(piece.text for piece in pieces) == whole


@pytest.mark.parametrize("loss_on", ["completion", "all"])
def test_what_is_marked_is_the_mask(loss_on: str):
    pieces, mask = pieces_of(bytewise(), "One", "A", "Two", "B", loss_on=loss_on)
    assert [piece.is_target for piece in pieces] == mask
    learned = "".join(piece.text for piece in pieces if piece.is_target)
    assert learned == ("A<|end|>B<|end|>" if loss_on == "all" else "B<|end|>")
    markup = tokens_markup(pieces)
    assert markup.count("<mark ") == sum(mask)
    assert markup.count("<span class=") == len(mask) - sum(mask)


def test_special_tokens_are_told_apart_from_text_that_looks_alike():
    tokenizer = bytewise()
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    ids = [end, *tokenizer("<", add_special_tokens=False)["input_ids"]]
    assert [piece.is_special for piece in example_pieces(tokenizer, ids, [False, True])] == [True, False]


def test_a_letter_of_several_tokens_stands_at_the_last_of_them():
    tokenizer = bytewise()
    ids = tokenizer("日", add_special_tokens=False)["input_ids"]
    pieces = example_pieces(tokenizer, ids, [True] * 3)
    assert [piece.text for piece in pieces] == ["", "", "日"]
    assert tokens_markup(pieces).count(PART) == 2


def test_personal_data_is_hidden_with_its_ids():
    pieces, _ = pieces_of(bytewise(), "Write to anna@firma.de", "Done.")
    markup = tokens_markup(pieces)
    hidden = [piece for piece in pieces if piece.hidden]
    assert "".join(piece.text for piece in hidden) == "anna@firma.de"
    assert markup.count("[EMAIL]") == 1
    assert markup.count(HIDDEN) == len(hidden) - 1
    shown = [f"token {piece.token}" for piece in pieces if not piece.hidden]
    assert markup.count('title="token ') == len(shown)


def test_a_long_example_is_cut_in_the_middle_and_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("trainers.token_view.SHOWN_TOKENS", 10)
    pieces = [Piece(place, f"w{place} ", False) for place in range(100)]
    markup = tokens_markup(pieces)
    assert "90 tokens are not shown" in markup
    assert "w4 " in markup
    assert "w95 " in markup
    assert "w5 " not in markup


def test_the_real_sentencepiece_tokenizer_is_read_letter_by_letter(realdata: Path):
    tokenizer = load_tokenizer(str(realdata / "stories260K"))
    text = "Once upon a time, é 日本\n"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert "".join(piece.text for piece in example_pieces(tokenizer, ids, [False] * len(ids))) == f" {text}"
