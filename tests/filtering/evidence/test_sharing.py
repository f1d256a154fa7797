"""Which rank holds a group, how the others learn of it, and what each one's share of saved tables is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import default_rng

from memsieve.filtering.evidence.sharing import (
    NAME_NUMBERS,
    Standing,
    gather_groups,
    join_shares,
    look_up,
    owner,
    packed,
    share_of,
    top_groups,
    unpacked,
)
from memsieve.filtering.evidence.table import EvidenceTable
from memsieve.filtering.exchange import Exchange
from tests.filtering.data.ranks import on_ranks
from tests.filtering.evidence.test_key_index import content_ids

ODD = ["ü" * 32, "x" * 64, "a b", "A" * 32, "0x12"]
NAMES = [*content_ids(60), *ODD]


def table_of(names: list[str], first: int = 3) -> EvidenceTable:
    """Names with a history each, which depends on the name alone."""
    table = EvidenceTable(half_life=8.0, first=first)
    for name in names:
        rng = default_rng(list(name.encode()))
        for step in range(int(rng.integers(1, 6))):
            score, magnitude, level = rng.normal(size=(3, 1))
            table.observe([name], score, magnitude, step, step, level)
            table.look(table.means_now(1.0, 0.2, np.array([table.row(name)])).evidence, np.array([table.row(name)]))
        if rng.random() < 0.3:
            table.note_drawn(name)
        if rng.random() < 0.2:
            table.condemn(table.row(name), 7)
    return table


def part(rank: int, ranks: int) -> EvidenceTable:
    return table_of([name for name in NAMES if owner(name, ranks) == rank])


@pytest.mark.parametrize("name", ["", "a", *ODD, NAMES[0]])
def test_a_name_travels_as_so_many_numbers_and_arrives(name: str) -> None:
    numbers = packed(name)
    assert len(numbers) == NAME_NUMBERS and unpacked(numbers) == name
    assert unpacked(torch.tensor([numbers], dtype=torch.float64).tolist()[0]) == name


def test_a_group_lives_on_one_rank_the_same_in_all_runs() -> None:
    """Fixed numbers: a checkpoint that was saved on another machine has the groups where they are looked for."""
    assert [owner(name, 8) for name in ("a", "b", "img_001.png", "ü" * 32)] == [7, 5, 2, 4]
    assert {owner(name, 3) for name in NAMES} == {0, 1, 2} and {owner(name, 1) for name in NAMES} == {0}


def test_how_a_group_stands_is_what_its_table_says() -> None:
    table = EvidenceTable(half_life=np.inf)
    table.observe(
        ["g", "g", "g"], np.array([1.0, 3.0, np.nan]), np.array([4.0, 8.0, 9.0]), 2, 0, np.array([1.0, 2.0, 9.0])
    )
    ((name, standing),) = look_up(table, Exchange(), ["g"])
    assert name == "g" and standing is not None and not standing.compared
    table.look(np.array([2.5]))
    table["p_value"][0], table["trained"][0] = 0.25, 2
    table.note_drawn("g")
    table.condemn(0, 5)
    standing = look_up(table, Exchange(), ["g"])[0][1]
    assert standing == Standing("g", 2.5, 2.5, 0.25, 6.0, 3, 2, 5, 1, 3, 2, 1.5) and standing.compared


def test_every_rank_learns_of_all_groups_what_one_process_knows() -> None:
    """Also of those that nobody has seen, of padding, and of a group that several ranks ask for."""
    asked = [[NAMES[0], "unknown", ODD[0]], ["", NAMES[1], NAMES[0]], [ODD[1], NAMES[2], ""]]
    whole = look_up(table_of(NAMES), Exchange(), [name for mine in asked for name in mine])
    assert [standing is None for _, standing in whole] == [name in ("", "unknown") for name, _ in whole]
    found = on_ranks(3, lambda rank, exchange: look_up(part(rank, 3), exchange, asked[rank]))
    assert found == [whole] * 3


@pytest.mark.parametrize("count", [1, 7, 40, 200])
def test_the_top_groups_are_those_of_a_full_sort(count: int) -> None:
    table = EvidenceTable(half_life=8.0)
    names = content_ids(150)
    table.rows(names, 0)
    rng = default_rng(3)
    table["evidence_max"][:] = rng.integers(0, 6, 150)  # many ties
    table["exposures"][:] = rng.integers(0, 3, 150)
    evidence, exposures = table["evidence_max"], table["exposures"]
    order = sorted(range(150), key=lambda row: (-evidence[row], -exposures[row], names[row]))[:count]
    found = top_groups(table, Exchange(), count)
    assert [standing.group for standing in found] == [names[row] for row in order]
    assert not np.isnan([standing.evidence_max for standing in found]).any()


@pytest.mark.parametrize("count", [1, 10, 200])
def test_the_top_groups_of_all_ranks_are_those_of_one_process(count: int) -> None:
    whole = top_groups(table_of(NAMES), Exchange(), count)
    assert len(whole) == min(count, len(NAMES))
    assert on_ranks(3, lambda rank, exchange: top_groups(part(rank, 3), exchange, count)) == [whole] * 3


def test_groups_of_all_ranks_are_gathered_most_evident_first_ties_by_name() -> None:
    evidence = {"b": 3.0, "a": 3.0, "low": -2.0, "high": 9.0, "other": 50.0}
    shares = [["b", "low", "other"], [], ["high", "a"]]

    def gathered(rank: int, exchange: Exchange) -> list[str]:
        table = EvidenceTable(half_life=8.0)
        rows = table.rows(shares[rank], 0)
        table["evidence_max"][:] = [evidence[name] for name in shares[rank]]
        chosen = rows[[name != "other" for name in shares[rank]]]
        return gather_groups(table, exchange, chosen) + gather_groups(table, exchange, [])

    assert on_ranks(3, gathered) == [["high", "a", "b", "low"]] * 3


def same(table: EvidenceTable, whole: EvidenceTable) -> bool:
    """Whether each group of ``table`` has in all columns what it has in ``whole``."""
    rows = np.array([whole.row(name) for name in table.names], dtype=np.int64)
    return all(table[column].tolist() == whole[column][rows].tolist() for column in whole.columns)


@pytest.mark.parametrize(("saved", "ranks"), [(1, 3), (3, 1), (3, 2), (2, 5)])
def test_shares_are_dealt_out_again_for_another_number_of_ranks(saved: int, ranks: int) -> None:
    whole, states = table_of(NAMES), [part(rank, saved).state_dict() for rank in range(saved)]
    shares = [share_of(states, rank, ranks, 8.0) for rank in range(ranks)]
    for rank, share in enumerate(shares):
        assert {owner(name, ranks) for name in share.names} <= {rank} and same(share, whole)
        assert all(share[column].dtype == whole[column].dtype for column in whole.columns)
    assert sorted(name for share in shares for name in share.names) == sorted(NAMES)


def test_a_share_may_be_empty_and_goes_on() -> None:
    states = [table_of(["a"]).state_dict()]
    empty = share_of(states, 1 - owner("a", 2), 2, 8.0)
    assert len(empty) == 0
    empty.observe(["new"], np.array([1.0]), np.array([1.0]), 3, 3)
    assert empty["scored"].tolist() == [1] and empty["condemned_step"].tolist() == [-1]


def test_joined_shares_are_the_table_of_one_process() -> None:
    """Names that are no content ids are kept beside the others, by their row in the whole."""
    shares = [table_of(ODD[:2] + NAMES[:3]), table_of([]), table_of([*NAMES[3:9], *ODD[2:]])]
    joined: dict[str, Any] = join_shares([share.state_dict() for share in shares])
    table = EvidenceTable(half_life=1.0)
    table.load_state_dict(joined)
    assert list(table.names) == [name for share in shares for name in share.names]
    assert table.half_life == 8.0 and same(table, table_of(list(table.names)))
