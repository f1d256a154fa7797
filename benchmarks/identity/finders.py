"""What finds near-duplicates, at fixed thresholds and at the one that the check chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import imagehash
import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.identity.photographs import Photograph
from memsieve.filtering.audit.group_check import threshold_for
from memsieve.filtering.identity.descriptors import describe, open_descriptor
from memsieve.filtering.identity.edits import EDITS, edited
from memsieve.filtering.identity.leaders import alike
from memsieve.filtering.identity.phash import apart

__all__ = ["FINDERS", "FIXED", "judged", "measured"]

Array = npt.NDArray[Any]
FIXED: Final = {"phash": (-4.0, -8.0), "pdq": (-31.0, -60.0), "sscd": (0.75, 0.6), "sscd_distilled": (0.75, 0.6)}
"""Least likeness, by finder: a cosine, or minus the bits that may differ; what tools take by default, and less."""
FINDERS: Final = tuple(FIXED)
PARTS: Final = ("originals", "edits", "there", "edits_there")


@dataclass(frozen=True, slots=True)
class _Described:
    """Rows [N, W] of the originals and [E, N, W] of their edits, and which there are, [N] and [E, N]."""

    originals: Array
    edits: Array
    there: Array
    edits_there: Array


def measured(name: str, photographs: Sequence[Photograph], kept: Path, seed: int) -> _Described:
    """The rows of a finder, from ``kept`` where they are there."""
    names = [one.name for one in photographs]
    if kept.is_file():
        with np.load(kept, allow_pickle=False) as saved:
            if saved["names"].tolist() == names and int(saved["seed"]) == seed:
                return _Described(*(saved[part] for part in PARTS))
    images = [Image.open(one.file).convert("RGB") for one in photographs]
    originals, there = _rows(name, images)
    again = [_rows(name, [edited(edit, image, [seed, i]) for i, image in enumerate(images)]) for edit in EDITS]
    found = (originals, np.stack([rows for rows, _ in again]), there, np.stack([known for _, known in again]))
    kept.parent.mkdir(parents=True, exist_ok=True)
    unfinished = kept.with_name(f".{kept.name}.npz")
    parts: dict[str, Any] = dict(zip(PARTS, found, strict=True))
    np.savez(unfinished, names=np.array(names), seed=seed, **parts)
    unfinished.replace(kept)
    return _Described(*found)


def _rows(name: str, images: Sequence[Image.Image]) -> tuple[Array, Array]:
    """Rows [N, W], and of which pictures there is one."""
    if name == "phash":
        hashes = [[int(str(imagehash.phash(image)), 16)] for image in images]
        return np.array(hashes, dtype=np.uint64), np.ones(len(images), dtype=bool)
    descriptor = open_descriptor(name)
    found = describe(descriptor, images)
    nothing = np.zeros(descriptor.width, np.uint8 if descriptor.kind == "bits" else np.float16)
    return np.stack([nothing if row is None else row for row in found]), np.array([row is not None for row in found])


def judged(name: str, rows: _Described, false_joins: float) -> dict[str, Any]:
    """Recall by edit and the share that is joined to a different photograph, by threshold; ``auto`` is the one that the
    check's estimate chooses from how near different pictures lie, ``clean`` the least at which no two of them are
    joined."""
    among = _likeness(name, rows.originals, rows.originals)
    among[~(rows.there[:, None] & rows.there[None])] = -np.inf
    np.fill_diagonal(among, -np.inf)
    nearest = among.max(axis=1)
    own = {}
    for edit, again, there in zip(EDITS, rows.edits, rows.edits_there, strict=True):
        # What is not described is not found.
        own[edit] = np.where(rows.there & there, np.diag(_likeness(name, rows.originals, again)), -np.inf)
    thresholds = {f"{least:g}": least for least in FIXED[name]}
    if name != "phash":
        known = nearest[np.isfinite(nearest)]
        thresholds["auto"] = threshold_for(known, false_joins, np.concatenate(list(own.values())))
    thresholds["clean"] = _just_above(float(nearest.max()), name)
    return {
        label: {
            "threshold": least,
            "recall": {edit: float(np.mean(likeness >= least)) for edit, likeness in own.items()},
            "mean_recall": float(np.mean([np.mean(likeness >= least) for likeness in own.values()])),
            "joined_falsely": float(np.mean(nearest >= least)),
        }
        for label, least in thresholds.items()
    }


def _just_above(likeness: float, name: str) -> float:
    """Bits are counted; cosines of half precision have three digits."""
    return likeness + (0.001 if name.startswith("sscd") else 1.0)


def _likeness(name: str, a: Array, b: Array) -> Array:
    if name == "phash":
        bits = [apart(np.repeat(one, len(b)), b[:, 0]) for one in a]
        return -np.stack(bits).astype(np.float64)
    return alike(a, b).astype(np.float64)
