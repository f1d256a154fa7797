"""A process group that serves one device type, which is not the CPU, as NCCL's does: gloo behind torch's lazy device,
whose tensors hold real numbers on any machine."""

from __future__ import annotations

from typing import Any

import torch._lazy.ts_backend
import torch.distributed as dist

__all__ = ["OneDeviceGroup", "install"]


class OneDeviceGroup(dist.ProcessGroup):
    """Refuses tensors of any other device in the words of torch's dispatch."""

    name = "lazygloo"

    def __init__(self, store: Any, rank: int, size: int, timeout: Any) -> None:
        super().__init__(rank, size)
        self._gloo = dist.ProcessGroupGloo(store, rank, size, timeout)  # type: ignore[attr-defined]

    def getBackendName(self) -> str:
        return self.name

    def allreduce(self, tensors: list[torch.Tensor], opts: Any = None) -> Any:
        host = [self._host(tensor) for tensor in tensors]
        work = self._gloo.allreduce(host)
        work.wait()
        for tensor, value in zip(tensors, host, strict=True):
            tensor.copy_(value)
        return work

    def allgather(self, outputs: list[list[torch.Tensor]], inputs: list[torch.Tensor], opts: Any = None) -> Any:
        host = [[self._host(part) for part in parts] for parts in outputs]
        work = self._gloo.allgather(host, [self._host(tensor) for tensor in inputs])
        work.wait()
        for parts, values in zip(outputs, host, strict=True):
            for part, value in zip(parts, values, strict=True):
                part.copy_(value)
        return work

    def _host(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.device.type != "lazy":
            raise RuntimeError(f"No backend type associated with device type {tensor.device.type}")
        return tensor.cpu()


def install() -> None:
    """Let ``init_process_group("lazygloo")`` make one."""
    torch._lazy.ts_backend.init()
    dist.Backend.register_backend(OneDeviceGroup.name, OneDeviceGroup, devices=["lazy"])
