"""The few fixed-shape collectives that the filter needs; with one process, nothing happens."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import Any, Final

import torch
import torch.distributed as dist

__all__ = ["Exchange"]

_PIECE: Final = 1 << 26
"""Bytes of one rank that travel at a time: with many groups a share is larger than what a GPU has to spare."""
_meetings = itertools.count()  # one for all exchanges of a process, which meet in the same order on all ranks


class Exchange:
    """Sums and gathers over all ranks of the default process group, where there is one.

    Every method is called by all ranks equally often with equal shapes, whatever the data.

    Args:
        device: where what travels lies; None asks the process group, at each collective, since the group may be made
            after the filter: the CPU where it has a backend for it, else the device that it serves (NCCL: CUDA), and
            there the one that the group is bound to, or the current one.
        patience: seconds that the first rank waits in ``meet``.
    """

    def __init__(self, device: torch.device | str | None = None, patience: float = 300.0) -> None:
        self._device = torch.device(device) if device is not None else None
        self.patience = patience

    @property
    def device(self) -> torch.device:
        """Where what travels lies."""
        return self._device or (_served() if self.world_size > 1 else torch.device("cpu"))

    @property
    def world_size(self) -> int:
        """Number of ranks; 1 without a process group."""
        return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1

    @property
    def rank(self) -> int:
        """This process's rank; 0 without a process group."""
        return dist.get_rank() if self.world_size > 1 else 0

    def sum(self, values: list[float]) -> list[float]:
        """Element-wise sum over ranks, float64."""
        if self.world_size == 1:
            return [float(value) for value in values]
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return [float(value) for value in tensor.cpu()]

    def sum_tensor(self, values: torch.Tensor) -> torch.Tensor:
        """Element-wise sum of equally shaped tensors over ranks, on the CPU."""
        if self.world_size == 1:
            return values.cpu()
        mine = values.to(self.device)
        dist.all_reduce(mine)
        return mine.cpu()

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows [N, K] of all ranks in rank order, [W * N, K], on the CPU."""
        if self.world_size == 1:
            return rows.cpu()
        mine = rows.to(self.device).contiguous()
        parts = [torch.empty_like(mine) for _ in range(self.world_size)]
        dist.all_gather(parts, mine)
        return torch.cat(parts).cpu()

    def gather_objects(self, mine: Any) -> list[Any]:
        """What each rank gives, in rank order: plain objects of our own ranks, of any size."""
        if self.world_size == 1:
            return [mine]
        everyone: list[Any] = [None] * self.world_size
        dist.all_gather_object(everyone, mine)
        return everyone

    def gather_bytes(self, data: bytes) -> list[bytes]:
        """``data`` of all ranks, of any length each, in rank order; collectives whose number and shapes the first of
        them agrees on."""
        sizes = [int(size) for size in self.gather(torch.tensor([[float(len(data))]], dtype=torch.float64))]
        parts = [bytearray() for _ in sizes]
        for start in range(0, max(sizes), _PIECE):
            width = min(_PIECE, max(sizes) - start)
            piece = bytearray(data[start : start + width].ljust(width, b"\0"))
            for part, row in zip(parts, self.gather(torch.frombuffer(piece, dtype=torch.uint8)[None]), strict=True):
                part += row.numpy().tobytes()
        return [bytes(part[:size]) for part, size in zip(parts, sizes, strict=True)]

    def meet(self, call: str) -> None:
        """Before collectives in a ``call`` that is easily made by the first rank alone: it waits here for the others,
        who go on and wait there, for as long as the group allows.

        Raises:
            RuntimeError: on the first rank, where the others do not come.
        """
        if self.world_size == 1:
            return
        place, store = f"memsieve/{next(_meetings)}", _store()
        store.set(f"{place}/{self.rank}", "here")
        if self.rank > 0:
            return
        try:
            store.wait([f"{place}/{rank}" for rank in range(self.world_size)], timedelta(seconds=self.patience))
        except dist.DistError as error:
            raise RuntimeError(
                f"rank 0 called {call}, and not all of the other {self.world_size - 1} ranks did within "
                f"{self.patience:.0f} s: evidence is shared out over ranks, so call it on every rank (accelerator."
                "save_state too: not under `if accelerator.is_main_process`)"
            ) from error


def _served() -> torch.device:
    """A device that the default process group has a backend for."""
    types = [pair.partition(":")[0] for pair in dist.get_backend_config().split(",")]  # "cpu:gloo,cuda:nccl"
    if "cpu" in types:
        return torch.device("cpu")
    bound: torch.device | None = getattr(dist.group.WORLD, "bound_device_id", None)
    return bound if bound is not None and bound.type in types else torch.device(types[0])


def _store() -> Any:
    """A connection of our own to the group's store: the group's watchdogs use theirs while we wait."""
    store: Any = dist.distributed_c10d._get_default_store()
    return store.clone() if hasattr(store, "clone") else store  # older torch has no clone
