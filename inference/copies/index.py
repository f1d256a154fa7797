"""An index over training shards: which training images lie nearest to a picture, at any number of shards.

    INDEX/index.json           similarity, side, the shards with their sizes
    INDEX/00000.npy            embeddings of one shard [N, D] float32, written whole or not at all
    INDEX/00000.parquet        its rows: key, shard, index, group, caption, error
    INDEX/null.npy             distances of held-out images to their nearest training image
    INDEX/index.faiss          where faiss is used

Embeddings are read through memory maps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.rows import content_id
from memsieve.filtering.folder_kind import what_it_is
from memsieve.inference.copies.faiss_index import FLAT_BELOW, faiss_index, has_faiss
from memsieve.inference.copies.pixels import pixel_chunks, rows_of
from memsieve.inference.copies.similarity import Similarity, build_similarity
from memsieve.inference.progress import progress_bar

__all__ = ["Neighbour", "TrainingIndex", "read_description"]

CANDIDATES: Final = 16
"""faiss proposes this many times the wanted neighbours; the similarity itself decides among them."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A training pair and its distance; ``copies`` rows of the shards hold the same image bytes."""

    key: str
    shard: str
    index: int
    group: str
    caption: str
    distance: float
    copies: int


class TrainingIndex:
    """A built index, opened for searching.

    Rows with equal image bytes are one entry. ``null`` holds the sorted distances of held-out images, or None.

    Args:
        folder: what ``build_index`` wrote.
        similarity: the one it was built with; made from its name where left out.

    Raises:
        ValueError: the folder is no complete index.
    """

    def __init__(self, folder: Path, similarity: Similarity | None = None) -> None:
        self.folder = Path(folder)
        if not (self.folder / "index.json").is_file():
            known = what_it_is(self.folder)
            raise ValueError(
                f"--index: '{folder}' holds no index{f', {known}' if known else ''}; build one with: memsieve index "
                "--data SHARDS --out DIR"
            )
        described = read_description(self.folder / "index.json")
        if not described.get("complete"):
            raise ValueError(
                f"--index: '{folder}' was not finished; the command that began it goes on where it stopped"
            )
        self.name, self.side = str(described["similarity"]), int(described["side"])
        self.similarity = similarity or build_similarity(self.name, **described["options"])
        self._parts = [self.folder / f"{entry['name']}.npy" for entry in described["shards"]]
        tables = [pq.read_table(part.with_suffix(".parquet")) for part in self._parts]
        everything = pa.concat_tables(tables)
        self.errors = [e for e in everything.column("error").to_pylist() if e]
        usable = pa.concat_tables([t.filter(pc.is_null(t.column("error"))) for t in tables])
        groups = np.asarray(usable.column("group").to_pylist(), dtype=object).astype(str)
        _, self._rows, self._copies = np.unique(groups, return_index=True, return_counts=True)
        order = np.argsort(self._rows)
        self._rows, self._copies = self._rows[order], self._copies[order]
        if not len(self._rows):
            raise ValueError(f"--index: '{folder}' holds no usable image; the first error: {self.errors[:1]}")
        self._table = usable
        self._starts = np.cumsum([0, *(int(pc.sum(t.column("error").is_null()).as_py() or 0) for t in tables)])
        null = self.folder / "null.npy"
        self.null: npt.NDArray[np.float64] | None = np.load(null, allow_pickle=False) if null.is_file() else None

    def __len__(self) -> int:
        return len(self._rows)

    def nearest(self, images: Tensor, k: int = 5, engine: str = "auto") -> list[list[Neighbour]]:
        """The ``k`` nearest training images of each of ``images`` [N, 3, side, side], nearest first.

        ``exact`` compares with every entry, chunk by chunk; ``faiss`` takes candidates from a faiss index by L2
        distance of the embeddings and ranks them by the similarity itself (which is the same order for pixel_l2, phash
        and sscd, and nearly so for tiled_l2); ``auto`` takes faiss where it is installed and the index is large.

        Raises:
            ValueError: an unknown engine, or faiss is asked for and not installed.
        """
        if engine not in ("auto", "exact", "faiss"):
            raise ValueError(f"--engine = '{engine}': must be auto, exact or faiss")
        if k < 1:
            raise ValueError(f"--top = {k}: must be at least 1")
        queries = self.similarity.embed(images)
        k = min(k, len(self))
        large = engine == "auto" and len(self) >= FLAT_BELOW and has_faiss()
        found = self._by_faiss(queries, k) if engine == "faiss" or large else self._exact(queries, k)
        return [[self._neighbour(int(entry), float(d)) for entry, d in zip(*pair, strict=True)] for pair in found]

    def most_repeated(self, count: int) -> list[str]:
        """Captions of the ``count`` images that stand in the shards most often."""
        order = np.argsort(-self._copies, kind="stable")[:count]
        return [self._neighbour(int(entry), 0.0).caption for entry in order]

    def p_value(self, distance: float) -> float | None:
        """(1 + held-out images at least as near) / (1 + held-out images); None without held-out images."""
        if self.null is None:
            return None
        return float((1 + np.searchsorted(self.null, distance, side="right")) / (1 + len(self.null)))

    def calibrate(self, shards: Sequence[str], chunk: int = 64, progress: bool = True) -> None:
        """Learn from images that were never trained on how near a training image lies by chance."""
        distances: list[float] = []
        with progress_bar(progress) as bar:
            task = bar.add_task("held-out shards", total=len(shards))
            for shard in shards:
                for rows, pixels in pixel_chunks(shard, self.side, chunk):
                    mine = {row["group"] for row in rows}
                    for neighbours in self.nearest(pixels, 2) if len(pixels) else []:
                        others = [n.distance for n in neighbours if n.group not in mine]
                        distances += others[:1]
                bar.advance(task)
        if not distances:
            raise ValueError("--held-out: no usable image in the held-out shards")
        self.null = np.sort(np.asarray(distances, dtype=np.float64))
        np.save(self.folder / "null.npy", self.null)

    def image_bytes(self, neighbour: Neighbour) -> bytes:
        """The encoded image of a neighbour, read from its shard.

        Raises:
            ValueError: the shard has changed since, or is gone.
        """
        try:
            for row in rows_of(neighbour.shard, DataConfig(path=neighbour.shard)):
                if row.index == neighbour.index and row.error is None and content_id(row.image) == neighbour.group:
                    return row.image
        except OSError as error:
            raise ValueError(f"--index: shard '{neighbour.shard}' cannot be read: {error}") from error
        raise ValueError(
            f"--index: sample {neighbour.index} of '{neighbour.shard}' is no longer the one that was indexed; "
            "build the index again"
        )

    def _blocks(self, width: int = 8192) -> Iterator[tuple[npt.NDArray[np.int64], Tensor]]:
        """(entry numbers, embeddings) of distinct images, at most ``width`` at a time."""
        for number, part in enumerate(self._parts):
            first, last = np.searchsorted(self._rows, self._starts[number : number + 2])
            if first == last:
                continue
            stored = np.load(part, mmap_mode="r", allow_pickle=False)
            for start in range(int(first), int(last), width):
                entries = np.arange(start, min(start + width, int(last)))
                chosen = np.ascontiguousarray(stored[self._rows[entries] - self._starts[number]])
                yield entries, torch.from_numpy(chosen)

    def _exact(self, queries: Tensor, k: int) -> list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
        best = torch.full((len(queries), k), math.inf)
        owner = torch.zeros(len(queries), k, dtype=torch.long)
        for entries, embeddings in self._blocks():
            distances = torch.cat([best, self.similarity.distance(queries, embeddings)], dim=1)
            numbers = torch.cat([owner, torch.from_numpy(entries).expand(len(queries), -1)], dim=1)
            best, chosen = distances.topk(k, dim=1, largest=False)
            owner = numbers.gather(1, chosen)
        return [(owner[i].numpy(), best[i].numpy()) for i in range(len(queries))]

    def _by_faiss(self, queries: Tensor, k: int) -> list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
        index = faiss_index(self.folder / "index.faiss", len(self), self._blocks)
        _, candidates = index.search(np.ascontiguousarray(queries.numpy()), min(CANDIDATES * k, len(self)))
        found = []
        for query, row in zip(queries, candidates, strict=True):
            entries = np.sort(row[row >= 0])
            distances = self.similarity.distance(query[None], self._embeddings(entries))[0]
            best, chosen = distances.topk(min(k, len(entries)), largest=False)
            found.append((entries[chosen.numpy()], best.numpy()))
        return found

    def _embeddings(self, entries: npt.NDArray[np.int64]) -> Tensor:
        parts = np.searchsorted(self._starts, self._rows[entries], side="right") - 1
        rows = [
            np.load(self._parts[part], mmap_mode="r", allow_pickle=False)[self._rows[entry] - self._starts[part]]
            for part, entry in zip(parts, entries, strict=True)
        ]
        return torch.from_numpy(np.stack(rows))

    def _neighbour(self, entry: int, distance: float) -> Neighbour:
        row = self._table.slice(int(self._rows[entry]), 1).to_pylist()[0]
        return Neighbour(
            row["key"], row["shard"], row["index"], row["group"], row["caption"] or "", distance,
            int(self._copies[entry]),
        )  # fmt: skip


def read_description(path: Path) -> dict[str, Any]:
    """What ``index.json`` says.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"'{path}' is not JSON: {error}; build the index again in a new folder") from None
    assert isinstance(value, dict)
    return value
