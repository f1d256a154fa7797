"""The measuring itself: prompts through the first steps of the sampler's own trajectory, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from memsieve.filtering.denoisers.base import Conditioning
from memsieve.inference.detect.detectors import DETECTORS, DetectSettings, PromptMeasurement
from memsieve.inference.detect.ordinary import OrdinaryPaths
from memsieve.inference.generate import image_seed
from memsieve.inference.guided import GuidedModel
from memsieve.inference.step import Against

__all__ = ["measure_prompts"]

Array = npt.NDArray[np.float64]


def measure_prompts(
    model: GuidedModel,
    prompts: Sequence[str],
    settings: DetectSettings,
    batch: int = 16,
    noise_of: str | None = None,
    leave: OrdinaryPaths | None = None,
    measures: Sequence[str] | None = None,
) -> Iterator[PromptMeasurement]:
    """Measure ``prompts``, ``batch`` images at a time, in order; a measurement comes as soon as its batch is done.

    Nothing is decoded, and nothing of a trajectory is computed after ``settings.steps``. ``noise_of`` gives all of
    them the noise of one prompt instead of their own, for comparing wordings. With ``leave`` a prompt beyond its limit
    leaves the batch at that step. ``measures`` are what is measured, where it is more than the detector needs.
    """
    n, names = settings.images_per_prompt, tuple(measures or DETECTORS[settings.detector].measures)
    if batch < 1:
        raise ValueError(f"--batch = {batch}: must be at least 1")
    if leave is not None and batch < n:
        raise ValueError(
            f"--early-exit judges all images of a prompt together: --batch = {batch} must be at least "
            f"--images-per-prompt = {n}"
        )
    together = max(1, batch // n)
    for start in range(0, len(prompts), together):
        part, began = list(prompts[start : start + together]), perf_counter()
        encoded, sources = model.encode(part), part if noise_of is None else [noise_of] * len(part)
        against = model.against(part, names)
        jobs = [(index, j) for index in range(len(part)) for j in range(n)]
        measured = [
            _measure(model, _Part(sources, encoded, against, names), jobs[at : at + batch], settings, leave)
            for at in range(0, len(jobs), batch)
        ]
        rows = {name: [row for found in measured for row in found[0][name]] for name in names}
        cosine = np.concatenate([found[1] for found in measured]) if DETECTORS[settings.detector].cosine else None
        seconds = (perf_counter() - began) / len(part)
        for index, prompt in enumerate(part):
            own = None if cosine is None else cosine.reshape(len(part), n)[index]
            per_step = {name: np.stack(found[index * n : (index + 1) * n]) for name, found in rows.items()}
            yield PromptMeasurement(prompt, per_step, own, seconds)


@dataclass(frozen=True, slots=True)
class _Part:
    """Prompts that are measured together: ``prompts`` are those that the noise belongs to, ``encoded`` those that are
    measured, ``against`` what the base is asked about them, ``names`` what is measured."""

    prompts: list[str]
    encoded: Conditioning
    against: Against | None
    names: tuple[str, ...]


def _measure(
    model: GuidedModel, part: _Part, jobs: list[tuple[int, int]], settings: DetectSettings, leave: OrdinaryPaths | None
) -> tuple[dict[str, list[Array]], Array]:
    """By measure [K] each, and cosines [B] (empty where not needed), of the images ``jobs``: (prompt, image number)."""
    texts, numbers = [part.prompts[index] for index, _ in jobs], [j for _, j in jobs]
    rows = torch.tensor([index for index, _ in jobs], device=model.device)
    noise = model.noise(texts, numbers, settings.seed, settings.resolution)
    names, against = part.names, part.against
    # Guidance comes after the first step: where that is all, the branch is not run for it alone.
    guided = settings.steps > 1 or "magnitude" in names
    cond, uncond = part.encoded.rows(rows), model.unconditional(len(jobs)) if guided else None
    generators = [
        torch.Generator("cpu").manual_seed(image_seed(settings.seed + 1, text, j))
        for text, j in zip(texts, numbers, strict=True)
    ]
    steps = model.trajectory(
        noise, cond, uncond, steps=settings.steps, schedule_steps=settings.schedule_steps,
        guidance_scale=settings.guidance_scale, generators=generators,
        against=against.rows(rows) if against is not None else None,
    )  # fmt: skip
    if leave is not None:
        return {names[0]: leave.until_beyond(model, steps, len(jobs), settings)}, np.empty(0)
    values = [[model.measured(step, name, settings.space).cpu() for name in names] for step in steps]
    found = {name: list(torch.stack(column, dim=1).double().numpy()) for name, column in
             zip(names, zip(*values, strict=True), strict=True)}  # fmt: skip
    if not DETECTORS[settings.detector].cosine:
        return found, np.empty(0)
    assert uncond is not None
    return found, _low_noise_cosine(model, noise, cond, uncond, settings)


def _low_noise_cosine(
    model: GuidedModel, noise: Tensor, cond: Conditioning, uncond: Conditioning, settings: DetectSettings
) -> Array:
    """cos(Delta, eps_0) at the schedule's last timestep on pure noise, [B] (Asthana et al., 2026)."""
    timestep = model.timesteps(settings.schedule_steps, settings.resolution)[-1]
    with torch.no_grad():
        with_, without = model.predict(noise, timestep, cond, uncond)
        times = timestep.expand(len(noise))
        eps_0 = model.denoiser.to_epsilon(without, noise, times).flatten(1)
        cosine = torch.nn.functional.cosine_similarity((with_ - without).flatten(1), eps_0, dim=1)
    return cosine.double().cpu().numpy()
