"""The few fixed-shape collectives that the filter needs; with one process, nothing happens."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

__all__ = ["Exchange"]


class Exchange:
    """Sums and gathers over all ranks of the default process group, where there is one.

    Every method is called by all ranks equally often with equal shapes, whatever the data.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

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
        """What each rank gives, in rank order; the only method whose argument may differ in size."""
        if self.world_size == 1:
            return [mine]
        everyone: list[Any] = [None] * self.world_size
        dist.all_gather_object(everyone, mine)
        return everyone
