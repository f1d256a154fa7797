"""What is measured of a prompt, by name, and how it becomes a score and a p-value beside ordinary prompts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from filtering.calibration import MAD_TO_SIGMA, conformal_p_value
from filtering.denoisers.base import Conditioning
from inference.generate import image_seed
from inference.guided import SPACES, GuidedModel

__all__ = ["DETECTORS", "DetectSettings", "Detector", "Measurement", "Reference", "measure_prompts"]

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
    """

    detector: str = "magnitude"
    steps: int = 1
    schedule_steps: int = 50
    images_per_prompt: int = 1
    guidance_scale: float = 7.5
    seed: int = 0
    space: str = "auto"
    resolution: int | None = None

    def __post_init__(self) -> None:
        if self.detector not in DETECTORS:
            raise ValueError(f"--detector = '{self.detector}': must be one of {', '.join(DETECTORS)}")
        if self.space not in SPACES:
            raise ValueError(f"--space = '{self.space}': must be one of {', '.join(SPACES)}")
        if self.images_per_prompt < 1:
            raise ValueError(f"--images-per-prompt = {self.images_per_prompt}: must be at least 1")
        if not 1 <= self.steps <= self.schedule_steps:
            raise ValueError(f"--steps = {self.steps}: must be from 1 to --schedule-steps = {self.schedule_steps}")
        if not self.guidance_scale > 1 or not math.isfinite(self.guidance_scale):
            raise ValueError(
                f"--guidance-scale = {self.guidance_scale:g}: must be above 1; without guidance the sampler never runs "
                "the unconditional branch that the magnitude compares with"
            )


@dataclass(frozen=True, slots=True)
class Measurement:
    """One prompt: ``magnitudes`` [n images, K steps] float64, ``cosine`` [n] or None, and the seconds it took."""

    prompt: str
    magnitudes: Array
    cosine: Array | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Detector:
    """Named numbers of a measurement, each higher where a prompt is more likely memorised."""

    name: str
    components: Mapping[str, Callable[[Measurement], float]]
    cosine: bool
    source: str

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


DETECTORS: Final[dict[str, Detector]] = {
    "magnitude": Detector("magnitude", {"magnitude": _mean}, False, "Wen et al., ICLR 2024, Eq. 3"),
    "magnitude_cosine": Detector(
        "magnitude_cosine",
        {"log_magnitude": _log_mean, "cosine": _cosine},
        True,
        "Asthana et al., ICLR 2026; their hand-set weights are replaced by z-scores beside the reference",
    ),
}


@dataclass(slots=True)
class Reference:
    """Ordinary prompts measured in the same way: from a prompt's components to a score and a p-value.

    One component is its own score; several are summed as median / MAD z-scores.
    """

    names: list[str]
    values: Array
    _scores: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.values = self.values[np.isfinite(self.values).all(axis=1)]
        if not len(self.values):
            raise ValueError("the reference holds no finite measurement: the model gives values that are not finite")
        self._centre = np.median(self.values, axis=0)
        spread = MAD_TO_SIGMA * np.median(np.abs(self.values - self._centre), axis=0)
        self._scale = np.maximum(spread, 1e-9)
        self._scores = self.scores(self.values)

    _centre: Array = field(init=False, repr=False)
    _scale: Array = field(init=False, repr=False)

    @classmethod
    def of(cls, detector: Detector, measurements: Sequence[Measurement]) -> Reference:
        """From measurements of ordinary prompts."""
        names = list(detector.components)
        rows = [[detector.evidence(m)[name] for name in names] for m in measurements]
        return cls(names, np.asarray(rows, dtype=np.float64).reshape(len(rows), len(names)))

    def scores(self, values: Array) -> Array:
        """Scores [N] of component values [N, C]."""
        if len(self.names) == 1:
            return values[:, 0]
        total: Array = ((values - self._centre) / self._scale).sum(axis=1)
        return total

    def p_values(self, scores: Array) -> Array:
        """p = (1 + ordinary prompts that score at least as high) / (1 + ordinary prompts), [N]; NaN stays NaN."""
        return conformal_p_value(scores, self._scores)

    @property
    def ordinary_scores(self) -> Array:
        """The reference prompts' own scores, [N]."""
        return self._scores

    def threshold(self, false_positive_rate: float) -> float:
        """The lowest score that no more than this share of ordinary prompts reaches: above it, p <= the rate.

        Raises:
            ValueError: the reference is too small for the rate.
        """
        needed = math.ceil(1 / false_positive_rate - 1e-9) - 1
        if len(self._scores) < needed:
            raise ValueError(
                f"--false-positive-rate = {false_positive_rate:g} needs at least {needed} ordinary prompts, the "
                f"reference has {len(self._scores)}: give more with --ordinary, or take a higher rate"
            )
        allowed = math.floor(false_positive_rate * (len(self._scores) + 1) + 1e-9) - 1
        return float(np.sort(self._scores)[len(self._scores) - 1 - allowed])


def measure_prompts(
    model: GuidedModel,
    prompts: Sequence[str],
    settings: DetectSettings,
    batch: int = 16,
    noise_of: str | None = None,
) -> Iterator[Measurement]:
    """Measure ``prompts``, ``batch`` images at a time, in order; a measurement comes as soon as its batch is done.

    Nothing is decoded, and nothing of a trajectory is computed after ``settings.steps``. ``noise_of`` gives all of
    them the noise of one prompt instead of their own, for comparing wordings.
    """
    if batch < 1:
        raise ValueError(f"--batch = {batch}: must be at least 1")
    n = settings.images_per_prompt
    together = max(1, batch // n)
    for start in range(0, len(prompts), together):
        part, began = list(prompts[start : start + together]), perf_counter()
        encoded, sources = model.encode(part), part if noise_of is None else [noise_of] * len(part)
        jobs = [(index, j) for index in range(len(part)) for j in range(n)]
        measured = [
            _measure(model, sources, encoded, jobs[at : at + batch], settings) for at in range(0, len(jobs), batch)
        ]
        magnitudes = np.concatenate([found[0] for found in measured]).reshape(len(part), n, settings.steps)
        cosine = np.concatenate([found[1] for found in measured]) if DETECTORS[settings.detector].cosine else None
        seconds = (perf_counter() - began) / len(part)
        for index, prompt in enumerate(part):
            own = None if cosine is None else cosine.reshape(len(part), n)[index]
            yield Measurement(prompt, magnitudes[index], own, seconds)


def _measure(
    model: GuidedModel, prompts: list[str], encoded: Conditioning, jobs: list[tuple[int, int]], settings: DetectSettings
) -> tuple[Array, Array]:
    """Magnitudes [B, K] and cosines [B] (empty where not needed) of the images ``jobs``: (prompt, image number).

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
    norms = torch.stack([model.magnitude(step, settings.space).cpu() for step in steps], dim=1)
    if not DETECTORS[settings.detector].cosine:
        return norms.double().numpy(), np.empty(0)
    return norms.double().numpy(), _low_noise_cosine(model, noise, cond, uncond, settings)


def _low_noise_cosine(
    model: GuidedModel, noise: torch.Tensor, cond: Conditioning, uncond: Conditioning, settings: DetectSettings
) -> Array:
    """cos(Delta, eps_0) at the schedule's last timestep on pure noise, [B] (Asthana et al., 2026)."""
    timestep = model.timesteps(settings.schedule_steps, settings.resolution)[-1]
    with torch.no_grad():
        with_, without = model.predict(noise, timestep, cond, uncond)
        times = timestep.expand(len(noise))
        eps_0 = model.denoiser.to_epsilon(without, noise, times).flatten(1)
        cosine = torch.nn.functional.cosine_similarity((with_ - without).flatten(1), eps_0, dim=1)
    return cosine.double().cpu().numpy()
