"""Other words for a memorised prompt: the heaviest ones dropped or replaced, each edit measured again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from memsieve.inference.detect.detectors import DETECTORS, Detector, DetectSettings, PromptMeasurement
from memsieve.inference.detect.measure import measure_prompts
from memsieve.inference.detect.ordinary import OrdinaryPrompts
from memsieve.inference.explain.explain import Explanation, explain
from memsieve.inference.opened import open_model

__all__ = ["Suggestion", "suggest_edits"]


@dataclass(frozen=True, slots=True)
class Suggestion:
    """An edited prompt and its score, measured with the original's noise; p where there are ordinary prompts."""

    prompt: str
    change: str
    score: float
    p: float | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@torch.inference_mode(False)
def suggest_edits(
    model: Any,
    prompt: str,
    *,
    words: int = 3,
    replacements: Sequence[str] = ("something",),
    settings: DetectSettings | None = None,
    ordinary: OrdinaryPrompts | None = None,
) -> tuple[Explanation, list[Suggestion]]:
    """What a person can do: the ``words`` heaviest words dropped or replaced, alone and together, each rescored.

    The original comes first among the suggestions (change "none"), the others by score. Every edit is measured with the
    original's noise, so that scores differ by the words alone.

    Raises:
        ValueError: as ``explain``.
    """
    settings = settings or DetectSettings()
    opened = open_model(model)
    explanation = explain(opened, prompt, settings=settings)
    edits = _edits(explanation, words, replacements)
    measured = measure_prompts(opened, list(edits), settings, noise_of=explanation.prompt)
    found = [
        _scored(text, change, measurement, DETECTORS[settings.detector], ordinary)
        for (text, change), measurement in zip(edits.items(), measured, strict=True)
    ]
    return explanation, [found[0], *sorted(found[1:], key=lambda suggestion: suggestion.score)]


def _edits(explanation: Explanation, words: int, replacements: Sequence[str]) -> dict[str, str]:
    """Edited prompt -> what was changed, the original first."""
    written = [word.text for word in explanation.words]
    heaviest = explanation.heaviest(words)
    edits: dict[str, str] = {explanation.prompt: "none"}
    for count in range(1, len(heaviest) + 1):
        for chosen in [[word] for word in heaviest] if count == 1 else [heaviest[:count]]:
            named = ", ".join(f"'{word.text}'" for word in chosen)
            for substitute in ("", *replacements):
                edited = _edited(written, {word.index for word in chosen}, substitute)
                change = f"drop {named}" if not substitute else f"replace {named} by '{substitute}'"
                if edited:
                    edits.setdefault(edited, change)
    return edits


def _edited(words: Sequence[str], chosen: set[int], substitute: str) -> str:
    kept = [substitute if index in chosen else word for index, word in enumerate(words)]
    return " ".join(word for word in kept if word)


def _scored(
    text: str, change: str, measurement: PromptMeasurement, detector: Detector, ordinary: OrdinaryPrompts | None
) -> Suggestion:
    if ordinary is None:
        return Suggestion(text, change, float(measurement.path.mean()), None)
    values = detector.component_values(measurement)
    score = ordinary.scores(np.asarray([[values[name] for name in ordinary.names]]))
    return Suggestion(text, change, float(score[0]), float(ordinary.p_values(score)[0]))
