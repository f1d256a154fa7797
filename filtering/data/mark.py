"""A position in the data, from which a run goes on exactly: how it is kept, checked and joined over ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from memsieve.filtering.data.pool import Found, Waiting
from memsieve.filtering.data.rows import Place

__all__ = ["Mark", "check_same_data", "merge_states"]


@dataclass(slots=True)
class Mark:
    """Where reading goes on, and which rows were read before and wait for their window.

    Attributes:
        epoch: the pass.
        tick: turns of the run before it.
        places: where this rank's streams are there.
        found: what the pass had found there.
        order: rows of all ranks that wait, as they came.
        waiting: of this rank's streams, (bucket, offset) of the rows that wait, as they came.
        ended: every stream has met the end of the pass.
    """

    epoch: int
    tick: int
    places: dict[int, Place]
    found: Found = field(default_factory=Found)
    order: list[Waiting] = field(default_factory=list)
    waiting: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    ended: bool = False

    def as_plain(self) -> dict[str, Any]:
        """In values that JSON can hold."""
        places = [
            [stream, place.offset, place.ended, [list(row) for row in self.waiting.get(stream, [])]]
            for stream, place in self.places.items()
        ]
        return {
            "epoch": self.epoch,
            "tick": self.tick,
            "found": asdict(self.found),
            "order": [list(row) for row in self.order],
            "ended": self.ended,
            "positions": places,
        }

    @classmethod
    def of(cls, state: dict[str, Any], streams: Sequence[int], rank: int, world_size: int) -> Mark:
        """That of the rank that reads ``streams``, out of what ``as_plain`` made, on this or all ranks.

        Raises:
            ValueError: ``state`` is of other ranks alone.
        """
        saved = {
            int(stream): (Place(int(offset), bool(ended)), rest) for stream, offset, ended, *rest in state["positions"]
        }
        missing = [stream for stream in streams if stream not in saved]
        if missing:
            raise ValueError(
                f"the data position to resume from, saved by {state.get('world_size')} ranks, lacks streams {missing} "
                f"of rank {rank} of {world_size}; join the states of all ranks with merge_states"
            )
        return cls(
            epoch=int(state["epoch"]),
            tick=int(state["tick"]),
            places={stream: saved[stream][0] for stream in streams},
            found=Found(**state["found"]),
            order=[(int(bucket), int(stream)) for bucket, stream in state.get("order", [])],
            waiting={
                stream: [(int(bucket), int(offset)) for rows in saved[stream][1] for bucket, offset in rows]
                for stream in streams
            },
            ended=bool(state.get("ended", False)),
        )


def check_same_data(state: dict[str, Any], now: dict[str, Any]) -> None:
    """See that ``state`` is a position in the data that ``now`` describes.

    Raises:
        ValueError: names the first thing that differs, and the way out.
    """
    if "order" not in state and state.get("read", 1):  # of later ones, those that no row waits at are read
        raise ValueError(
            "the data position to resume from was written by memsieve 0.1.0 or soon after, which dealt the data "
            "otherwise; start a new run folder, from that run's pipeline where it has one"
        )
    ways = {
        "n_streams": f"set data.streams = {state.get('n_streams')}",
        "rows_per_window": f"keep batch x accumulation x ranks = {state.get('rows_per_window')}",
        "seed": "use the seed of the run that wrote it",
        "shuffle_buffer": f"set data.shuffle_buffer = {state.get('shuffle_buffer')}",
        "paths": "resume on the same shards, under the same paths and in the same order",
        "parts": "resume on the same data: put back what was taken out of it, take out what was added",
        "rows": "resume on the same data: shards hold other numbers of samples now",
        "buckets": "set data.buckets as the run that wrote it had it",
        "repeats": "set data.repeats and data.groups as the run that wrote it had them, on the same data",
    }
    for name, way in ways.items():
        if state.get(name) != now[name]:
            raise ValueError(
                f"the data position to resume from has {name} = {_short(state.get(name))}, this run has "
                f"{_short(now[name])}; {way}, or name another output for a new run"
            )


def merge_states(states: list[dict[str, Any]]) -> dict[str, Any]:
    """The states of all ranks as one, from which a run with any number of ranks that fits can resume.

    Raises:
        ValueError: ``states`` is empty, or they are of different runs.
    """
    if not states:
        raise ValueError("there is no state to merge")
    first = {name: value for name, value in states[0].items() if name != "positions"}
    for state in states[1:]:
        if {name: value for name, value in state.items() if name != "positions"} != first:
            raise ValueError("the states to merge are of different runs: their streams, seed or paths differ")
    return {**first, "positions": sorted(position for state in states for position in state["positions"])}


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
