"""Random draws that depend on what they are for, never on the rank, worker or order that makes them."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import torch

__all__ = ["normal_like", "row_generator"]


def row_generator(seed: int, *parts: int | str, purpose: str) -> np.random.Generator:
    """A counter-based generator keyed by ``seed``, ``parts`` (a row's stream, epoch, offset) and ``purpose``.

    The same arguments give the same draws on every machine; different ones give independent draws, so a new use
    takes a new ``purpose`` and leaves the others as they were.
    """
    # JSON keeps (1, 23) apart from (12, 3), and 1 apart from "1".
    name = json.dumps([purpose, seed, *parts]).encode()
    key = hashlib.blake2b(name, digest_size=16, person=b"memsieve").digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))


def normal_like(generator: np.random.Generator, shape: tuple[int, ...] | torch.Size) -> torch.Tensor:
    """Standard normal float32 tensor of ``shape``, on the CPU so that every device gets the same values."""
    return torch.from_numpy(generator.standard_normal(size=(*shape, 1), dtype=np.float32)).reshape(tuple(shape))
