"""The faiss index is built once over all entries, and missing faiss is said with the way out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from memsieve.inference.copies.faiss_index import faiss_index


def blocks() -> Iterator[tuple[Any, torch.Tensor]]:
    rows = torch.eye(6)
    for start in (0, 4):
        yield np.arange(start, min(start + 4, 6)), rows[start : start + 4]


def test_it_is_built_once_and_read_again(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    for source in (blocks, lambda: pytest.fail("it is there already")):
        index = faiss_index(tmp_path / "index.faiss", 6, source)
        _, found = index.search(np.eye(6, dtype=np.float32), 1)
        assert found[:, 0].tolist() == list(range(6))
    assert [file.name for file in tmp_path.iterdir()] == ["index.faiss"], "no temporary file is left"


def test_without_faiss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memsieve.inference.copies.faiss_index.has_faiss", lambda: False)
    with pytest.raises(ValueError, match=r"pip install .*\[faiss\]', or take 'exact'"):
        faiss_index(tmp_path / "index.faiss", 6, blocks)
