from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trainers.batches import Example, Schedule, drawn, layout, pack, pad


@given(st.integers(1, 200), st.integers(1, 50), st.integers(0, 5))
def test_every_example_occurs_exactly_once_an_epoch(num_examples: int, batch_size: int, seed: int) -> None:
    schedule = Schedule(num_examples, batch_size, epochs=2, seed=seed)
    for epoch in range(2):
        first = epoch * schedule.steps_per_epoch
        used = np.concatenate([schedule.examples(first + i) for i in range(schedule.steps_per_epoch)])
        assert sorted(used.tolist()) == list(range(num_examples))


def test_a_step_is_a_pure_function_of_seed_epoch_and_step() -> None:
    a, b = (Schedule(100, 8, epochs=3, seed=7) for _ in range(2))
    later = b.examples(20).tolist()
    assert [a.examples(step).tolist() for step in range(21)][-1] == later
    assert Schedule(100, 8, epochs=3, seed=8).examples(20).tolist() != later


def test_epochs_differ_in_their_order() -> None:
    schedule = Schedule(64, 64, epochs=2, seed=0)
    assert schedule.examples(0).tolist() != schedule.examples(1).tolist()


def test_a_fraction_of_an_epoch_rounds_its_steps_up() -> None:
    assert Schedule(100, 10, epochs=0.25, seed=0).num_steps == 3
    assert Schedule(100, 10, epochs=0.01, seed=0).num_steps == 1
    assert Schedule(101, 10, epochs=2, seed=0).num_steps == 22


rows = st.lists(st.integers(1, 300), min_size=1, max_size=80)


@given(rows, st.integers(1, 5), st.integers(64, 4096))
def test_layout_uses_every_row_once_and_gives_ranks_equal_counts(lengths: list[int], ranks: int, bound: int) -> None:
    dealt = layout(lengths, ranks, bound)
    used = [row for share in dealt for micro in share for row in micro]
    assert sorted(used) == list(range(len(lengths)))
    assert len({len(share) for share in dealt}) == 1


@given(rows, st.integers(1, 5), st.integers(64, 4096))
def test_micro_batches_stay_within_the_bound(lengths: list[int], ranks: int, bound: int) -> None:
    costs = [300.0 - length for length in lengths]  # the shortest is dealt first
    for share in layout(lengths, ranks, bound, packed=False, costs=costs):
        for micro in share:
            padded = len(micro) * max((lengths[row] for row in micro), default=0)
            assert padded <= bound or len(micro) == 1


def test_ranks_get_nearly_equal_work() -> None:
    lengths = np.random.default_rng(0).lognormal(4.5, 0.6, size=256).astype(int).tolist()
    tokens = [sum(lengths[row] for micro in share for row in micro) for share in layout(lengths, 4, 10**9)]
    assert max(tokens) <= 1.05 * min(tokens)


def test_ranks_get_nearly_equal_work_where_targets_cost_more_than_tokens() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(100, 1000, size=64)
    costs = (lengths + 20 * rng.integers(1, 100, size=64)).tolist()
    dealt = layout(lengths.tolist(), 4, 10**9, costs=costs)
    loads = [sum(costs[row] for micro in share for row in micro) for share in dealt]
    assert max(loads) <= 1.02 * min(loads)


def test_grouping_by_length_pads_less_than_half_of_an_unsorted_batch() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.lognormal(4.5, 0.5, size=64).astype(int).tolist()

    def padded(groups: list[list[int]]) -> int:
        return sum(len(group) * max(lengths[row] for row in group) for group in groups if group)

    unsorted = padded([list(range(start, start + 16)) for start in range(0, 64, 16)])
    grouped = padded([micro for share in layout(lengths, 2, 16 * 90, packed=False) for micro in share])
    assert grouped - sum(lengths) < 0.5 * (unsorted - sum(lengths))


def test_padding_keeps_ids_and_targets_and_never_targets_the_first_token() -> None:
    micro = pad(
        [
            (np.array([5, 6, 7], dtype=np.int32), np.array([False, True, True])),
            (np.array([8], dtype=np.int32), np.array([True])),
        ]
    )
    assert micro.tokens_BT.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert micro.is_target_BT.tolist() == [[False, True, True], [False, False, False]]


def test_an_empty_share_still_gives_a_forward_pass_without_targets() -> None:
    micro = pad([])
    assert micro.tokens_BT.shape[0] == 1
    assert not micro.is_target_BT.any()


@given(rows, st.integers(1, 5), st.integers(64, 4096))
def test_packed_micro_batches_hold_each_row_once_within_the_bound(lengths: list[int], ranks: int, bound: int) -> None:
    dealt = layout(lengths, ranks, bound)
    assert sorted(row for share in dealt for micro in share for row in micro) == list(range(len(lengths)))
    assert len({len(share) for share in dealt}) == 1
    for share in dealt:
        for micro in share:
            assert sum(lengths[row] for row in micro) <= bound or len(micro) == 1


def test_packing_strings_rows_together_and_never_targets_a_first_token() -> None:
    micro = pack(
        [
            (np.array([5, 6, 7], dtype=np.int32), np.array([True, True, True])),
            (np.array([8, 9], dtype=np.int32), np.array([True, False])),
        ]
    )
    assert micro.tokens_BT.tolist() == [[5, 6, 7, 8, 9]]
    assert micro.is_target_BT.tolist() == [[False, True, True, False, False]]
    assert micro.segment_lengths == (3, 2)
    assert pack([]).segment_lengths == (2,)


class Numbered:
    """Examples whose single token is their number."""

    def __init__(self, count: int) -> None:
        self.lengths = np.arange(1, count + 1, dtype=np.int32)
        self.target_counts = np.ones(count, np.int32)

    def __len__(self) -> int:
        return len(self.lengths)

    def example(self, index: int) -> Example:
        return np.array([index], np.int32), np.array([True])


def numbers(share: float, seed: int, count: int = 100) -> list[int]:
    examples = drawn(Numbered(count), share, seed)
    found = [int(examples.example(i)[0][0]) for i in range(len(examples))]
    assert examples.lengths.tolist() == [number + 1 for number in found], "lengths are those of the examples drawn"
    return found


def test_a_share_of_the_examples_is_the_same_for_the_same_seed() -> None:
    assert numbers(0.3, 7) == numbers(0.3, 7) == sorted(set(numbers(0.3, 7)))
    assert len(numbers(0.3, 7)) == 30
    assert numbers(0.3, 8) != numbers(0.3, 7)
    assert set(numbers(0.2, 7)) < set(numbers(0.3, 7)), "a smaller share lies in a larger one"


def test_the_whole_is_not_drawn_from_and_a_share_is_never_empty() -> None:
    whole = Numbered(10)
    assert drawn(whole, 1.0, 3) is whole
    assert len(numbers(0.001, 3, count=10)) == 1
