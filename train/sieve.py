"""The loader-level sieve of a run: the file of who is condemned, made anew from a checkpoint on resume."""

from __future__ import annotations

import numpy as np
import torch

from memsieve.filtering.data.loader_sieve import Sieve, SieveFile
from memsieve.train.config import RunConfig

__all__ = ["as_bytes_tensor", "open_sieve"]


def open_sieve(config: RunConfig, rank: int, saved: torch.Tensor | None) -> tuple[SieveFile | None, Sieve | None]:
    """The writer for the main loop and the reader for the loader; (None, None) where the filter works in the batch.

    Every rank writes a file of its own, equal to the others', so that its workers read what was written on their own
    machine. ``saved`` is what ``as_bytes_tensor`` put into the checkpoint.
    """
    options = config.filter
    if not options.enabled or options.apply != "sieve":
        return None, None
    path = config.output / "sieve" / f"rank{rank}.bin"
    file = SieveFile(path, b"" if saved is None else saved.numpy().tobytes())
    return file, Sieve(path, options.never_drop, options.always_drop)


def as_bytes_tensor(data: bytes) -> torch.Tensor:
    """uint8 [N], which a checkpoint of plain tensors can hold."""
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy())
