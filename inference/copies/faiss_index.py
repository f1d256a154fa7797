"""A faiss index over the embeddings of a training index, built once and kept beside them. Needs the extra ``faiss``."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from torch import Tensor

from memsieve.filtering.extras import install

__all__ = ["FLAT_BELOW", "faiss_index", "has_faiss"]

FLAT_BELOW: Final = 50_000
"""Entries from which on the index is clustered, and faiss is taken without being asked for."""

Blocks = Callable[[], Iterator[tuple[npt.NDArray[np.int64], Tensor]]]
"""() -> (entry numbers, embeddings [n, D]) of all entries, a part at a time."""


def has_faiss() -> bool:
    """Whether faiss is installed."""
    return find_spec("faiss") is not None


def faiss_index(path: Path, count: int, blocks: Blocks) -> Any:
    """The faiss index at ``path``; built over the ``count`` entries of ``blocks`` where there is none yet.

    Raises:
        ValueError: faiss is not installed.
    """
    if not has_faiss():
        raise ValueError(f"--engine = 'faiss' needs faiss: {install('faiss')}, or take 'exact'")
    import faiss

    if path.is_file():
        return faiss.read_index(str(path))
    flat = list(blocks()) if count < FLAT_BELOW else None
    sample = next(blocks())[1]
    lists = int(4 * math.sqrt(count))
    index = faiss.index_factory(sample.shape[1], "Flat" if flat is not None else f"IVF{lists},Flat")
    if flat is None:
        index.train(np.concatenate([e.numpy()[:: max(1, count // (64 * lists))] for _, e in blocks()]))
        faiss.extract_index_ivf(index).nprobe = max(8, lists // 32)
    for _, embeddings in flat or blocks():
        index.add(np.ascontiguousarray(embeddings.numpy()))
    faiss.write_index(index, str(path.with_suffix(".new")))
    os.replace(path.with_suffix(".new"), path)
    return index
