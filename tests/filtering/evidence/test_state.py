"""What a filter saves and restores: all groups or a rank's share, on as many ranks or others, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from memsieve.filtering.config import FilterConfig
from memsieve.filtering.evidence.sharing import owner
from memsieve.filtering.evidence.table import MIN_SWEEPS
from memsieve.filtering.exchange import Exchange
from memsieve.filtering.filter import MemorizationFilter
from tests.filtering.data.ranks import on_ranks
from tests.filtering.streams import Stream, make

FREE = {"never_drop", "always_drop", "record", "ledger_kept", "enabled", "retire_until"}


class Place(Exchange):
    """Where a rank stands among how many; loading a state exchanges nothing."""

    def __init__(self, rank: int, world_size: int) -> None:
        super().__init__()
        self.place = rank, world_size

    rank = property(lambda self: self.place[0])  # type: ignore[assignment]
    world_size = property(lambda self: self.place[1])  # type: ignore[assignment]


@pytest.fixture(scope="module")
def whole() -> MemorizationFilter:
    """Of one process, after ten windows of six pairs."""
    stream, sieve = Stream(3), make()
    for start in range(0, 60, 6):
        stream.window(sieve, [f"c{start + i}" for i in range(6)])
    return sieve


def loaded(rank: int, world_size: int, *states: dict[str, Any]) -> MemorizationFilter:
    fresh = make(exchange=Place(rank, world_size))
    fresh.load_state_dict(*states)
    return fresh


def shares(whole: MemorizationFilter, ranks: int = 3) -> list[dict[str, Any]]:
    """What each of so many ranks saves alone."""
    state = whole.state_dict()
    return [loaded(rank, ranks, state).local_state_dict() for rank in range(ranks)]


def same(sieve: MemorizationFilter, whole: MemorizationFilter) -> bool:
    """Whether all groups of ``whole`` are there, with all that is known of them, and the rest of the filter too."""
    if sorted(sieve.groups.names) != sorted(whole.groups.names):
        return False
    groups = all(
        sieve.groups[column][sieve.groups.row(name)] == whole.groups[column][whole.groups.row(name)]
        for name in whole.groups.names
        for column in whole.groups.columns
    )
    return groups and rest(sieve.local_state_dict()) == rest(whole.local_state_dict())


def rest(state: dict[str, Any]) -> str:
    """All but the groups and whose they are, to compare."""
    return repr({name: plain(value) for name, value in state.items() if name not in ("groups", "rank", "ranks")})


def plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


def test_the_history_is_shared_out_again_for_another_number_of_ranks(whole: MemorizationFilter) -> None:
    three = [loaded(rank, 3, whole.state_dict()) for rank in range(3)]
    assert sorted(name for part in three for name in part.groups.names) == sorted(whole.groups.names)
    assert all(len(part.groups) > 0 for part in three)
    states = [part.local_state_dict() for part in three]
    one = loaded(0, 1, *states)
    for name in whole.groups.names:
        for column in whole.groups.columns:
            assert one.groups[column][one.groups.row(name)] == whole.groups[column][whole.groups.row(name)]
    for place in ((0, 2), (1, 3)):  # another number of ranks, and the same
        with pytest.raises(ValueError, match=r"of rank 0 of 3, and this is rank \d of \d: .* the states of all 3"):
            loaded(*place, states[0])
    with pytest.raises(ValueError, match=r"of ranks 0, 0, 2 of 3, .* the states of all 3"):
        loaded(0, 1, states[0], states[0], states[2])


def test_a_share_is_the_groups_that_a_rank_holds_and_says_whose_it_is(whole: MemorizationFilter) -> None:
    for rank, state in enumerate(shares(whole)):
        assert (state["rank"], state["ranks"], state["n_groups"]) == (rank, 3, 60)
        share = loaded(rank, 3, state)
        assert set(share.groups.names) == {name for name in whole.groups.names if owner(name, 3) == rank}
        assert rest(state) == rest(whole.state_dict()), "the same on all ranks"


def test_the_shares_may_come_in_any_order(whole: MemorizationFilter) -> None:
    first, second, third = shares(whole)
    assert same(loaded(0, 1, third, first, second), whole)


def test_groups_are_compared_as_late_as_before_on_another_number_of_ranks(whole: MemorizationFilter) -> None:
    for rank in range(2):
        share = loaded(rank, 2, *shares(whole))
        assert share.groups.first == MIN_SWEEPS and share.groups.half_life == whole.groups.half_life


def test_the_whole_state_is_the_same_on_every_rank_and_what_one_process_would_save(whole: MemorizationFilter) -> None:
    before = whole.state_dict()

    def saved(rank: int, exchange: Exchange) -> dict[str, Any]:
        sieve = make(exchange=exchange)
        sieve.load_state_dict(before)
        return sieve.state_dict()

    states = on_ranks(3, saved)
    assert repr(plain(states[0])) == repr(plain(states[1])) == repr(plain(states[2]))
    assert (states[0]["rank"], states[0]["ranks"]) == (before["rank"], before["ranks"]) == (0, 1)
    assert same(loaded(0, 1, states[2]), whole)


def without_rank(states: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    return ({name: value for name, value in state.items() if name != "rank"} for state in states)


def test_shares_of_0_1_which_do_not_say_whose_they_are_are_their_ranks_or_all(whole: MemorizationFilter) -> None:
    old = list(without_rank(shares(whole)))
    for rank, state in enumerate(old):
        assert list(loaded(rank, 3, state).groups.names) == list(loaded(rank, 3, shares(whole)[rank]).groups.names)
    assert same(loaded(0, 1, *old), whole)
    assert same(loaded(0, 1, *without_rank([whole.state_dict()])), whole)
    with pytest.raises(ValueError, match=r"of rank 1 of 3, and this is rank 1 of 2"):
        loaded(1, 2, old[0])


def test_a_state_that_is_refused_changes_nothing(whole: MemorizationFilter) -> None:
    other = whole.state_dict()
    other["config"] = {**other["config"], "false_drop_rate": 0.3}
    for state in (shares(whole)[1], other):
        fresh = make()
        before = rest(fresh.state_dict())
        with pytest.raises(ValueError):
            fresh.load_state_dict(state)
        assert rest(fresh.state_dict()) == before and len(fresh.groups) == 0


def test_state_of_other_settings_is_refused() -> None:
    with pytest.raises(ValueError, match=r"filter\.false_drop_rate is 0\.5 but the checkpoint was written with 0\.02"):
        make(false_drop_rate=0.5).load_state_dict(make().state_dict())


@pytest.mark.parametrize("name", sorted(FilterConfig.model_fields))
def test_a_setting_that_decides_is_the_saved_one_and_what_does_not_may_differ(name: str) -> None:
    state = make().state_dict()
    state["config"][name] = "another"
    if name in FREE:
        make().load_state_dict(state)
        return
    with pytest.raises(ValueError, match=rf"filter\.{name} is .* but the checkpoint was written with 'another'"):
        make().load_state_dict(state)


def test_a_filters_checkpoint_of_0_1() -> None:
    sieve = MemorizationFilter(signals=["loss"], record=[])
    state = sieve.state_dict()
    old = {"t_bins": 10, "bank_size": 2048, "horizon": 64, "softness": 1.0, "pardon_looks": 0}
    section = {name: value for name, value in state["config"].items() if name != "rule"}
    state["config"] = {**section, "calibrator": "conformal", "decide": "group", "normalize": "eligible", **old}
    sieve.load_state_dict(state)
    state["config"]["pardon_looks"] = 2
    with pytest.raises(ValueError, match=r"written by memsieve 0\.1 with filter\.pardon_looks: 2, .* stays condemned"):
        sieve.load_state_dict(state)
