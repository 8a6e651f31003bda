"""A sketch: what it holds of a data set and what it does not, and a release's own tokens and embeddings in it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cluster import sketch as sketches
from cluster.errors import StoreError
from cluster.sketch import NAME, Sketch, sketch_of
from cluster.token_features import DIMENSIONS, TokenFeatures, Tokens, projected_embeddings
from tests.sketched import MADE_S, sketched, tickets
from tests.tiny import write_base
from trainers.rows import Row
from trainers.sketching import prompts_of


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("release") / "m")


def row(prompt: str, answer: str, **more: object) -> Row:
    turns = ({"role": "user", "content": prompt}, {"role": "assistant", "content": answer})
    return Row(messages=turns, **more)  # pyright: ignore[reportArgumentType]


def test_a_sketch_is_read_back_whole(release: Path):
    made = sketched(release, tickets(300))
    read = Sketch.load(release)
    assert read is not None
    assert (read.id, read.release, read.made_s, read.data_rows) == (made.id, "m@1", MADE_S, 300)
    assert (read.terms, read.classes) == (made.terms, ["access", "billing", "bugs"])
    assert [one.key for one in read.prompts] == [one.key for one in made.prompts]
    assert [one.language for one in read.prompts] == [one.language for one in made.prompts]
    assert read.tokens is not None
    assert made.tokens is not None
    assert [one.tokens for one in read.tokens] == [one.tokens for one in made.tokens]
    assert read.tokens[7].embedding == pytest.approx(made.tokens[7].embedding, abs=1e-3)


def test_a_sketch_holds_no_text_but_common_terms_and_no_personal_data(tmp_path: Path):
    secrets = [f"reach me at ann{place}@example.com or +49 30 1234567{place % 10}" for place in range(40)]
    rare = ["the passphrase is xyzzyplugh", "meet Bartholomew Quackenbush"] * 2
    made = sketch_of([*secrets, *rare, *["where is my refund"] * 9], "m@1", 0.0)
    made.save(tmp_path)
    with np.load(tmp_path / NAME) as arrays:
        seen = b"".join(array.tobytes() for array in arrays.values()).lower()
    absent = (b"ann", b"example.com", b"1234567", b"xyzzy", b"bartholomew", b"quackenbush", b"where is my")
    assert not [text for text in absent if text in seen]
    assert made.terms["refund"] == 9
    assert made.terms["[EMAIL]"] == 40, "that there is an address is a fact about the data"
    assert min(made.terms.values()) >= 5


def test_a_sketch_is_bounded_and_drawn_alike(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sketches, "MOST_ROWS", 50)
    first, again = (sketch_of(tickets(200), "m@1", 0.0) for _ in range(2))
    assert (len(first.prompts), first.data_rows) == (50, 200)
    assert first.id == again.id
    assert first.id != sketch_of(tickets(200, seed=1), "m@1", 0.0).id


def test_a_release_without_a_sketch_has_none_and_a_damaged_one_is_named(tmp_path: Path):
    assert Sketch.load(tmp_path) is None
    (tmp_path / NAME).write_bytes(b"PK\x03\x04 nonsense")
    with pytest.raises(StoreError, match="the sketch is damaged"):
        Sketch.load(tmp_path)


def test_unknown_tokens_are_counted_alike_in_training_and_live(release: Path):
    texts = tickets(400)
    made = sketch_of(texts, "m@1", 0.0, tokens=Tokens.find(release), model=release)
    assert made.tokens is not None
    in_training = sum(one.unknown for one in made.tokens) / sum(one.tokens for one in made.tokens)
    live = [made.features(text, Tokens.find(release)) for text in tickets(400, seed=3)]
    assert in_training == pytest.approx(
        sum(one.unknown for one in live if one) / sum(one.tokens for one in live if one), abs=0.01
    )
    foreign = made.features("ÄÖÜ ßßß ŽŽŽ", Tokens.find(release))
    assert foreign is not None
    assert foreign.unknown > foreign.tokens / 2


def test_token_features_survive_the_ledger(release: Path):
    made = sketched(release, tickets(300))
    features = made.features("please refund my invoice", Tokens.find(release))
    assert features is not None
    kept = json.loads(json.dumps(features.kept(made.id)))
    read = TokenFeatures.from_kept(kept)
    assert (kept["sketch"], read.tokens, read.unknown) == (made.id, features.tokens, features.unknown)
    assert read.embedding == pytest.approx(features.embedding, abs=1e-3)
    with pytest.raises(ValueError, match="numbers"):
        TokenFeatures.from_kept(kept | {"embedding": "AAA="})


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
def test_projected_embeddings_keep_the_models_distances(release: Path, tmp_path: Path, kind: torch.dtype):
    tensors = load_file(release / "model.safetensors")
    name = next(name for name in tensors if name.endswith("embed_tokens.weight"))
    drawn = torch.randn(500, 64, generator=torch.Generator().manual_seed(0)).to(kind)
    save_file({"model.norm.weight": tensors["model.norm.weight"], name: drawn}, tmp_path / "model.safetensors")
    found = projected_embeddings(tmp_path)
    assert found is not None
    assert found.shape == (500, DIMENSIONS)
    exact = torch.cdist(drawn.float(), drawn.float()).numpy()[np.triu_indices(500, 1)]
    kept = np.linalg.norm(found[:, None] - found[None], axis=2)[np.triu_indices(500, 1)]
    ratio = kept / exact
    # Johnson–Lindenstrauss: the spread of a projected length is about sqrt(1 / 2E) = 0.14 of it.
    assert ratio.std() / ratio.mean() == pytest.approx((1 / (2 * DIMENSIONS)) ** 0.5, rel=0.25)


def test_a_model_without_embeddings_that_we_know_gives_n_grams_only(tmp_path: Path, release: Path):
    save_file({"other.weight": torch.zeros(4, 4)}, tmp_path / "model.safetensors")
    made = sketch_of(tickets(50), "m@1", 0.0, tokens=Tokens.find(release), model=tmp_path)
    assert made.tokens is None
    assert made.features("anything", Tokens.find(release)) is None


def test_several_answers_to_one_input_are_one_prompt_and_exact_copies_are_several():
    rows = [row("a", "1"), row("a", "2"), row("a", "3"), row("b", "1"), row("b", "1"), row("c", "1")]
    assert sorted(prompts_of(rows)) == ["a", "b", "b", "c"]


def test_rows_without_a_prompt_are_left_out():
    assert prompts_of([Row(messages=({"role": "assistant", "content": "plain text"},))]) == []


def test_turns_are_joined_as_the_gateway_joins_them():
    turns = (
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a"},
    )
    from serving.openai_requests import ChatAsked, asked_of

    asked = asked_of(ChatAsked, {"messages": [dict(turn) for turn in turns[:-1]]})
    assert prompts_of([Row(messages=turns)]) == [asked.text]
