"""A checkpoint of another number of ranks, as a rank of this number would have saved it.

What all ranks hold alike (weights, the optimizer, the schedule, who is condemned) is one rank's. Positions in the data
and the pairs' evidence are joined, and each rank takes its share. Counts are added up, and are the first rank's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from memsieve.filtering.data.mark import merge_states
from memsieve.filtering.evidence.sharing import join_shares
from memsieve.train.accounting import Accounting
from memsieve.train.seen import GroupCounts

__all__ = ["shared_out"]

State = dict[str, Any]


def shared_out(states: Sequence[State], rank: int, ranks: int) -> State:
    """What ``rank`` of ``ranks`` goes on from.

    Args:
        states: what ``save_checkpoint`` was given on each rank that saved, in the order of ranks.
        rank: this one.
        ranks: how many there are now.

    Raises:
        ValueError: the states are of different runs.
    """
    shared = {**states[0], "data": merge_states([state["data"] for state in states])}
    shared["records"] = _records([state["records"] for state in states], rank, ranks)
    if "filter" in shared:
        groups = join_shares([state["filter"]["groups"] for state in states])
        shared["filter"] = {**shared["filter"], "groups": groups, "rank": 0, "ranks": 1}  # as one process saves it
    return shared


def _records(states: Sequence[State], rank: int, ranks: int) -> State:
    """The first rank has all counts, and what the ranks that are no more have written (see ``Records``)."""
    samples: Counter[str] = Counter()
    for i, state in enumerate(states):
        samples[str(i)] += int(state["seen"]["samples"])
        samples.update({name: int(count) for name, count in state.get("left", {}).items()})
    accounting, skips = Accounting(), GroupCounts()
    for state in states if rank == 0 else ():
        accounting.add(state["accounting"])
        skips.join(state["skips"])
    left = {name: count for name, count in samples.items() if int(name) >= ranks}
    return {
        **states[0],
        "accounting": accounting.as_dict(),
        "skips": skips.state_dict(),
        "seen": {"samples": samples[str(rank)]},
        "left": left if rank == 0 else {},
    }
