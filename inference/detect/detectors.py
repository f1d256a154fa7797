"""The detectors by name: how prompts are measured for them, and which numbers of a measurement they look at."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from memsieve.inference.step import SPACES

__all__ = ["DETECTORS", "WITH_BASE", "DetectSettings", "Detector", "PromptMeasurement"]

Array = npt.NDArray[np.float64]
BY_STEP: Final = ("magnitude", "drift", "anchored_magnitude")
"""Detectors whose score is the mean of one number over the steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectSettings:
    """How prompts are measured; ordinary prompts only compare with those measured with the same settings.

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
        if self.early_exit and (self.detector not in BY_STEP or self.steps < 2):
            raise ValueError(
                f"--early-exit looks at one number after each of several steps: it needs --detector "
                f"{', '.join(BY_STEP[:-1])} or {BY_STEP[-1]} and --steps of at least 2, not '{self.detector}' and "
                f"{self.steps}"
            )


@dataclass(frozen=True, slots=True)
class PromptMeasurement:
    """One prompt: ``per_step``, by measure [n images, K steps] float64, ``cosine`` [n] or None, and the seconds that it
    took.

    K is smaller than asked for where the prompt left early.
    """

    prompt: str
    per_step: dict[str, Array]
    cosine: Array | None
    seconds: float

    @property
    def magnitudes(self) -> Array:
        """The paper's, [n, K]."""
        return self.per_step["magnitude"]

    @property
    def path(self) -> Array:
        """What the detector measures first, [n, K]."""
        return next(iter(self.per_step.values()))

    @property
    def steps(self) -> int:
        """That were run."""
        return int(self.path.shape[1])


@dataclass(frozen=True, slots=True)
class Detector:
    """Named numbers of a measurement, each higher where a prompt stands out more.

    ``share`` is how much of the schedule has to be run, from 0; ``measures`` what is measured of each step.
    """

    name: str
    components: dict[str, Callable[[PromptMeasurement], float]]
    cosine: bool
    source: str
    share: float = 0.0
    measures: tuple[str, ...] = ("magnitude",)

    @property
    def against_base(self) -> bool:
        """Whether it compares with the model before fine-tuning."""
        return self.measures != ("magnitude",)

    def component_values(self, measurement: PromptMeasurement) -> dict[str, float]:
        """Component -> value."""
        return {name: function(measurement) for name, function in self.components.items()}


def _mean(measurement: PromptMeasurement) -> float:
    return float(measurement.magnitudes.mean())


def _log_mean(measurement: PromptMeasurement) -> float:
    return float(np.log(max(measurement.magnitudes.mean(), 1e-12)))


def _cosine(measurement: PromptMeasurement) -> float:
    assert measurement.cosine is not None
    return float(measurement.cosine.mean())


def _log_early(measurement: PromptMeasurement) -> float:
    """Mean log magnitude of the first fifth of the steps."""
    return float(_log_steps(measurement)[: _fifth(measurement)].mean())


def _fall(measurement: PromptMeasurement) -> float:
    """How far the mean log magnitude falls from the first fifth of the steps to the rest."""
    logs, fifth = _log_steps(measurement), _fifth(measurement)
    return float(logs[:fifth].mean() - logs[fifth:].mean())


def _mean_of(measure: str) -> Callable[[PromptMeasurement], float]:
    return lambda measurement: float(measurement.per_step[measure].mean())


def _log_mean_of(measure: str) -> Callable[[PromptMeasurement], float]:
    return lambda measurement: float(np.log(max(measurement.per_step[measure].mean(), 1e-12)))


def _log_steps(measurement: PromptMeasurement) -> Array:
    logs: Array = np.log(np.maximum(measurement.magnitudes.mean(axis=0), 1e-12))
    return logs


def _fifth(measurement: PromptMeasurement) -> int:
    return max(1, measurement.magnitudes.shape[1] // 5)


DETECTORS: Final[dict[str, Detector]] = {
    "magnitude": Detector("magnitude", {"magnitude": _mean}, False, "Wen et al., ICLR 2024, Eq. 3"),
    "magnitude_cosine": Detector(
        "magnitude_cosine",
        {"log_magnitude": _log_mean, "cosine": _cosine},
        True,
        "Asthana et al., ICLR 2026; their hand-set weights are replaced by z-scores beside ordinary prompts",
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
    # Against the model before fine-tuning, which has not learned the pair in either branch.
    "drift": Detector(
        "drift", {"drift": _mean_of("drift")}, False, "the conditional prediction against the base's",
        measures=("drift",),
    ),
    "anchored_magnitude": Detector(
        "anchored_magnitude", {"anchored_magnitude": _mean_of("anchored_magnitude")}, False,
        "Wen et al., ICLR 2024, with the base's unconditional branch", measures=("anchored_magnitude",),
    ),
    "against_base": Detector(
        "against_base",
        {"log_drift": _log_mean_of("drift"), "log_anchored_magnitude": _log_mean_of("anchored_magnitude")},
        False, "drift and anchored magnitude together", measures=("drift", "anchored_magnitude"),
    ),
}  # fmt: skip
WITH_BASE: Final = "drift"
"""The detector where the model before fine-tuning is known and nothing else is asked for."""
