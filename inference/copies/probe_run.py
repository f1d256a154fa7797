"""The probe of a dataset: its most repeated (or named) pairs by caption and by attacks, beside held-out controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from memsieve.filtering.conformal import smallest_reference
from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.held_out import held_out_rows
from memsieve.filtering.data.rows import Row
from memsieve.filtering.data.small import TrainingPairs, training_pairs
from memsieve.filtering.files import write_json
from memsieve.filtering.types import group_name
from memsieve.inference.copies.attack import AttackSettings, Target, attack_pairs
from memsieve.inference.copies.extract import extract_pairs
from memsieve.inference.copies.judge import DEFAULT_ALPHA, CopyJudge
from memsieve.inference.copies.probe import ProbeResult, Prompt, probe_model
from memsieve.inference.copies.similarity import build_similarity
from memsieve.inference.generate import GenerateSettings
from memsieve.inference.guided import GuidedModel
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
        groups: to probe, by the names that evidence adds up under; those with the most rows if left out.
        most: pairs that are probed, if ``groups`` is left out.
        controls: held-out pairs that are attacked alike.
        similarity: by which images are compared.
    """

    attack: bool = False
    drawing: AttackSettings = field(default_factory=AttackSettings)
    scheduler: str = "auto"
    groups: Sequence[str] | None = None
    most: int = 16
    controls: int = 8
    similarity: str = "pixel_l2"


def probe_dataset(
    model: Any, data: DataConfig, settings: ProbeSettings, *, store: ImageStore | None = None, progress: bool = True
) -> dict[tuple[str, str], ProbeResult]:
    """(pairs, way) -> result: the pairs by caption; with ``attack`` the pairs and the controls by embedding, and, where
    the model before fine-tuning is known, by what lies beyond the model (``inference/copies/extract.py``).

    The controls are held-out images, which the model never saw. They stand in the judge's gallery beside the training
    images, so that they can come back at all, and not among the images that calibrate it. The gallery are the first 512
    pictures of the data, and those named. ``model`` is any text-to-image pipeline; an attack needs one that
    ``open_model`` takes, or what it gives, with its base.

    Args:
        data: the training pairs; ``held_out_path`` names pictures that were never trained on.

    Raises:
        ValueError: an unknown group, no pair with a caption, or too few held-out images.
    """
    pairs = training_pairs(data)
    pairs = pairs if settings.groups is None else pairs.with_groups(data, settings.groups)
    chosen, held = _chosen(data, pairs, settings), _held_out(data, settings)
    opened = open_model(model, scheduler=settings.scheduler) if settings.attack else None
    pipe, drawing = model.pipe if isinstance(model, GuidedModel) else model, settings.drawing
    controls = held[: settings.controls] if settings.attack else []
    judge = _judge(settings.similarity, pairs.rows, controls, held[len(controls) :])
    prompts = [Prompt(pairs.captions[g][0], g, row.key, pairs.repeats[g]) for g, row in chosen.items()]
    drawn = GenerateSettings(steps=drawing.steps, guidance_scale=drawing.guidance_scale, seed=drawing.seed, batch=24)
    kept: dict[str, Any] = {"progress": progress, "store": store}
    by_caption = probe_model(pipe, prompts, judge, seeds=drawing.images, settings=drawn, **kept)
    results = {("chosen pairs", "caption"): by_caption}
    if opened is not None:
        targets = [Target(p.caption, p.group, chosen[p.group].pixels) for p in prompts]
        others = [Target(row.caption, f"control:{row.key}", row.pixels) for row in controls]
        results["chosen pairs", "attack"] = attack_pairs(opened, targets, judge, drawing, **kept)
        if others:
            results["held-out controls", "attack"] = attack_pairs(opened, others, judge, drawing, **kept)
        if opened.base is not None:
            results["chosen pairs", "base"] = extract_pairs(opened, targets, judge, drawing, **kept)
            if others:
                results["held-out controls", "base"] = extract_pairs(opened, others, judge, drawing, **kept)
    return results


def probe_store(
    folder: Path, model: Any, data: DataConfig, settings: ProbeSettings, dtype: str, resume: bool
) -> ImageStore:
    """Where a probe keeps the images that it draws, so that it can go on with them; ``model`` as for ``probe_dataset``.

    Raises:
        ValueError: ``folder`` holds images of another probe and ``resume`` is on, or something else.
    """
    base = model.base if isinstance(model, GuidedModel) else None
    asked = {
        **asdict(settings.drawing), "scheduler": settings.scheduler, "groups": settings.groups, "data": data.path,
        "dtype": dtype, "model": pipeline_identity(model.pipe if isinstance(model, GuidedModel) else model),
        "base": weights_identity(base.network) if base is not None else None,
    }  # fmt: skip
    return ImageStore(folder, asked, resume)


def write_probe(path: Path, settings: ProbeSettings, results: Mapping[tuple[str, str], ProbeResult]) -> None:
    """Settings and results as JSON."""
    written = {f"{name}, {by}": result.as_dict() for (name, by), result in results.items()}
    write_json(path, {"settings": asdict(settings.drawing), "results": written})


def _chosen(data: DataConfig, pairs: TrainingPairs, settings: ProbeSettings) -> dict[str, Row]:
    """The groups to probe, and a picture of each."""
    captioned = [group for group, captions in pairs.captions.items() if captions]
    wanted = settings.groups
    if wanted is None:
        wanted = sorted(captioned, key=lambda group: -pairs.repeats[group])[: settings.most]
        if not wanted:
            raise ValueError(f"--data: no pair of '{data.path}' has a caption that could be drawn")
    unknown = [group for group in wanted if group not in captioned]
    if unknown:
        raise ValueError(
            f"--groups: '{unknown[0]}' is no group with a caption of the training pairs ({len(unknown)} are unknown)"
        )
    pictures = {group_name(row.group): row for row in reversed(pairs.rows)}
    return {group: pictures[group] for group in wanted}


def _held_out(data: DataConfig, settings: ProbeSettings) -> list[Row]:
    """Controls, and the pictures that say how near is a copy.

    Raises:
        ValueError: there are too few.
    """
    held, controls = held_out_rows(data, 0), settings.controls if settings.attack else 0
    needed = controls + smallest_reference(DEFAULT_ALPHA)
    if len(held) < needed:
        raise ValueError(
            f"--held-out: {needed} pictures that were never trained on are needed ({controls} of them as controls of "
            f"the attack), there are {len(held)}; name more, or take fewer --controls"
        )
    return held


def _judge(similarity: str, rows: Sequence[Row], controls: Sequence[Row], held_out: Sequence[Row]) -> CopyJudge:
    """A judge over the training pictures and the controls, calibrated on the other held-out pictures."""
    judge = CopyJudge(
        build_similarity(similarity),
        torch.stack([row.pixels for row in [*rows, *controls]]),
        [*(group_name(row.group) for row in rows), *(f"control:{row.key}" for row in controls)],
        keys=[row.key for row in [*rows, *controls]],
    )
    judge.calibrate(torch.stack([row.pixels for row in held_out]))
    return judge
