"""An evaluation over two files of prompts, its measurements kept on disk."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

from memsieve.filtering.files import write_json
from memsieve.inference.detect.evaluate import (
    DetectorResult,
    EvaluationSettings,
    evaluate_detector,
    seconds_to_generate,
)
from memsieve.inference.detect.kept import KeptMeasurements, measurements_on_disk
from memsieve.inference.guided import GuidedModel
from memsieve.inference.prompts.lists import PromptRow
from memsieve.inference.weights import weights_identity

__all__ = ["Evaluation", "evaluate_rows"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A result for each setting, and what a plain generation of the whole schedule takes beside them."""

    results: list[DetectorResult]
    seconds_per_generation: float


def evaluate_rows(
    model: GuidedModel,
    memorized: Sequence[PromptRow],
    ordinary: Sequence[PromptRow],
    settings: EvaluationSettings,
    *,
    out: Path | None = None,
    resume: bool = False,
) -> Evaluation:
    """As ``evaluate_detector``, for distinct prompts with the groups that their files name.

    Args:
        out: JSON file for the results; the measurements are kept beside it.
        resume: whether to go on with those measurements.

    Raises:
        ValueError: as ``evaluate_detector``; ``resume`` without ``out``, or measurements of other settings.
    """
    if resume and out is None:
        raise ValueError("--resume needs --out FILE: the measurements are kept beside it")
    lists = [list({row.prompt: row for row in rows}.values()) for rows in (memorized, ordinary)]
    first, second = ([row.prompt for row in rows] for rows in lists)
    groups = ([row.group for row in lists[0]], [row.group for row in lists[1]])
    store: AbstractContextManager[KeptMeasurements | None] = nullcontext()
    if out is not None:
        asked = {
            "settings": asdict(settings.longest),
            "model": weights_identity(model.model),
            "scheduler": model.scheduler_name,
            "base": None if model.base is None else weights_identity(model.base.network),
        }
        store = measurements_on_disk(out.with_suffix(".measured.jsonl"), asked, resume)
    with store as kept:
        results = evaluate_detector(model, first, second, settings, groups=groups, kept=kept)
    seconds = seconds_to_generate(model, second[: settings.batch], settings.detect, settings.batch)
    found = Evaluation(results, seconds)
    if out is not None:
        write_json(out, asdict(found))
    return found
