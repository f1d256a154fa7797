"""Which prompts has a model memorised? Wen et al.'s magnitude along the sampler's own trajectory, as p-values.

results = detect("path/to/pipeline", ["a prompt", "another"])
[r.prompt for r in results if r.flagged]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.progress import Progress

from memsieve.filtering.conformal import smallest_reference
from memsieve.inference.detect.detectors import DETECTORS, DetectSettings, PromptMeasurement
from memsieve.inference.detect.measure import measure_prompts
from memsieve.inference.detect.ordinary import OrdinaryPaths, OrdinaryPrompts
from memsieve.inference.explain.words import cut_text
from memsieve.inference.guided import GuidedModel
from memsieve.inference.opened import open_model
from memsieve.inference.progress import progress_bar
from memsieve.inference.prompts.lists import PromptRow, ordinary_prompts

__all__ = ["Detection", "check_rate", "detect", "detect_rows", "measure_ordinary", "ordinary_of"]


@dataclass(frozen=True, slots=True)
class Detection:
    """What is known of one prompt.

    ``p`` is the share of ordinary prompts that score at least as high; ``flagged`` where it is at most the chosen
    false-positive rate. ``per_step`` is what the detector measures at each step that was run, averaged over images.
    ``cut`` is the end of the prompt that the text encoder does not read. With an ``error``, score and p are NaN and
    nothing is flagged. With early exit the score is the place beside ordinary prompts after the step that stands out
    most (``components["path"]``), so that prompts that left at different steps compare. ``steps`` is how many were run.
    """

    line: int
    prompt: str
    score: float
    p: float
    flagged: bool
    components: dict[str, float]
    steps: int
    per_step: list[float]
    seconds: float
    cut: str = ""
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON: NaN becomes None."""
        return {key: None if value != value else value for key, value in asdict(self).items()}


def detect(
    model: Any,
    prompts: Sequence[str],
    *,
    settings: DetectSettings | None = None,
    ordinary: Sequence[str] | OrdinaryPrompts | None = None,
    false_positive_rate: float = 0.01,
    batch: int = 16,
    progress: bool = False,
) -> list[Detection]:
    """Score ``prompts`` with ``model`` against ordinary prompts; one result each.

    Args:
        model: a pipeline folder or a pipeline; what ``open_model`` gives, where another scheduler is wanted.
        ordinary: prompts known not to be memorised, or ``OrdinaryPrompts`` measured before; the shipped list if left
            out.
        false_positive_rate: share of ordinary prompts that may be flagged.

    Raises:
        ValueError: a setting, the model, or the kind or number of ordinary prompts does not fit.
    """
    settings = settings or DetectSettings()
    if isinstance(prompts, str):
        raise ValueError("prompts must be a list of strings, not one string")
    opened = open_model(model)
    with progress_bar(progress) as bar:
        if not isinstance(ordinary, OrdinaryPrompts):
            chosen = ordinary_prompts() if ordinary is None else list(ordinary)
            _, ordinary = measure_ordinary(opened, chosen, settings, false_positive_rate, batch, bar)
        if isinstance(ordinary, OrdinaryPaths) != settings.early_exit:
            raise ValueError(
                "ordinary was measured for another kind of detection: with early_exit it must be OrdinaryPaths, "
                "without it OrdinaryPrompts; give the prompts themselves and it is made to fit"
            )
        rows = [
            PromptRow(line, prompt.strip(), error=None if prompt.strip() else f"prompt {line} is empty")
            for line, prompt in enumerate(prompts, 1)
        ]
        task = bar.add_task("prompts", total=len(rows))
        results = []
        for result in detect_rows(opened, rows, settings, ordinary, false_positive_rate, batch):
            results.append(result)
            bar.advance(task)
    return results


def measure_ordinary(
    model: GuidedModel,
    prompts: Sequence[str],
    settings: DetectSettings,
    false_positive_rate: float,
    batch: int = 16,
    bar: Progress | None = None,
) -> tuple[list[PromptMeasurement], OrdinaryPrompts]:
    """Ordinary prompts measured like those to be judged.

    Raises:
        ValueError: too few prompts for the rate; said before anything is measured.
    """
    check_rate(false_positive_rate, len(set(prompts)))
    measurements = []
    distinct = list(dict.fromkeys(prompts))
    task = bar.add_task("ordinary prompts", total=len(distinct)) if bar else None
    for measurement in measure_prompts(model, distinct, settings, batch):
        measurements.append(measurement)
        if bar is not None and task is not None:
            bar.advance(task)
    return measurements, ordinary_of(measurements, settings, false_positive_rate)


def ordinary_of(
    measurements: Sequence[PromptMeasurement], settings: DetectSettings, false_positive_rate: float
) -> OrdinaryPrompts:
    """Ordinary prompts as these settings judge by them, from measurements over all their steps.

    Raises:
        ValueError: no finite measurement, or with early exit too few for the rate.
    """
    if settings.early_exit:
        return OrdinaryPaths(measurements, false_positive_rate)
    return OrdinaryPrompts.of(DETECTORS[settings.detector], measurements)


def check_rate(false_positive_rate: float, ordinary: int) -> None:
    """Refuse a rate that is none, or that ``ordinary`` prompts cannot hold.

    Raises:
        ValueError: as above.
    """
    if not 0 < false_positive_rate < 1:
        raise ValueError(f"--false-positive-rate = {false_positive_rate:g}: must lie between 0 and 1")
    if ordinary < (needed := smallest_reference(false_positive_rate)):
        raise ValueError(
            f"--false-positive-rate = {false_positive_rate:g} needs at least {needed} "
            f"ordinary prompts, and there are {ordinary}: give more with --ordinary, or take a higher rate"
        )


def detect_rows(
    model: GuidedModel,
    rows: Sequence[PromptRow],
    settings: DetectSettings,
    ordinary: OrdinaryPrompts,
    false_positive_rate: float,
    batch: int = 16,
) -> Iterator[Detection]:
    """A result for every row, in order and as they come; rows with an error are passed on with it."""
    leave = ordinary if isinstance(ordinary, OrdinaryPaths) else None
    usable = measure_prompts(model, [row.prompt for row in rows if row.error is None], settings, batch, leave=leave)
    for row in rows:
        if row.error is not None:
            yield _failed(row, row.error)
        else:
            yield _judged(model, row, next(usable), settings, ordinary, false_positive_rate)


def _judged(
    model: GuidedModel,
    row: PromptRow,
    measurement: PromptMeasurement,
    settings: DetectSettings,
    ordinary: OrdinaryPrompts,
    false_positive_rate: float,
) -> Detection:
    components = ordinary.component_values(DETECTORS[settings.detector], measurement)
    values = np.asarray([[components[name] for name in ordinary.names]], dtype=np.float64)
    score = float(ordinary.scores(values)[0])
    if not np.isfinite(score):
        return _failed(row, f"line {row.line}: the model gives values that are not finite for this prompt")
    p = float(ordinary.p_values(np.asarray([score]))[0])
    return Detection(
        line=row.line,
        prompt=row.prompt,
        score=score,
        p=p,
        flagged=p <= false_positive_rate + 1e-12,
        components=components,
        steps=measurement.steps,
        per_step=[float(value) for value in measurement.path.mean(axis=0)],
        seconds=measurement.seconds,
        cut=cut_text(model.denoiser.text_layout(), row.prompt),
    )


def _failed(row: PromptRow, error: str) -> Detection:
    return Detection(row.line, row.prompt, float("nan"), float("nan"), False, {}, 0, [], 0.0, error=error)
