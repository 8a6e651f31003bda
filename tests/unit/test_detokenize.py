"""Text comes in whole characters, and all of it together is what decoding the whole answer gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from serving.detokenize import BROKEN, Detokenizer
from tests.small_tokenizers import bytewise, merging

TEXT = "naïve 你好 👩‍🚀 e\u0301 ok"
BYTEWISE, MERGING = bytewise(), merging([TEXT, "你你好好 👩👩 ok ok"])


def sentencepiece() -> Tokenizer:
    """Words with a mark for the space before them, and bytes for the rest, as Llama 2 has."""
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"▁ok": 256, "▁so": 257, "me": 258}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def whole(tokenizer: Any) -> Callable[[list[int]], str]:
    return lambda ids: tokenizer.decode(ids)


def pieces(decode: Callable[[list[int]], str], ids: list[int], sizes: list[int]) -> list[str]:
    """The texts that come of feeding ids in groups of these sizes, then one by one."""
    detokenizer, out = Detokenizer(decode), []
    rest = list(ids)
    for size in sizes:
        out.append(detokenizer.feed(rest[:size]))
        rest = rest[size:]
    return out + [detokenizer.feed([one]) for one in rest]


SIZES = st.lists(st.integers(1, 5), max_size=5)


@pytest.mark.parametrize("tokenizer", [BYTEWISE, MERGING], ids=["bytes", "merges"])
@given(sizes=SIZES)
def test_no_half_character_is_shown(tokenizer: Any, sizes: list[int]):
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    out = pieces(whole(tokenizer), ids, sizes)
    assert not any(BROKEN in text for text in out)
    assert "".join(out) == TEXT


@pytest.mark.parametrize("tokenizer", [BYTEWISE, MERGING], ids=["bytes", "merges"])
@given(ids=st.lists(st.integers(5, 260), max_size=20), sizes=SIZES)
def test_the_pieces_of_any_ids_make_what_decoding_them_gives(tokenizer: Any, ids: list[int], sizes: list[int]):
    assert "".join(pieces(whole(tokenizer), ids, sizes)) == whole(tokenizer)(ids).rstrip(BROKEN)


@given(sizes=SIZES)
def test_spaces_before_words_and_bytes_of_characters_come_as_in_the_whole(sizes: list[int]):
    ids = [256, *"你".encode(), 257, 258, *"好 é".encode(), 256]
    out = pieces(whole(sentencepiece()), ids, sizes)
    assert "".join(out) == "ok你 some好 é ok"
    assert not any(BROKEN in text for text in out)


def test_an_answer_that_is_no_text_is_shown_in_the_end_and_costs_no_more_and_more():
    longest = 0

    def decode(ids: list[int]) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return BYTEWISE.decode(ids)

    broken = spelled_byte(0xE4)
    out = "".join(pieces(decode, [broken] * 2000, []))
    assert 1700 < len(out) <= 2000
    assert longest < 600


def spelled_byte(byte: int) -> int:
    """The bytewise tokenizer's id of a byte that is no printable character."""
    (first, *_) = BYTEWISE("你", add_special_tokens=False)["input_ids"]
    assert "你".encode()[0] == byte
    return first
