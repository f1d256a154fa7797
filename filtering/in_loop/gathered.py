"""A micro-batch of all ranks as one: names, what was measured, and whether a row can be trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from memsieve.filtering.evidence.sharing import NAME_NUMBERS, packed, unpacked
from memsieve.filtering.exchange import Exchange
from memsieve.filtering.types import Measurement, group_name

__all__ = ["AllRows", "Alone", "gather_rows"]

_FLAGS = 4


class Alone(Exchange):
    """For a filter that is told of all ranks' rows: it has nobody to ask."""

    @property
    def world_size(self) -> int:
        """One."""
        return 1

    @property
    def rank(self) -> int:
        """The first."""
        return 0


@dataclass(frozen=True, slots=True)
class AllRows:
    """The rows of all ranks, in rank order.

    Attributes:
        keys: of each row.
        measurement: of all rows, on the CPU.
        finite: whether each row's loss is.
        mine: where this rank's rows are.
    """

    keys: list[str]
    measurement: Measurement
    finite: list[bool]
    mine: slice

    def part(self, rows: Sequence[int]) -> Measurement:
        """What was measured of ``rows``."""
        whole = self.measurement
        assert whole.readable is not None
        signals = {name: values[list(rows)] for name, values in whole.signals.items()}
        picked = np.array(rows, dtype=np.int64)
        return Measurement(signals, whole.timesteps[picked], whole.usable[picked], None, whole.readable[picked])


def gather_rows(exchange: Exchange, keys: Sequence[str], measurement: Measurement, finite: Sequence[bool]) -> AllRows:
    """Rows of all ranks, which may hold different numbers of them; two collectives, the second of a shape that the
    first agrees on."""
    names = list(measurement.signals)
    values = list(zip(*(column.cpu().tolist() for column in measurement.signals.values()), strict=True))
    rows = [
        [1.0, float(finite[i]), float(measurement.usable[i]), float(measurement.says_something(i)),
         float(measurement.timesteps[i]), *packed(group_name(key)), *values[i]]
        for i, key in enumerate(keys)
    ]  # fmt: skip
    counts = [int(count) for count in exchange.gather(torch.tensor([[float(len(rows))]], dtype=torch.float64))]
    empty = [0.0] * (_FLAGS + 1 + NAME_NUMBERS + len(names))
    padded = torch.tensor([*rows, *[empty] * (max(counts) - len(rows))], dtype=torch.float64)
    table = [row for row in exchange.gather(padded.view(-1, len(empty))).tolist() if row[0]]
    start = sum(counts[: exchange.rank])
    first = _FLAGS + 1 + NAME_NUMBERS
    columns = {name: torch.tensor([row[first + i] for row in table]) for i, name in enumerate(names)}
    usable, readable = (np.array([bool(row[i]) for row in table], dtype=bool) for i in (2, 3))
    timesteps = np.array([int(row[_FLAGS]) for row in table], dtype=np.int64)
    return AllRows(
        [unpacked(row[_FLAGS + 1 : first]) for row in table],
        Measurement(columns, timesteps, usable, None, readable),
        [bool(row[1]) and all(math.isfinite(value) for value in row[first:]) for row in table],
        slice(start, start + len(rows)),
    )  # fmt: skip
