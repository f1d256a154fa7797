"""Does a finished model copy? Generate for planted and for ordinary prompts, and compare with the training images."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from memsieve.filtering.folder_kind import what_it_is
from memsieve.inference.copies.judge import CopyJudge, CopyVerdict
from memsieve.inference.copies.rate import CopyRate, copy_rate
from memsieve.inference.copies.similarity import Similarity, build_similarity
from memsieve.inference.generate import GenerateSettings, generate
from memsieve.inference.resume import ImageStore, generate_kept

__all__ = [
    "DRAWN",
    "ProbeResult",
    "Prompt",
    "judge_for",
    "probe_model",
    "prompts_of",
    "shard_images",
]


DRAWN: Final = GenerateSettings(guidance_scale=3.0, batch=24)
"""How a probe draws where nothing else is said."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A training pair whose caption is drawn; ``repeats`` says how often it stands in the training shards."""

    caption: str
    group: str
    key: str
    repeats: int


@dataclass(slots=True)
class ProbeResult:
    """Generations [N, 3, H, W] in [-1, 1], a verdict each, and the rate.

    ``shares`` is of each generation that stands for a cluster of drawings the cluster's share of them.
    """

    generations: torch.Tensor
    verdicts: list[CopyVerdict]
    rate: CopyRate
    shares: list[float] | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found = {"rate": asdict(self.rate), "generations": [asdict(verdict) for verdict in self.verdicts]}
        return found if self.shares is None else {**found, "cluster_shares": self.shares}


def prompts_of(data: Path, ordinary: int = 24, seed: int = 0) -> tuple[list[Prompt], list[Prompt]]:
    """The planted pairs of a dataset folder with ``truth.parquet``, and as many ``ordinary`` ones, drawn by seed.

    Raises:
        ValueError: the folder has no truth.parquet.
    """
    truth = _truth(data)
    first: dict[str, Prompt] = {}
    for row in truth:
        if row["split"] == "train":
            first.setdefault(row["group"], Prompt(row["caption"], row["group"], row["key"], int(row["repeats"])))
    planted = [p for p in first.values() if p.repeats > 1]
    others = [p for p in first.values() if p.repeats <= 1]
    chosen = np.random.default_rng(seed).permutation(len(others))[:ordinary]
    return planted, [others[i] for i in chosen]


def judge_for(data: Path, similarity: str | Similarity = "pixel_l2", resolution: int | None = None) -> CopyJudge:
    """A judge over all distinct training images of a dataset folder, calibrated on its held-out ones.

    Raises:
        ValueError: no truth.parquet, or no shards.
    """
    train = shard_images(data / "train", resolution)
    held = shard_images(data / "held_out", resolution)
    names = {row["key"]: row["group"] for row in _truth(data)}
    distinct: dict[str, tuple[str, torch.Tensor]] = {}
    for key, pixels in train:
        distinct.setdefault(names[key], (key, pixels))
    kind = build_similarity(similarity) if isinstance(similarity, str) else similarity
    judge = CopyJudge(
        kind,
        torch.stack([pixels for _, pixels in distinct.values()]),
        list(distinct),
        keys=[key for key, _ in distinct.values()],
    )
    judge.calibrate(torch.stack([pixels for _, pixels in held]))
    return judge


def probe_model(
    model: Any,
    prompts: Sequence[Prompt],
    judge: CopyJudge,
    *,
    seeds: int = 3,
    settings: GenerateSettings = DRAWN,
    progress: bool = True,
    store: ImageStore | None = None,
) -> ProbeResult:
    """Generate ``seeds`` images for each prompt with ``model`` (a pipeline or its folder), and judge them.

    With a ``store`` images are kept there as they come, and those that it holds are not drawn again.
    """
    captions = [prompt.caption for prompt in prompts]
    if store is None:
        images = generate(model, captions, seeds, settings, progress=progress)
    else:
        images = generate_kept(model, captions, seeds, store, settings, progress=progress)
    groups = [prompt.group for prompt in prompts for _ in range(seeds)]
    verdicts = judge.judge(images, groups)
    return ProbeResult(images, verdicts, copy_rate(verdicts))


def _truth(data: Path) -> list[dict[str, Any]]:
    path = data / "truth.parquet"
    if not path.is_file():
        known = what_it_is(data)
        raise ValueError(
            f"--data: '{data}' has no truth.parquet{f', {known}' if known else ''}; build such a dataset with: "
            "memsieve data openmoji DIR --plant 6x2000"
        )
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def shard_images(folder: Path, resolution: int | None = None) -> list[tuple[str, torch.Tensor]]:
    """(key, pixels) of every PNG of our own shards, read in order."""
    found = []
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.isfile() and member.name.endswith(".png"):
                    file = tar.extractfile(member)
                    assert file is not None
                    image = Image.open(io.BytesIO(file.read())).convert("RGB")
                    if resolution is not None:
                        image = image.resize((resolution, resolution), Image.Resampling.LANCZOS)
                    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 127.5 - 1.0
                    found.append((member.name.removesuffix(".png"), pixels))
    if not found:
        raise ValueError(f"no images in the shards of '{folder}'")
    return found
