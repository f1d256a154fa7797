"""What is measured of a prompt, by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from memsieve.filtering.denoisers.base import Conditioning
from memsieve.inference.generate import image_seed
from memsieve.inference.guided import SPACES, GuidedModel

if TYPE_CHECKING:
    from memsieve.inference.detect.ordinary import PathReference

__all__ = ["DETECTORS", "DetectSettings", "Detector", "Measurement", "measure_prompts"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectSettings:
    """How prompts are measured; a reference holds only for the settings that it was measured with.

    Args:
        detector: a name from ``DETECTORS``.
        steps: of the sampler that are run and averaged; nothing after them is computed.
        schedule_steps: length of the schedule that ``steps`` begins.
        images_per_prompt: initial noises, averaged.
        guidance_scale: of the trajectory; the first step does not depend on it.
        seed: with the prompt's own text it fixes the noise.
        space: ``auto`` measures in epsilon space where that says something, ``epsilon``, or ``native``.
        resolution: pixels a side; the model's own where left out.
        early_exit: stop a prompt at the first step at which it is beyond all but the wanted share of ordinary prompts.
    """

    detector: str = "magnitude"
    steps: int = 1
    schedule_steps: int = 50
    images_per_prompt: int = 1
    guidance_scale: float = 7.5
    seed: int = 0
    space: str = "auto"
    resolution: int | None = None
    early_exit: bool = False

    def __post_init__(self) -> None:
        if self.detector not in DETECTORS:
            raise ValueError(f"--detector = '{self.detector}': must be one of {', '.join(DETECTORS)}")
        if self.space not in SPACES:
            raise ValueError(f"--space = '{self.space}': must be one of {', '.join(SPACES)}")
        if self.images_per_prompt < 1:
            raise ValueError(f"--images-per-prompt = {self.images_per_prompt}: must be at least 1")
        if not 1 <= self.steps <= self.schedule_steps:
            raise ValueError(f"--steps = {self.steps}: must be from 1 to --schedule-steps = {self.schedule_steps}")
        self._check_detector()
        if not self.guidance_scale > 1 or not math.isfinite(self.guidance_scale):
            raise ValueError(
                f"--guidance-scale = {self.guidance_scale:g}: must be above 1; without guidance the sampler never runs "
                "the unconditional branch that the magnitude compares with"
            )

    def _check_detector(self) -> None:
        least = math.ceil(DETECTORS[self.detector].share * self.schedule_steps)
        if self.steps < least:
            raise ValueError(
                f"--detector = '{self.detector}' compares the beginning of the schedule with what follows: --steps = "
                f"{self.steps} must be at least {least} of --schedule-steps = {self.schedule_steps}"
            )
        if self.early_exit and (self.detector != "magnitude" or self.steps < 2):
            raise ValueError(
                "--early-exit looks at the magnitude after each of several steps: it needs --detector magnitude and "
                f"--steps of at least 2, not '{self.detector}' and {self.steps}"
            )


@dataclass(frozen=True, slots=True)
class Measurement:
    """One prompt: ``magnitudes`` [n images, K steps] float64, ``cosine`` [n] or None, and the seconds it took.

    K is smaller than asked for where the prompt left early.
    """

    prompt: str
    magnitudes: Array
    cosine: Array | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Detector:
    """Named numbers of a measurement, each higher where a prompt is more likely memorised.

    ``share`` is how much of the schedule has to be run, from 0.
    """

    name: str
    components: dict[str, Callable[[Measurement], float]]
    cosine: bool
    source: str
    share: float = 0.0

    def evidence(self, measurement: Measurement) -> dict[str, float]:
        """Component -> value."""
        return {name: function(measurement) for name, function in self.components.items()}


def _mean(measurement: Measurement) -> float:
    return float(measurement.magnitudes.mean())


def _log_mean(measurement: Measurement) -> float:
    return float(np.log(max(measurement.magnitudes.mean(), 1e-12)))


def _cosine(measurement: Measurement) -> float:
    assert measurement.cosine is not None
    return float(measurement.cosine.mean())


def _log_early(measurement: Measurement) -> float:
    """Mean log magnitude of the first fifth of the steps."""
    return float(_log_steps(measurement)[: _fifth(measurement)].mean())


def _fall(measurement: Measurement) -> float:
    """How far the mean log magnitude falls from the first fifth of the steps to the rest."""
    logs, fifth = _log_steps(measurement), _fifth(measurement)
    return float(logs[:fifth].mean() - logs[fifth:].mean())


def _log_steps(measurement: Measurement) -> Array:
    logs: Array = np.log(np.maximum(measurement.magnitudes.mean(axis=0), 1e-12))
    return logs


def _fifth(measurement: Measurement) -> int:
    return max(1, measurement.magnitudes.shape[1] // 5)


DETECTORS: Final[dict[str, Detector]] = {
    "magnitude": Detector("magnitude", {"magnitude": _mean}, False, "Wen et al., ICLR 2024, Eq. 3"),
    "magnitude_cosine": Detector(
        "magnitude_cosine",
        {"log_magnitude": _log_mean, "cosine": _cosine},
        True,
        "Asthana et al., ICLR 2026; their hand-set weights are replaced by z-scores beside the reference",
    ),
    # For models whose unconditional branch has learned the planted images as well: once the trajectory has found the
    # image, both branches agree and the magnitude collapses, which the mean over all steps takes for innocence.
    "magnitude_fall": Detector(
        "magnitude_fall",
        {"log_early": _log_early, "fall": _fall},
        False,
        "the magnitude's collapse inside an attraction basin, cf. Jain et al., CVPR 2025",
        share=0.5,
    ),
}


def measure_prompts(
    model: GuidedModel,
    prompts: Sequence[str],
    settings: DetectSettings,
    batch: int = 16,
    noise_of: str | None = None,
    leave: PathReference | None = None,
) -> Iterator[Measurement]:
    """Measure ``prompts``, ``batch`` images at a time, in order; a measurement comes as soon as its batch is done.

    Nothing is decoded, and nothing of a trajectory is computed after ``settings.steps``. ``noise_of`` gives all of
    them the noise of one prompt instead of their own, for comparing wordings. With ``leave`` a prompt beyond its limit
    leaves the batch at that step.
    """
    n = settings.images_per_prompt
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
        jobs = [(index, j) for index in range(len(part)) for j in range(n)]
        measured = [
            _measure(model, sources, encoded, jobs[at : at + batch], settings, leave)
            for at in range(0, len(jobs), batch)
        ]
        magnitudes = [row for found in measured for row in found[0]]
        cosine = np.concatenate([found[1] for found in measured]) if DETECTORS[settings.detector].cosine else None
        seconds = (perf_counter() - began) / len(part)
        for index, prompt in enumerate(part):
            own = None if cosine is None else cosine.reshape(len(part), n)[index]
            yield Measurement(prompt, np.stack(magnitudes[index * n : (index + 1) * n]), own, seconds)


def _measure(
    model: GuidedModel, prompts: list[str], encoded: Conditioning, jobs: list[tuple[int, int]],
    settings: DetectSettings, leave: PathReference | None,
) -> tuple[list[Array], Array]:  # fmt: skip
    """Magnitudes [K] each and cosines [B] (empty where not needed) of the images ``jobs``: (prompt, image number).

    ``prompts`` are those that the noise belongs to, ``encoded`` those that are measured.
    """
    texts, numbers = [prompts[index] for index, _ in jobs], [j for _, j in jobs]
    rows = torch.tensor([index for index, _ in jobs], device=model.device)
    noise = model.noise(texts, numbers, settings.seed, settings.resolution)
    cond, uncond = encoded.rows(rows), model.unconditional(len(jobs))
    generators = [
        torch.Generator("cpu").manual_seed(image_seed(settings.seed + 1, text, j))
        for text, j in zip(texts, numbers, strict=True)
    ]
    steps = model.trajectory(
        noise, cond, uncond, steps=settings.steps, schedule_steps=settings.schedule_steps,
        guidance_scale=settings.guidance_scale, generators=generators,
    )  # fmt: skip
    if leave is not None:
        return leave.until_beyond(model, steps, len(jobs), settings), np.empty(0)
    norms = torch.stack([model.magnitude(step, settings.space).cpu() for step in steps], dim=1).double().numpy()
    if not DETECTORS[settings.detector].cosine:
        return list(norms), np.empty(0)
    return list(norms), _low_noise_cosine(model, noise, cond, uncond, settings)


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
