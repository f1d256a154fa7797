"""What a finished cell draws, and what of it comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from memsieve.inference.copies.judge import CopyJudge
from memsieve.inference.copies.probe import shard_images
from memsieve.inference.copies.similarity import build_similarity
from memsieve.inference.generate import GenerateSettings, generate, load_pipeline

__all__ = ["copies"]


def copies(pipeline: Path, data: Path, protocol: Any, seed: int) -> dict[str, Any]:
    """Generations for the captions of planted and of some ordinary pairs: which are copies by the strict judge, and
    whose nearest training image is one of their own pair's. Each list has one number a generation."""
    rows = [r for r in pq.read_table(data / "truth.parquet").to_pylist() if r["part"] == "stream"]
    first = {row["pair"]: row for row in rows}
    planted = sorted((row for row in first.values() if row["repeats"] > 1), key=lambda row: row["pair"])
    clean = sorted((row for row in first.values() if row["case"] == "clean"), key=lambda row: row["pair"])
    chosen = np.random.default_rng(seed).permutation(len(clean))[: protocol.ordinary]
    prompts = [*planted, *[clean[i] for i in sorted(chosen)]]
    images = _draw(pipeline, [row["prompt"] for row in prompts], protocol, seed)
    verdicts = _judge(data, rows).judge(images, [row["pair"] for row in prompts for _ in range(protocol.images)])
    each = [verdicts[i : i + protocol.images] for i in range(0, len(verdicts), protocol.images)]
    told = {row["pair"]: {"case": row["case"], "copies": [int(v.is_copy) for v in mine],
                          "own": [int(v.nearest_is_own) for v in mine]}
            for row, mine in zip(prompts, each, strict=True)}  # fmt: skip
    return {"generations": told}


def _draw(pipeline: Path, captions: list[str], protocol: Any, seed: int) -> torch.Tensor:
    from diffusers import DPMSolverMultistepScheduler

    pipe = load_pipeline(pipeline)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    settings = GenerateSettings(
        steps=protocol.sampling_steps, batch=24, seed=seed, guidance_scale=protocol.guidance_scale, scheduler="own"
    )
    return generate(pipe, captions, protocol.images, settings, progress=False)


def _judge(data: Path, rows: list[dict[str, Any]]) -> CopyJudge:
    """Over every distinct image of the stream, whatever the method trained on: own means of one's own pair."""
    known = {row["key"]: row for row in rows}
    distinct = {known[key]["group"]: (key, pixels) for key, pixels in shard_images(data / "stream")}
    judge = CopyJudge(
        build_similarity("pixel_l2"),
        torch.stack([pixels for _, pixels in distinct.values()]),
        [known[key]["pair"] for key, _ in distinct.values()],
    )
    judge.calibrate(torch.stack([pixels for _, pixels in shard_images(data / "held_out")]))
    return judge
