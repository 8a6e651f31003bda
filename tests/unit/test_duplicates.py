"""Duplicates against brute force, and in bounded time where thousands of rows are the same."""

from __future__ import annotations

import csv
import itertools
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.duplicates import NearTexts, connected_groups, row_hashes, same_key_pairs
from trainers.folded_text import folded, text_hashes
from trainers.minhash import near_duplicate_pairs
from trainers.rows import Row

WORDS = "the a router pub cheap river near city food rating family high low star price coffee shop".split()  # noqa: SIM905


def brute_force(texts: list[str], threshold: float) -> dict[tuple[int, int], float]:
    """Return every similar pair by the definition: sets of 5-grams as the bits of Python's integers."""
    bit_of: dict[str, int] = {}
    masks: list[int] = []
    for text in map(folded, texts):
        grams = {text[i : i + 5] for i in range(len(text) - 4)} or {text}
        masks.append(sum(1 << bit_of.setdefault(gram, len(bit_of)) for gram in grams))
    found: dict[tuple[int, int], float] = {}
    for i, j in itertools.combinations(range(len(texts)), 2):
        similarity = (masks[i] & masks[j]).bit_count() / (masks[i] | masks[j]).bit_count()
        if similarity >= threshold:
            found[i, j] = similarity
    return found


def row(prompt: str, completion: str, label: str | None = None, system: str = "") -> Row:
    turns = [{"role": "system", "content": system}] if system else []
    turns += [{"role": "user", "content": prompt}] if prompt else []
    return Row((*turns, {"role": "assistant", "content": completion}), label=label)


def sentences(rng: np.random.Generator, count: int, num_words: int = 60) -> list[str]:
    """Return sentences of which many differ from an earlier one in a few words."""
    texts: list[str] = []
    for _ in range(count):
        words = texts[rng.integers(len(texts))].split() if texts and rng.random() < 0.5 else []
        words = words or rng.choice(WORDS, num_words).tolist()
        for place in rng.integers(0, len(words), rng.integers(0, 4)):
            words[place] = str(rng.choice(WORDS))
        texts.append(" ".join(words))
    return texts


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.9])
def test_near_pairs_are_those_of_brute_force(seed: int, threshold: float):
    texts = list(dict.fromkeys(map(folded, sentences(np.random.default_rng(seed), 200))))
    expected = brute_force(texts, threshold)
    pairs = near_duplicate_pairs(texts, threshold)
    found = {(int(i), int(j)): s for i, j, s in zip(pairs.i, pairs.j, pairs.jaccard, strict=True)}
    assert len(expected) > 20
    # Every pair reported is true, with its exact similarity. A pair at the threshold is found with probability 0.99
    # and most lie above it; 0.97 leaves three standard deviations for the smallest number of pairs here.
    assert found.keys() <= expected.keys()
    assert all(found[pair] == pytest.approx(expected[pair], abs=1e-12) for pair in found)
    assert len(found) >= 0.97 * len(expected)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(alphabet="ab \n€Ä", max_size=12), max_size=12))
def test_short_and_odd_texts_are_compared_by_the_definition(texts: list[str]):
    pairs = near_duplicate_pairs([folded(text) for text in texts], 0.8)
    expected = brute_force(texts, 0.8)
    assert {(int(i), int(j)) for i, j in zip(pairs.i, pairs.j, strict=True)} <= expected.keys()
    groups = connected_groups(len(texts), (pairs.i, pairs.j))
    for i, j in itertools.combinations(range(len(texts)), 2):
        if folded(texts[i]) == folded(texts[j]):
            assert groups[i] == groups[j], "copies are always found"


def test_real_near_duplicates_are_those_of_brute_force(realdata: Path):
    with (realdata / "e2e" / "trainset.csv").open(newline="", encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda record: record["mr"])[:1000]  # neighbours share their input
    texts = list(dict.fromkeys(folded(f"{row['mr']}\n{row['ref']}") for row in rows))
    similar = brute_force(texts, 0.6)
    for threshold in (0.6, 0.8):
        pairs = near_duplicate_pairs(texts, threshold)
        expected = {pair: similarity for pair, similarity in similar.items() if similarity >= threshold}
        assert len(expected) > 20
        found = {(int(i), int(j)) for i, j in zip(pairs.i, pairs.j, strict=True)}
        assert found <= expected.keys()
        assert len(found) >= 0.95 * len(expected)


def test_e2e_has_the_known_number_of_exact_duplicates(realdata: Path):
    with (realdata / "e2e" / "trainset.csv").open(newline="", encoding="utf-8") as file:
        rows = [row(record["mr"], record["ref"]) for record in csv.DictReader(file)]
    hashes = row_hashes(rows)
    assert len(rows) - len(np.unique(hashes.exact)) == 1202
    assert len(np.unique(hashes.input)) == 4862


@pytest.mark.parametrize(
    "texts",
    [
        ["the same sentence in every row of the file"] * 20_000,
        [f"the same sentence in every row of the file but for its number, which is {i}" for i in range(20_000)],
        ["" for _ in range(20_000)],
    ],
    ids=["copies", "nearly", "empty"],
)
def test_a_crowd_costs_time_by_its_rows_not_its_pairs(texts: list[str]):
    began_s = time.process_time()
    pairs = near_duplicate_pairs(texts)
    # 200 million pairs would take hours; this takes about two seconds on one core.
    assert time.process_time() - began_s < 20
    assert len(np.unique(connected_groups(len(texts), (pairs.i, pairs.j)))) == 1


@pytest.mark.parametrize("rows_in_memory", [50, 300, 999])
def test_signatures_and_bands_on_disk_give_the_same_pairs_and_leave_nothing(tmp_path: Path, rows_in_memory: int):
    texts = sentences(np.random.default_rng(1), 1000)
    in_memory = near_duplicate_pairs(texts)
    on_disk = near_duplicate_pairs(texts, scratch=tmp_path, rows_in_memory=rows_in_memory)
    assert len(in_memory.i) > 100
    assert all(np.array_equal(a, b) for a, b in zip(in_memory, on_disk, strict=True))
    assert not list(tmp_path.iterdir())


def test_memory_stays_bounded_while_texts_grow():
    texts = sentences(np.random.default_rng(0), 3000)
    near_duplicate_pairs(texts[:10])
    tracemalloc.start()
    near_duplicate_pairs(texts)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # 600 bytes a row, and blocks of a fixed size: 100,000 characters in hashing, 4 million in verification.
    assert peak_bytes < 3000 * 600 + 300 * 2**20


def test_pairs_are_the_same_in_every_run():
    texts = sentences(np.random.default_rng(3), 200)
    first, again = near_duplicate_pairs(texts), near_duplicate_pairs(texts)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_no_rows_have_no_duplicates():
    pairs = near_duplicate_pairs([])
    assert [len(part) for part in pairs] == [0, 0, 0]
    assert len(connected_groups(0)) == 0
    assert len(row_hashes([]).exact) == 0
    assert list(NearTexts([])) == []


@settings(deadline=None)
@given(st.integers(1, 30).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.tuples(*[st.integers(0, n - 1)] * 2)))))
def test_groups_are_the_connected_components(case: tuple[int, list[tuple[int, int]]]):
    n, edges = case
    reached = [{i} for i in range(n)]
    for i, j in edges:
        union = reached[i] | reached[j]
        for member in union:
            reached[member] = union
    i, j = np.asarray([e[0] for e in edges], int), np.asarray([e[1] for e in edges], int)
    half = len(edges) // 2
    groups = connected_groups(n, (i[:half], j[:half]), (i[half:], j[half:]))
    assert groups.tolist() == [min(members) for members in reached]


def test_a_long_chain_is_one_group_in_near_linear_time():
    n = 300_000
    order = np.random.default_rng(0).permutation(n)
    began_s = time.process_time()
    groups = connected_groups(n, (order[:-1], order[1:]))
    assert groups.max() == 0
    assert time.process_time() - began_s < 10


def test_equal_keys_are_linked_to_their_first_row():
    i, j = same_key_pairs(np.asarray([7, 5, 7, 7, 5], np.uint64))
    assert sorted(zip(i.tolist(), j.tolist(), strict=True)) == [(0, 2), (0, 3), (1, 4)]


def test_hashes_are_the_same_on_every_machine():
    # Python: int.from_bytes(hashlib.blake2b("héllo".encode(), digest_size=8).digest(), "little")
    assert text_hashes(["héllo"]).tolist() == [0xCBAF31C26ED35D13]


@pytest.mark.parametrize(
    ("a", "b", "same_row", "same_input"),
    [
        (row("Hi there", "Yes"), row(" Hi\n there ", "Yes"), True, True),
        (row("ﬁne", "Yes"), row("fine", "Yes"), True, True),
        (row("Hi", "Yes"), row("hi", "Yes"), False, True),
        (row("Hi", "Yes"), row("Hi", "yes"), False, True),
        (row("Hi", "Yes"), row("Hi", "No"), False, True),
        (row("Hi", "Yes"), row("Ho", "Yes"), False, False),
        (row("Hi", "Yes", system="Be brief"), row("Hi", "Yes"), False, False),
        (row("", "Once"), row("", "once"), False, True),
        (row("", "Once"), row("", "Twice"), False, False),
        (row("ab", "c"), row("a", "bc"), False, False),
    ],
)
def test_what_counts_as_the_same_row_and_the_same_input(a: Row, b: Row, same_row: bool, same_input: bool):
    hashes = row_hashes([a, b])
    assert (hashes.exact[0] == hashes.exact[1]) == same_row
    assert (hashes.input[0] == hashes.input[1]) == same_input


def test_near_texts_leave_out_labels_system_turns_and_shared_instructions():
    assert list(NearTexts([row("Refund", "billing", label="billing")])) == ["refund"]
    assert list(NearTexts([row("Hi", "Yes", system="Be brief")])) == ["hi yes"]
    instruction = "Classify the following message into one of sixteen departments. Message: "
    different = ["my card was charged twice", "the parcel never arrived", "how do I reset my password"] * 10
    rows = [row(instruction + text, "x", label="x") for text in different]
    assert list(NearTexts(rows)) == [folded(text) for text in different]
    assert len(near_duplicate_pairs(NearTexts(rows)).i) == len(rows) - 3, "only the copies are alike"


def test_rows_with_other_references_are_no_copies_of_each_other():
    rows = [
        Row(row("Hi", "Yo").messages, references=refs) for refs in (("a",), ("b",), ("a",), (), ("a", "b"), ("b", "a"))
    ]
    exact = row_hashes(rows).exact
    assert exact[0] == exact[2]
    assert exact[4] == exact[5]
    assert len(set(exact.tolist())) == 4


def test_a_label_that_is_not_the_answer_leaves_the_answer_in_what_is_compared():
    assert list(NearTexts([row("Hi", "Yo", label="polite")])) == ["hi yo"]
    assert list(NearTexts([row("Hi", "polite", label="polite")])) == ["hi"]
