"""Which pairs are held out of a loop's batches, and when all of them have had their turn."""

from __future__ import annotations

import random

import pytest

from memsieve.filtering.in_loop.held_out import HeldOutShare, Turns


def test_a_share_is_picked_by_name_alone() -> None:
    keys = [f"pair {i}" for i in range(4000)]
    share = HeldOutShare(0.1)
    assert 0.08 < sum(key in share for key in keys) / len(keys) < 0.12
    assert [key in share for key in keys] == [key in HeldOutShare(0.1) for key in keys]
    assert all(key in HeldOutShare(0.3) for key in keys if key in share), "a larger share holds the smaller one"


def test_keys_may_be_named() -> None:
    long = "a name longer than what travels between ranks, which is sixty-four bytes of it"
    from memsieve.filtering.types import group_name

    named = HeldOutShare(["a", long])
    assert "a" in named and group_name(long) in named and "b" not in named


@pytest.mark.parametrize("share", [0, -0.1, 0.5, 2])
def test_a_share_that_leaves_nothing_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=f"held_out = {share}: must be a share between 0 and 0.5"):
        HeldOutShare(share)


def sweeps_of(order: list[str]) -> list[list[str]]:
    """What is taken in, cut where a pair comes again, as the filter cuts it."""
    turns, sweeps = Turns(), [[]]
    for place, key in enumerate(order):
        for name, _ in turns.take(key, place):
            if name in sweeps[-1]:
                sweeps.append([])
            sweeps[-1].append(name)
    return sweeps


def test_an_epoch_is_a_sweep() -> None:
    shuffle, keys = random.Random(0), [f"h{i}" for i in range(20)]
    order = [key for _ in range(5) for key in shuffle.sample(keys, len(keys))]
    sweeps = sweeps_of(order)
    assert [sorted(sweep) for sweep in sweeps] == [sorted(keys)] * 5


def test_a_picture_that_the_data_holds_often_ends_no_sweep() -> None:
    """Every sweep but the last one, which has not ended, has nearly all pairs in it."""
    shuffle, keys = random.Random(0), [f"h{i}" for i in range(20)]
    epoch = [*keys, *["h0"] * 50, *["h1"] * 5]
    order = [key for _ in range(5) for key in shuffle.sample(epoch, len(epoch))]
    sweeps = sweeps_of(order)
    assert 4 <= len(sweeps) <= 7 and all(len(sweep) >= 15 for sweep in sweeps[:-1])


def test_few_pairs_are_swept_too() -> None:
    assert sweeps_of(["a"] * 202) == [["a"]] * 3
    assert [sorted(sweep) for sweep in sweeps_of(["a", "b"] * 102)] == [["a", "b"]] * 3


def test_turns_go_on_where_they_were_saved() -> None:
    shuffle, keys = random.Random(1), [f"h{i}" for i in range(9)]
    order = [key for _ in range(6) for key in shuffle.sample([*keys, "h0", "h0"], 11)]
    whole, first = Turns(), Turns()
    expected = [whole.take(key, [place]) for place, key in enumerate(order)]
    for cut in (5, 17, 40):
        first, second = Turns(), Turns()
        found = [first.take(key, [place]) for place, key in enumerate(order[:cut])]
        second.load_state_dict(first.state_dict())
        found += [second.take(key, [place + cut]) for place, key in enumerate(order[cut:])]
        assert found == expected
