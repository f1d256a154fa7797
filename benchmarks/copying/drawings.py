"""What a finished model draws for training and for held-out captions: whose picture it is nearest to, what is a copy,
and which caption it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.copying.excess import own_rates
from benchmarks.copying.learned import EncoderSimilarity
from benchmarks.retrieval.encoder import Encoder
from memsieve.inference.copies.judge import CopyJudge
from memsieve.inference.copies.probe import shard_images
from memsieve.inference.copies.similarity import Similarity, build_similarity

__all__ = ["JUDGES", "Drawing", "Prompts", "copies_of", "judged", "judges_with", "prompts_of", "small"]

GALLERY: Final = 100
"""Families that a drawing is compared with, training's and held-out ones' alike; of a smaller set all it has."""
SHOWN: Final = 8
"""Pictures of a family in a gallery. One of all eighty is near to nearly anything: of the base's drawings for three
such captions .58 were nearest to their own family, and none with eight."""
JUDGES: Final = ("pixel_l2", "tiled_l2", "encoder")
"""By the pixels of the whole; by the worst of sixteen tiles, where a plain background makes nothing alike; and by what
an image-text encoder says that is shown."""
SIDE: Final = 32
"""Of the pictures that are compared: what is copied shows at this size."""

Truth = Sequence[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Drawing:
    """How drawings are made, the same for all methods.

    Attributes:
        images: of each caption.
        ordinary: ordinary pairs that are drawn.
        held_out: held-out pairs that are drawn.
        steps: of the sampler (DDIM).
        guidance_scale: of the sampler.
    """

    images: int = 4
    ordinary: int = 40
    held_out: int = 100
    steps: int = 20
    guidance_scale: float = 3.0


@dataclass(frozen=True, slots=True)
class Prompts:
    """Pairs that are drawn: their names, captions, cases, and the things shown, [P] each; ``held_out`` ones come
    last."""

    pairs: list[str]
    captions: list[str]
    cases: list[str]
    things: list[str]

    def __len__(self) -> int:
        return len(self.pairs)


def prompts_of(data: Path, drawing: Drawing, seed: int) -> Prompts:
    """All pairs that are planted, some ordinary ones and some held-out ones, drawn by ``seed``."""
    truth = pq.read_table(data / "truth.parquet").to_pylist()
    first = {row["pair"]: row for row in truth if row["part"] == "stream"}
    rng = np.random.default_rng([seed, 2])
    planted = sorted((row for row in first.values() if row["repeats"] > 1), key=lambda row: row["pair"])
    ordinary = sorted((row for row in first.values() if row["case"] == "ordinary"), key=lambda row: row["pair"])
    held_out = sorted((row for row in truth if row["part"] == "held_out"), key=lambda row: row["pair"])
    chosen = [*planted, *_some(ordinary, drawing.ordinary, rng), *_some(held_out, drawing.held_out, rng)]
    return Prompts(*([row[name] for row in chosen] for name in ("pair", "prompt", "case", "base")))


def judges_with(encoder: Encoder) -> dict[str, Similarity]:
    """All of ``JUDGES``."""
    return {name: EncoderSimilarity(encoder) if name == "encoder" else build_similarity(name) for name in JUDGES}


def judged(
    drawn: Tensor, prompts: Prompts, data: Path, seed: int, judges: Mapping[str, Similarity]
) -> dict[str, dict[str, Any]]:
    """Per pair, under its name: its case; by each judge the share of its drawings that are nearest to its own picture
    (``own``), and which of them are copies by the strict judge, 0 or 1 each.

    Args:
        drawn: [P, K, 3, H, W] in [-1, 1].
        prompts: what was drawn.
        data: the stream's folder.
        seed: of the galleries.
        judges: compare, by name.
    """
    truth = pq.read_table(data / "truth.parquet").to_pylist()
    sides = {
        "stream": [i for i, case in enumerate(prompts.cases) if case != "held_out"],
        "held_out": [i for i, case in enumerate(prompts.cases) if case == "held_out"],
    }
    found: dict[str, dict[str, Any]] = {
        pair: {"case": case} for pair, case in zip(prompts.pairs, prompts.cases, strict=True)
    }
    drawn = small(drawn.flatten(0, 1)).unflatten(0, drawn.shape[:2])
    of = {part: _families(data, truth, part) for part in sides}
    size = min(GALLERY, *(len(families) for _, families in of.values()))  # one size for both, or they do not compare
    for part, mine in sides.items():
        names, families = of[part]
        own = [names.index(prompts.pairs[i]) for i in mine]
        shown = [pictures[:SHOWN] for pictures in families]
        for judge, similarity in judges.items():
            rates = own_rates(similarity, drawn[mine], own, shown, size, seed)
            for i, rate in zip(mine, rates.tolist(), strict=True):
                found[prompts.pairs[i]][f"own {judge}"] = round(rate, 4)
    for judge, similarity in judges.items():
        for i, copies in zip(sides["stream"], copies_of(similarity, drawn, prompts, data, truth), strict=True):
            found[prompts.pairs[i]][f"copies {judge}"] = copies
    return found


def small(images: Tensor) -> Tensor:
    """Pictures as they are compared, [N, 3, 32, 32]."""
    return F.interpolate(images, size=(SIDE, SIDE), mode="area")


def _families(data: Path, truth: Truth, part: str) -> tuple[list[str], list[Tensor]]:
    """Pairs of a part and the distinct pictures of each."""
    of = {row["key"]: row for row in truth if row["part"] == part}
    pictures: dict[str, dict[str, Tensor]] = {}
    for key, pixels in shard_images(data / part, SIDE):
        pictures.setdefault(of[key]["pair"], {}).setdefault(of[key]["group"], pixels)
    names = sorted(pictures)
    return names, [torch.stack(list(pictures[name].values())) for name in names]


def copies_of(similarity: Similarity, drawn: Tensor, prompts: Prompts, data: Path, truth: Truth) -> list[list[int]]:
    """Whether each training pair's drawings are nearest to its own picture, and nearer than 95 % of held-out pictures
    lie to theirs."""
    names, families = _families(data, truth, "stream")
    groups = [name for name, pictures in zip(names, families, strict=True) for _ in pictures]
    judge = CopyJudge(similarity, torch.cat(families), groups)
    judge.calibrate(torch.cat(_families(data, truth, "held_out")[1]))
    mine = [i for i, case in enumerate(prompts.cases) if case != "held_out"]
    each = drawn.shape[1]
    verdicts = judge.judge(drawn[mine].flatten(0, 1), [prompts.pairs[i] for i in mine for _ in range(each)])
    return [[int(v.is_copy) for v in verdicts[i : i + each]] for i in range(0, len(verdicts), each)]


def _some(rows: list[dict[str, Any]], count: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    return [rows[i] for i in sorted(rng.permutation(len(rows))[:count])]
