"""The action ``minimize``: a pipeline's call with the embeddings of flagged images changed."""

from __future__ import annotations

from typing import Any

import torch

from memsieve.inference.guard.call import PROMPTS
from memsieve.inference.guard.report import GuardReport
from memsieve.inference.guard.settings import GuardSettings
from memsieve.inference.guided import GuidedModel, Seen
from memsieve.inference.minimize.embeddings import minimize_embeddings

__all__ = ["minimized_call"]


def minimized_call(
    model: GuidedModel,
    call: dict[str, Any],
    seen: Seen,
    report: GuardReport,
    aim: tuple[float, float],
    settings: GuardSettings,
) -> dict[str, Any]:
    """``call`` with the embeddings of the images that ``report`` flags minimised; what they came to is noted there.

    Args:
        model: of the pipeline.
        call: the pipeline's arguments by name.
        seen: what its network saw at the first step.
        report: of that step.
        aim: the magnitude to come down to, and the call's guidance scale.
        settings: of the guard.
    """
    target, scale = aim
    rows = torch.tensor(report.flagged, device=seen.model_input.device).nonzero().flatten()
    chosen = Seen(seen.model_input[rows], seen.timestep, seen.cond.rows(rows), seen.uncond.rows(rows))
    fitted = minimize_embeddings(model, chosen, target, settings.minimize, space=settings.space)
    states = seen.cond.map(torch.Tensor.clone)
    for name, value in states.embeddings.items():
        value[rows] = fitted.cond.embeddings[name].to(value.dtype)
    for row, magnitude in zip(rows.tolist(), fitted.magnitude, strict=True):
        report.minimized[row] = magnitude
    # Only what says what is drawn is changed: size, guidance and all else stay the call's own.
    again = {name: value for name, value in call.items() if not name.startswith(PROMPTS)}
    given = model.denoiser.call_arguments(states, seen.uncond, scale)
    drawn = {name: value for name, value in given.items() if name.startswith(PROMPTS)}
    return {**again, **drawn, "num_images_per_prompt": 1}
