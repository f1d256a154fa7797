"""The action ``minimize``: a pipeline's call with the embeddings of flagged images changed."""

from __future__ import annotations

from typing import Any

import torch

from memsieve.inference.guard.call import PROMPTS
from memsieve.inference.guard.report import GuardReport
from memsieve.inference.guard.settings import GuardSettings
from memsieve.inference.guided import GuidedModel
from memsieve.inference.minimize.embeddings import minimize_embeddings
from memsieve.inference.step import Compared, Seen

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
        aim: the magnitude, or beside a base the drift, to come down to, and the call's guidance scale.
        settings: of the guard.
    """
    target, scale = aim
    rows = torch.tensor(report.flagged, device=seen.model_input.device).nonzero().flatten()
    fitted = minimize_embeddings(
        model, _compared(model, seen.rows(rows)), target, settings.minimize, space=settings.space
    )
    states = seen.cond.map(torch.Tensor.clone)
    for name, value in states.embeddings.items():
        value[rows] = fitted.cond.embeddings[name].to(value.dtype)
    for row, reached in zip(rows.tolist(), fitted.value, strict=True):
        report.minimized[row] = reached
    # Only what says what is drawn is changed: size, guidance and all else stay the call's own.
    again = {name: value for name, value in call.items() if not name.startswith(PROMPTS)}
    given = model.denoiser.call_arguments(states, seen.uncond, scale)
    drawn = {name: value for name, value in given.items() if name.startswith(PROMPTS)}
    return {**again, **drawn, "num_images_per_prompt": 1}


@torch.no_grad()
def _compared(model: GuidedModel, seen: Seen) -> Compared:
    """The drift of these images where there is a base, and else the magnitude."""
    if model.base is None:
        other = model.predict_one(seen.model_input, seen.timestep, seen.uncond)
        return Compared(seen, "magnitude", other)
    return Compared(seen, "drift", model.base.predict(seen.model_input, seen.timestep, seen.cond))
