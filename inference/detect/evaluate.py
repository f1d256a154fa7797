"""How well a detector separates memorised from ordinary prompts, resampling groups of near-identical prompts.

148 of the 500 prompts of the public list begin alike; resampling prompts one by one would treat them as independent.
Whole groups of near-identical prompts are resampled instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from memsieve.filtering.statistics import auc
from memsieve.inference.detect.detectors import DETECTORS, DetectSettings, PromptMeasurement
from memsieve.inference.detect.kept import KeptMeasurements
from memsieve.inference.detect.measure import measure_prompts
from memsieve.inference.detect.ordinary import OrdinaryPrompts
from memsieve.inference.generate import for_each_prompt, guidance_arguments
from memsieve.inference.guided import GuidedModel
from memsieve.inference.progress import progress_bar
from memsieve.inference.prompts.near_identical import prompt_groups

__all__ = ["DetectorResult", "Estimate", "EvaluationSettings", "evaluate_detector", "seconds_to_generate", "tpr_at_fpr"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with the percentile interval of a bootstrap over groups."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class DetectorResult:
    """One setting: ``auc``, ``tpr`` at ``fpr``, and seconds per prompt measured at that setting alone."""

    detector: str
    steps: int
    images_per_prompt: int
    memorized: int
    memorized_groups: int
    ordinary: int
    ordinary_groups: int
    auc: Estimate
    tpr: Estimate
    fpr: float
    seconds_per_prompt: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings:
    """What is compared, and how closely.

    Args:
        detect: how prompts are measured; ``steps`` and ``images`` take the place of its own.
        steps: numbers of steps, each a setting together with each of ``images``.
        images: numbers of initial noises.
        fpr: the false-positive rate at which the TPR is given.
        resamples: of the bootstrap.
        batch: images at a time.
        timed_prompts: prompts that are measured once more at each setting, for its seconds.
    """

    detect: DetectSettings
    steps: Sequence[int] = (1,)
    images: Sequence[int] = (1,)
    fpr: float = 0.01
    resamples: int = 2000
    batch: int = 16
    timed_prompts: int = 16

    @property
    def longest(self) -> DetectSettings:
        """The setting that all others are a part of."""
        return replace(self.detect, steps=max(self.steps), images_per_prompt=max(self.images))


def tpr_at_fpr(memorized: Array, ordinary: Array, fpr: float = 0.01) -> float:
    """Share of memorised prompts above a threshold that at most ``fpr`` of the ordinary ones reach.

    With fewer than 1/fpr ordinary prompts no ordinary one may reach it.
    """
    allowed = int(np.floor(fpr * len(ordinary) + 1e-9))
    threshold = np.sort(ordinary)[len(ordinary) - 1 - allowed]
    return float((memorized > threshold).mean())


def evaluate_detector(
    model: GuidedModel,
    memorized: Sequence[str],
    ordinary: Sequence[str],
    settings: EvaluationSettings,
    *,
    groups: tuple[Sequence[str | None], Sequence[str | None]] | None = None,
    kept: KeptMeasurements | None = None,
    progress: bool = True,
) -> list[DetectorResult]:
    """One result for each pair of ``settings.steps`` and ``settings.images``; all from one measurement of the longest.

    Args:
        groups: which prompts of each list belong together where this is known (None: by ``prompt_groups``).
        kept: measurements of the longest setting made before, to which each new one is added.

    Raises:
        ValueError: a list is empty, or a prompt is in both.
    """
    both = set(memorized) & set(ordinary)
    if both:
        raise ValueError(f"{len(both)} prompts are in --memorized and in --ordinary, '{sorted(both)[0]}' for one")
    if not memorized or not ordinary:
        raise ValueError("--memorized and --ordinary must both hold at least one prompt")
    prompts, cut = [*memorized, *ordinary], len(memorized)
    measured = _measured(model, prompts, settings, kept, progress)
    numbers = _group_numbers(prompts, groups, cut)
    results = []
    for k in settings.steps:
        for n in settings.images:
            setting = replace(settings.detect, steps=k, images_per_prompt=n)
            scores = _scores([_shortened(m, k, n) for m in measured], cut, setting.detector)
            seconds = _seconds(model, ordinary[: settings.timed_prompts], setting, settings.batch)
            results.append(_result(scores, numbers, cut, setting, settings, seconds))
    return results


def _measured(
    model: GuidedModel, prompts: Sequence[str], settings: EvaluationSettings, kept: KeptMeasurements | None,
    progress: bool,
) -> list[PromptMeasurement]:  # fmt: skip
    """The longest measurement of each prompt: of those that are kept, and of the missing ones."""
    found = {} if kept is None else dict(kept.known)
    missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in found]
    with progress_bar(progress) as bar:
        task = bar.add_task("prompts", total=len(missing))
        for measurement in measure_prompts(model, missing, settings.longest, settings.batch):
            found[measurement.prompt] = measurement
            if kept is not None:
                kept.keep(measurement)
            bar.advance(task)
    return [found[prompt] for prompt in prompts]


def seconds_to_generate(model: GuidedModel, prompts: Sequence[str], settings: DetectSettings, batch: int = 16) -> float:
    """Seconds per image of a plain generation of all ``schedule_steps``, decoded, measured on ``prompts``."""
    began = perf_counter()
    for start in range(0, len(prompts), batch):
        part = list(prompts[start : start + batch])
        guided = for_each_prompt(guidance_arguments(model.pipe, settings.guidance_scale), len(part))
        model.pipe(
            prompt=part, num_inference_steps=settings.schedule_steps, output_type="pt", **guided,
        )  # fmt: skip
    return (perf_counter() - began) / len(prompts)


def _shortened(measurement: PromptMeasurement, steps: int, images: int) -> PromptMeasurement:
    cosine = None if measurement.cosine is None else measurement.cosine[:images]
    per_step = {name: values[:images, :steps] for name, values in measurement.per_step.items()}
    return PromptMeasurement(measurement.prompt, per_step, cosine, measurement.seconds)


def _scores(measured: Sequence[PromptMeasurement], cut: int, name: str) -> Array:
    """Scores of all prompts; a detector with several components is scaled by the ordinary ones."""
    detector = DETECTORS[name]
    ordinary = OrdinaryPrompts.of(detector, measured[cut:])
    values = [[detector.component_values(m)[part] for part in ordinary.names] for m in measured]
    scores = ordinary.scores(np.asarray(values, dtype=np.float64))
    if not np.isfinite(scores).all():
        raise ValueError("the model gives values that are not finite for some prompts; nothing can be evaluated")
    return scores


def _group_numbers(
    prompts: Sequence[str], groups: tuple[Sequence[str | None], Sequence[str | None]] | None, cut: int
) -> npt.NDArray[np.int64]:
    """Groups within each list; where a name is given it counts, else near-identity does."""
    numbers: list[int] = []
    for side, part in enumerate((prompts[:cut], prompts[cut:])):
        found: list[Any] = list(prompt_groups(part))
        if groups is not None:
            found = [name if name is not None else number for name, number in zip(groups[side], found, strict=True)]
        known: dict[Any, int] = {}
        numbers += [known.setdefault(name, len(known)) for name in found]
    return np.asarray(numbers, dtype=np.int64)


def _result(
    scores: Array, groups: npt.NDArray[np.int64], cut: int, setting: DetectSettings, settings: EvaluationSettings,
    seconds: float,
) -> DetectorResult:  # fmt: skip
    """The estimates of one ``setting``, with intervals from resampled groups."""
    fpr, resamples = settings.fpr, settings.resamples
    memorized, ordinary = scores[:cut], scores[cut:]
    rng = np.random.default_rng(setting.seed)
    drawn = np.empty((resamples, 2))
    members = [[np.flatnonzero(part == g) for g in range(part.max() + 1)] for part in (groups[:cut], groups[cut:])]
    for number in range(resamples):
        first, second = (
            np.concatenate([side[g] for g in rng.integers(0, len(side), len(side))]) for side in members
        )  # fmt: skip
        drawn[number] = auc(memorized[first], ordinary[second]), tpr_at_fpr(memorized[first], ordinary[second], fpr)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    return DetectorResult(
        detector=setting.detector,
        steps=setting.steps,
        images_per_prompt=setting.images_per_prompt,
        memorized=cut,
        memorized_groups=len(members[0]),
        ordinary=len(ordinary),
        ordinary_groups=len(members[1]),
        auc=Estimate(auc(memorized, ordinary), float(low[0]), float(high[0])),
        tpr=Estimate(tpr_at_fpr(memorized, ordinary, fpr), float(low[1]), float(high[1])),
        fpr=fpr,
        seconds_per_prompt=seconds,
    )


def _seconds(model: GuidedModel, prompts: Sequence[str], setting: DetectSettings, batch: int) -> float:
    began = perf_counter()
    for _ in measure_prompts(model, prompts, setting, batch):
        pass
    return (perf_counter() - began) / len(prompts)
