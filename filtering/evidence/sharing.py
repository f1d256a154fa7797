"""History shared out over ranks: which rank holds a group's evidence, and how the others learn of it.

A group lives on rank hash(group) mod W. Names travel as numbers, because collectives move tensors of one shape: 64
bytes each, longer ones hashed before. With one process everything is local and nothing is exchanged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from memsieve.filtering.evidence.key_index import Names
from memsieve.filtering.evidence.table import EvidenceTable
from memsieve.filtering.exchange import Exchange
from memsieve.filtering.types import NAME_BYTES

__all__ = [
    "NAME_NUMBERS",
    "Standing",
    "gather_groups",
    "join_shares",
    "look_up",
    "owner",
    "packed",
    "share_of",
    "top_groups",
    "unpacked",
]

NAME_NUMBERS: Final = NAME_BYTES // 4
_TOLD: Final = (
    "evidence", "evidence_max", "p_value", "magnitude_mean", "level",
    "exposures", "trained", "condemned_step", "drawn", "last_drawn", "scored",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of one group at the start of a window."""

    group: str
    evidence: float
    evidence_max: float
    p_value: float
    magnitude_mean: float
    exposures: int
    trained: int
    condemned_step: int
    drawn: int = 0
    last_drawn: int = 0
    scored: int = 0
    level: float = 0.0

    @property
    def compared(self) -> bool:
        """The group was looked at since it was first read."""
        return self.evidence != 0.0

    @classmethod
    def of(cls, group: str, numbers: Sequence[float]) -> Standing:
        """From the numbers that travel, in the order of ``_TOLD``."""
        evidence, evidence_max, p_value, magnitude_mean, level, *counts = numbers
        exposures, trained, condemned_step, drawn, last_drawn, scored = (int(count) for count in counts)
        return cls(
            group, evidence, evidence_max, p_value, magnitude_mean, exposures, trained, condemned_step, drawn,
            last_drawn, scored, level,
        )  # fmt: skip


def owner(group: str, world_size: int) -> int:
    """The rank that holds ``group``: the same on all machines and in all runs."""
    return int.from_bytes(hashlib.blake2b(group.encode(), digest_size=8).digest(), "big") % world_size


def packed(group: str) -> list[float]:
    """A group's name, four bytes to a float64 (which holds 32-bit numbers exactly)."""
    numbers: list[float] = np.frombuffer(group.encode().ljust(NAME_BYTES, b"\0"), dtype=">u4").astype(float).tolist()
    return numbers


def unpacked(numbers: Sequence[float]) -> str:
    """The name that ``packed`` made numbers of."""
    return np.array(numbers).astype(">u4").tobytes().rstrip(b"\0").decode()


def look_up(table: EvidenceTable, exchange: Exchange, groups: Sequence[str]) -> list[tuple[str, Standing | None]]:
    """``groups`` of all ranks, in rank order, and how they stand (None: unknown); two collectives, of a shape that
    depends on their number only.

    Args:
        table: this rank's share.
        groups: equally many on all ranks; "" stands for nobody.
    """
    if exchange.world_size == 1:
        rows = [(group, table.row(group)) for group in groups]
        return [(group, Standing.of(group, _numbers(table, row)) if row >= 0 else None) for group, row in rows]
    asked = exchange.gather(torch.tensor([packed(group) for group in groups], dtype=torch.float64)).tolist()
    answers = torch.zeros(len(asked), 1 + len(_TOLD), dtype=torch.float64)
    for i, numbers in enumerate(asked):
        row = table.row(unpacked(numbers))
        if row >= 0:
            answers[i] = torch.tensor([1.0, *_numbers(table, row)], dtype=torch.float64)
    names = [unpacked(numbers) for numbers in asked]
    known = exchange.sum_tensor(answers).tolist()
    return [
        (name, Standing.of(name, answer[1:]) if answer[0] else None) for name, answer in zip(names, known, strict=True)
    ]


def top_groups(table: EvidenceTable, exchange: Exchange, count: int) -> list[Standing]:
    """The ``count`` groups of all ranks with the largest running maximum of evidence, ties by exposures, then by name;
    a collective."""
    evidence, exposures = table["evidence_max"], table["exposures"]
    candidates = np.arange(len(table))
    if len(table) > count > 0:  # all names of millions of groups take a minute to sort
        least = np.partition(evidence, len(table) - count)[len(table) - count]
        candidates = np.flatnonzero(evidence >= least)
        if len(candidates) > count:  # ties: by exposures next
            tied = exposures[candidates] + np.where(evidence[candidates] > least, 1 << 40, 0)
            candidates = candidates[tied >= np.partition(tied, len(tied) - count)[len(tied) - count]]
    order = sorted(candidates.tolist(), key=lambda row: (-evidence[row], -exposures[row], table.names[row]))[:count]
    rows = [[*_numbers(table, row), *packed(table.names[row])] for row in order]
    rows += [[0.0] * (len(_TOLD) + NAME_NUMBERS)] * (count - len(rows))
    gathered = exchange.gather(torch.tensor(rows, dtype=torch.float64)).tolist()
    known = [Standing.of(unpacked(row[len(_TOLD) :]), row[: len(_TOLD)]) for row in gathered]
    named = [standing for standing in known if standing.group]
    return sorted(named, key=lambda standing: (-standing.evidence_max, -standing.exposures, standing.group))[:count]


def gather_groups(table: EvidenceTable, exchange: Exchange, rows: Sequence[int] | np.ndarray) -> list[str]:
    """The groups of ``rows`` of all ranks' shares, most evident first, ties by name; two collectives, the second of a
    shape that the first agrees on."""
    most = int(exchange.gather(torch.tensor([[len(rows)]], dtype=torch.float64)).max())
    if most == 0:
        return []
    mine = [[float(table["evidence_max"][row]), *packed(table.names[row])] for row in rows]
    mine += [[0.0] * (1 + NAME_NUMBERS)] * (most - len(mine))
    everyone = exchange.gather(torch.tensor(mine, dtype=torch.float64)).tolist()
    return [name for _, name in sorted((-row[0], unpacked(row[1:])) for row in everyone) if name]


def _numbers(table: EvidenceTable, row: int) -> list[float]:
    mean = table["magnitude_sum"][row] / max(int(table["scored"][row]), 1)
    made = {"magnitude_mean": mean, "level": table.level(np.array([row]))[0]}
    return [float(made[name] if name in made else table[name][row]) for name in _TOLD]


def share_of(states: Sequence[dict[str, Any]], rank: int, world_size: int, half_life: float) -> EvidenceTable:
    """The rows of ``rank`` among the saved tables of all ranks of another number of ranks."""
    whole = EvidenceTable(half_life)
    names = Names()
    columns: dict[str, list[np.ndarray]] = {name: [] for name in whole.columns}
    for state in states:
        table = EvidenceTable(half_life)
        table.load_state_dict(state)
        mine = [row for row, name in enumerate(table.names) if owner(name, world_size) == rank]
        for row in mine:
            names.add(table.names[row])
        for name, parts in columns.items():
            parts.append(table[name][mine])
    merged = {name: torch.from_numpy(np.concatenate(parts)) for name, parts in columns.items()}
    whole.load_state_dict({"half_life": half_life, "names": names.state_dict(), "columns": merged})
    return whole


def join_shares(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One saved table of those of all ranks, whose groups are distinct: one share's rows after the other's."""
    keys, before = [], 0
    others: dict[int, str] = {}
    for state in states:
        names = state["names"]
        keys.append(names["keys"])
        others |= {before + row: name for row, name in names["others"].items()}
        before += len(names["keys"])
    columns = {name: torch.cat([state["columns"][name] for state in states]) for name in states[0]["columns"]}
    names = {"keys": torch.cat(keys), "others": others}
    return {"half_life": states[0]["half_life"], "names": names, "columns": columns}
