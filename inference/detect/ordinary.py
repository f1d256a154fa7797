"""Ordinary prompts measured in the same way: how a measurement becomes a score and a p-value beside them."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from memsieve.filtering.conformal import conformal_p_value, critical_value, smallest_reference
from memsieve.filtering.statistics import median_and_spread
from memsieve.inference.detect.detectors import Detector, DetectSettings, PromptMeasurement
from memsieve.inference.guided import GuidedModel
from memsieve.inference.step import Step

__all__ = ["OrdinaryPaths", "OrdinaryPrompts"]

Array = npt.NDArray[np.float64]


@dataclass(slots=True)
class OrdinaryPrompts:
    """Ordinary prompts measured in the same way: from a prompt's components to a score and a p-value.

    One component is its own score; several are summed as median / MAD z-scores.
    """

    names: list[str]
    values: Array
    _scores: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.values = self.values[np.isfinite(self.values).all(axis=1)]
        if not len(self.values):
            raise ValueError(
                "the ordinary prompts have no finite measurement: the model gives values that are not finite"
            )
        self._centre, spread = median_and_spread(self.values)
        self._scale = np.maximum(spread, 1e-9)
        self._scores = self.scores(self.values)

    _centre: Array = field(init=False, repr=False)
    _scale: Array = field(init=False, repr=False)

    @classmethod
    def of(cls, detector: Detector, measurements: Sequence[PromptMeasurement]) -> OrdinaryPrompts:
        """From measurements of ordinary prompts."""
        names = list(detector.components)
        rows = [[detector.component_values(m)[name] for name in names] for m in measurements]
        return cls(names, np.asarray(rows, dtype=np.float64).reshape(len(rows), len(names)))

    def component_values(self, detector: Detector, measurement: PromptMeasurement) -> dict[str, float]:
        """The named numbers of a measurement; those in ``names`` make the score."""
        return detector.component_values(measurement)

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
        """The ordinary prompts' own scores, [N]."""
        return self._scores

    def threshold(self, false_positive_rate: float) -> float:
        """The lowest score that no more than this share of ordinary prompts reaches: above it, p <= the rate.

        Raises:
            ValueError: there are too few of them for the rate.
        """
        needed = smallest_reference(false_positive_rate)
        if len(self._scores) < needed:
            raise ValueError(
                f"--false-positive-rate = {false_positive_rate:g} needs at least {needed} ordinary prompts, and "
                f"there are {len(self._scores)}: give more with --ordinary, or take a higher rate"
            )
        return critical_value(self._scores, false_positive_rate)


class OrdinaryPaths(OrdinaryPrompts):
    """Ordinary prompts after each step: what the mean so far is beside theirs, and how far it ever gets.

    Looking after every step gives a prompt many chances. So the level is not that of one step: it is what the wanted
    share of ordinary prompts exceeds at any of their steps, in median / MAD units of each step's log mean.

    Args:
        measurements: of ordinary prompts, all steps.
        false_positive_rate: the wanted share, over the whole path.

    Raises:
        ValueError: too few prompts for the rate.
    """

    def __init__(self, measurements: Sequence[PromptMeasurement], false_positive_rate: float) -> None:
        logs = np.stack([_so_far(m.path) for m in measurements])
        logs = logs[np.isfinite(logs).all(axis=1)]
        if not len(logs):
            raise ValueError(
                "the ordinary prompts have no finite measurement: the model gives values that are not finite"
            )
        self.steps_centre, spread = median_and_spread(logs)
        self.steps_scale = np.maximum(spread, 1e-9)
        path = ((logs - self.steps_centre) / self.steps_scale).max(axis=1)
        super().__init__(["path"], path[:, None])
        self.limit = self.threshold(false_positive_rate)

    def path(self, values: Array) -> float:
        """The highest place of what is measured, [n, k], after any of the k steps; NaN where one is not finite."""
        logs = _so_far(values)
        return float(((logs - self.steps_centre[: len(logs)]) / self.steps_scale[: len(logs)]).max())

    def component_values(self, detector: Detector, measurement: PromptMeasurement) -> dict[str, float]:
        """The detector's numbers over the steps that were run, and the path."""
        return {**detector.component_values(measurement), "path": self.path(measurement.path)}

    def until_beyond(
        self, model: GuidedModel, steps: Generator[Step, Tensor | None, Tensor], count: int, settings: DetectSettings
    ) -> list[Array]:
        """What the detector measures, [k], of each of ``count`` images, prompt by prompt, until a prompt is beyond."""
        n = settings.images_per_prompt
        found: list[list[float]] = [[] for _ in range(count)]
        running, kept = list(range(count // n)), None
        try:
            while running:
                step = steps.send(kept)
                now = model.measured(step, settings.detector, settings.space)
                norms = now.double().cpu().numpy().reshape(len(running), n)
                for prompt, values in zip(running, norms, strict=True):
                    for j, value in enumerate(values):
                        found[prompt * n + j].append(float(value))
                places = [self.path(np.asarray(found[prompt * n : (prompt + 1) * n])) for prompt in running]
                stay = [index for index, place in enumerate(places) if not place > self.limit]
                kept = None
                if len(stay) < len(running):
                    kept = torch.tensor([index * n + j for index in stay for j in range(n)], device=model.device)
                running = [running[index] for index in stay]
        except StopIteration:
            pass
        return [np.asarray(values) for values in found]


def _so_far(values: Array) -> Array:
    """Log of the mean over images and over the steps so far, [K]."""
    steps = values.mean(axis=0)
    logs: Array = np.log(np.maximum(np.cumsum(steps) / np.arange(1, len(steps) + 1), 1e-12))
    return logs
