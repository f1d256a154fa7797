"""The probe of a dataset folder: its planted (or named) pairs by caption and by attacks, beside held-out controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from torch import Tensor

from memsieve.filtering.files import write_json
from memsieve.inference.copies.attack import AttackSettings, Target, attack_pairs
from memsieve.inference.copies.extract import extract_pairs
from memsieve.inference.copies.judge import CopyJudge
from memsieve.inference.copies.probe import ProbeResult, Prompt, probe_model, shard_images
from memsieve.inference.copies.similarity import build_similarity
from memsieve.inference.generate import GenerateSettings
from memsieve.inference.guided import GuidedModel, pipeline_resolution
from memsieve.inference.opened import open_model
from memsieve.inference.resume import ImageStore
from memsieve.inference.weights import pipeline_identity, weights_identity

__all__ = ["ProbeSettings", "probe_dataset", "probe_store", "write_probe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSettings:
    """Which pairs are probed, and how.

    Args:
        attack: whether an embedding is searched for each pair, too, and beside the base drawings go beyond the model.
        drawing: of the images, and of the attack.
        scheduler: of the attack's images; ``auto``, ``ddim`` or ``own``.
        groups: to probe; the planted ones if left out.
        controls: held-out pairs that are attacked alike.
        similarity: by which images are compared.
    """

    attack: bool = False
    drawing: AttackSettings = field(default_factory=AttackSettings)
    scheduler: str = "auto"
    groups: Sequence[str] | None = None
    controls: int = 8
    similarity: str = "pixel_l2"


def probe_dataset(
    model: Any, data: Path, settings: ProbeSettings, *, store: ImageStore | None = None, progress: bool = True
) -> dict[tuple[str, str], ProbeResult]:
    """(pairs, way) -> result: the pairs by caption; with ``attack`` the pairs and the controls by embedding, and, where
    the model before fine-tuning is known, by what lies beyond the model (``inference/copies/extract.py``).

    The controls are held-out images, which the model never saw. They stand in the judge's gallery beside the training
    images, so that they can come back at all, and not among the images that calibrate it. ``model`` is any
    text-to-image pipeline; an attack needs one that ``open_model`` takes, or what it gives, with its base.

    Raises:
        ValueError: no truth.parquet, an unknown group, no planted pair, or too few held-out images.
    """
    first = _truth(data)
    opened = open_model(model, scheduler=settings.scheduler) if settings.attack else None
    pipe = model.pipe if isinstance(model, GuidedModel) else model
    resolution, drawing = pipeline_resolution(pipe), settings.drawing
    train, held = (shard_images(data / split, resolution) for split in ("train", "held_out"))
    pixels = dict([*train, *held])
    known: dict[str, str] = {}
    for key, _ in train:
        known.setdefault(first[key]["group"], key)
    groups = _chosen_groups(data, settings.groups, [first[key] for key, _ in train])
    control_keys = [key for key, _ in held][: settings.controls] if settings.attack else []
    judge = _judge(settings.similarity, pixels, known, control_keys, [key for key, _ in held])
    prompts = [Prompt(first[known[g]]["caption"], g, known[g], int(first[known[g]]["repeats"])) for g in groups]
    drawn = GenerateSettings(steps=drawing.steps, guidance_scale=drawing.guidance_scale, seed=drawing.seed, batch=24)
    kept: dict[str, Any] = {"progress": progress, "store": store}
    by_caption = probe_model(pipe, prompts, judge, seeds=drawing.images, settings=drawn, **kept)
    results = {("chosen pairs", "caption"): by_caption}
    if opened is not None:
        chosen = [Target(p.caption, p.group, pixels[p.key]) for p in prompts]
        others = [Target(first[key]["caption"], f"control:{key}", pixels[key]) for key in control_keys]
        results["chosen pairs", "attack"] = attack_pairs(opened, chosen, judge, drawing, **kept)
        if others:
            results["held-out controls", "attack"] = attack_pairs(opened, others, judge, drawing, **kept)
        if opened.base is not None:
            results["chosen pairs", "base"] = extract_pairs(opened, chosen, judge, drawing, **kept)
            if others:
                results["held-out controls", "base"] = extract_pairs(opened, others, judge, drawing, **kept)
    return results


def probe_store(folder: Path, model: Any, data: Path, settings: ProbeSettings, dtype: str, resume: bool) -> ImageStore:
    """Where a probe keeps the images that it draws, so that it can go on with them; ``model`` as for ``probe_dataset``.

    Raises:
        ValueError: ``folder`` holds images of another probe and ``resume`` is on, or something else.
    """
    base = model.base if isinstance(model, GuidedModel) else None
    asked = {
        **asdict(settings.drawing), "scheduler": settings.scheduler, "groups": settings.groups, "data": str(data),
        "dtype": dtype, "model": pipeline_identity(model.pipe if isinstance(model, GuidedModel) else model),
        "base": weights_identity(base.network) if base is not None else None,
    }  # fmt: skip
    return ImageStore(folder, asked, resume)


def write_probe(path: Path, settings: ProbeSettings, results: Mapping[tuple[str, str], ProbeResult]) -> None:
    """Settings and results as JSON."""
    written = {f"{name}, {by}": result.as_dict() for (name, by), result in results.items()}
    write_json(path, {"settings": asdict(settings.drawing), "results": written})


def _truth(data: Path) -> dict[str, dict[str, Any]]:
    """The rows of truth.parquet by key."""
    truth = data / "truth.parquet"
    if not truth.is_file():
        raise ValueError(
            f"--data: '{data}' has no truth.parquet; build one with: memsieve data openmoji DIR --plant 6x2000"
        )
    return {row["key"]: row for row in pq.read_table(truth).to_pylist()}


def _chosen_groups(data: Path, wanted: Sequence[str] | None, train: Sequence[dict[str, Any]]) -> Sequence[str]:
    """The groups to probe, of the rows ``train`` of truth.parquet."""
    if wanted is None:
        wanted = list(dict.fromkeys(row["group"] for row in train if row["repeats"] > 1))
        if not wanted:
            raise ValueError(f"--data: '{data}' has no planted pairs; name some with --groups")
    known = {row["group"] for row in train}
    unknown = [group for group in wanted if group not in known]
    if unknown:
        raise ValueError(f"--groups: '{unknown[0]}' is no group of the training split ({len(unknown)} are unknown)")
    return wanted


def _judge(
    similarity: str, pixels: dict[str, Tensor], known: dict[str, str], controls: Sequence[str], held: Sequence[str]
) -> CopyJudge:
    """A judge over one image of each group and the controls, calibrated on the other held-out images."""
    judge = CopyJudge(
        build_similarity(similarity),
        torch.stack([pixels[key] for key in [*known.values(), *controls]]),
        [*known, *(f"control:{key}" for key in controls)],
        keys=[*known.values(), *controls],
    )
    judge.calibrate(torch.stack([pixels[key] for key in held if key not in set(controls)]))
    return judge
