"""The probe of a dataset folder: its planted (or named) pairs by caption and by attack, beside held-out controls."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from memsieve.inference.copies.attack import AttackSettings, Target, attack_pairs
from memsieve.inference.copies.judge import CopyJudge
from memsieve.inference.copies.probe import ProbeResult, Prompt, probe_model, shard_images
from memsieve.inference.copies.similarity import build_similarity
from memsieve.inference.guided import open_model, pipeline_resolution
from memsieve.inference.resume import ImageStore

__all__ = ["probe_dataset"]


def probe_dataset(
    pipe: Any,
    data: Path,
    settings: AttackSettings,
    *,
    attack: bool = False,
    scheduler: str = "auto",
    groups: Sequence[str] | None = None,
    controls: int = 8,
    similarity: str = "pixel_l2",
    progress: bool = True,
    store: ImageStore | None = None,
) -> dict[tuple[str, str], ProbeResult]:
    """(pairs, way) -> result: the pairs by caption, and with ``attack`` the pairs and the controls by embedding.

    The controls are held-out images, which the model never saw. They stand in the judge's gallery beside the training
    images, so that they can come back at all, and not among the images that calibrate it. ``pipe`` is any text-to-image
    pipeline; the attack needs one that ``open_model`` takes.

    Raises:
        ValueError: no truth.parquet, an unknown group, no planted pair, or too few held-out images.
    """
    truth = data / "truth.parquet"
    if not truth.is_file():
        raise ValueError(
            f"--data: '{data}' has no truth.parquet; build one with: memsieve data openmoji DIR --plant 6x2000"
        )
    first = {row["key"]: row for row in pq.read_table(truth).to_pylist()}
    opened = open_model(pipe, scheduler=scheduler) if attack else None
    resolution = pipeline_resolution(pipe)
    train, held = (shard_images(data / split, resolution) for split in ("train", "held_out"))
    pixels = dict([*train, *held])
    known: dict[str, str] = {}
    for key, _ in train:
        known.setdefault(first[key]["group"], key)
    if groups is None:
        groups = list(dict.fromkeys(first[key]["group"] for key, _ in train if first[key]["repeats"] > 1))
        if not groups:
            raise ValueError(f"--data: '{data}' has no planted pairs; name some with --groups")
    unknown = [group for group in groups if group not in known]
    if unknown:
        raise ValueError(f"--groups: '{unknown[0]}' is no group of the training split ({len(unknown)} are unknown)")
    control_keys = [key for key, _ in held][:controls] if attack else []
    judge = CopyJudge(
        build_similarity(similarity),
        torch.stack([pixels[key] for key in [*known.values(), *control_keys]]),
        [*known, *(f"control:{key}" for key in control_keys)],
        keys=[*known.values(), *control_keys],
    )
    judge.calibrate(torch.stack([image for key, image in held if key not in set(control_keys)]))
    prompts = [Prompt(first[known[g]]["caption"], g, known[g], int(first[known[g]]["repeats"])) for g in groups]
    by_caption = probe_model(
        pipe, prompts, judge, seeds=settings.images, steps=settings.steps,
        guidance_scale=settings.guidance_scale, seed=settings.seed, progress=progress, store=store,
    )  # fmt: skip
    results = {("chosen pairs", "caption"): by_caption}
    if opened is not None:
        chosen = [Target(p.caption, p.group, pixels[p.key]) for p in prompts]
        others = [Target(first[key]["caption"], f"control:{key}", pixels[key]) for key in control_keys]
        kept: dict[str, Any] = {"progress": progress, "store": store}
        results["chosen pairs", "attack"] = attack_pairs(opened, chosen, judge, settings, **kept)
        if others:
            results["held-out controls", "attack"] = attack_pairs(opened, others, judge, settings, **kept)
    return results
