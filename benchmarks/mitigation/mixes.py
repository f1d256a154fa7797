"""What a sampler may follow between the model before fine-tuning and the finished one.

Each is a function of a step at which both were asked for both branches. Where nothing is mixed it is the finished
model's guided prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from memsieve.inference.guided import Combine, GuidedModel
from memsieve.inference.step import Step, norm_of

__all__ = ["Levels", "base_first", "by_drift", "by_region", "levels_of", "mixed", "of_base", "of_model"]


@dataclass(frozen=True, slots=True)
class Levels:
    """What ordinary prompts have drifted at each step, per element, in the model's own parametrisation.

    ``whole`` is the median over prompts: half of them are left as they are. ``local`` is the highest of ten places,
    over prompts and places: a region is held back where hardly any place of an ordinary prompt would be.
    """

    whole: Sequence[float]
    local: Sequence[float]


def of_model(scale: float) -> Combine:
    """The finished model's own guided prediction."""
    return lambda step: step.cond if step.uncond is None else step.uncond + scale * (step.cond - step.uncond)


def of_base(scale: float) -> Combine:
    """The base's own guided prediction."""

    def follow(step: Step) -> Tensor:
        without = step.other("anchored_magnitude")
        return without + scale * (step.other("drift") - without)

    return follow


def mixed(share: float, scale: float) -> Combine:
    """A steady mix, ``share`` of it the finished model's."""
    return _mix(scale, lambda step: torch.full((len(step.cond),), share, device=step.cond.device))


def base_first(count: int, scale: float) -> Combine:
    """The base's for the first ``count`` steps."""
    own, base = of_model(scale), of_base(scale)
    return lambda step: base(step) if step.index < count else own(step)


def by_drift(levels: Levels, scale: float) -> Combine:
    """So much of the base's that no image lies further from it than ordinary prompts do at that step."""

    def share(step: Step) -> Tensor:
        return (levels.whole[step.index] / drift_of(step).clamp_min(1e-12)).clamp_max(1.0)

    return _mix(scale, share)


def by_region(levels: Levels, scale: float) -> Combine:
    """The same at each place of the latents: what was learned by heart is held back where it stands."""

    def share(step: Step) -> Tensor:
        return (levels.local[step.index] / local_drift(step).clamp_min(1e-12)).clamp_max(1.0)

    return _mix(scale, share)


def drift_of(step: Step) -> Tensor:
    """||c - c^base|| / sqrt(n) of each image, [B], in the model's own parametrisation."""
    delta = step.cond - step.other("drift")
    return norm_of(delta) / float(delta[0].numel()) ** 0.5


def local_drift(step: Step) -> Tensor:
    """The same at each place, [B, 1, h, w], over channels and the places around it."""
    square = (step.cond - step.other("drift")).square().mean(1, keepdim=True)
    return F.avg_pool2d(square, 3, 1, 1, count_include_pad=False).sqrt()


@torch.no_grad()
def levels_of(model: GuidedModel, prompts: Sequence[str], scale: float, steps: int, batch: int = 16) -> Levels:
    """What ``prompts``, drawn as they are, drift at each step."""
    whole: list[list[Tensor]] = [[] for _ in range(steps)]
    local: list[list[Tensor]] = [[] for _ in range(steps)]
    for start in range(0, len(prompts), batch):
        part = list(prompts[start : start + batch])
        noise = model.noise(part, [0] * len(part), 0)
        for step in model.trajectory(
            noise, model.encode(part), model.unconditional(len(part)), steps=steps, schedule_steps=steps,
            guidance_scale=scale, against=model.against(part, ("drift",)),
        ):  # fmt: skip
            whole[step.index].append(drift_of(step).cpu())
            local[step.index].append(local_drift(step).flatten().cpu())
    return Levels(
        [float(torch.cat(values).median()) for values in whole],
        [float(torch.cat(values).quantile(0.9)) for values in local],
    )


def _mix(scale: float, share_of: Any) -> Combine:
    own, base = of_model(scale), of_base(scale)

    def follow(step: Step) -> Tensor:
        share: Tensor = share_of(step)
        if share.ndim == 1:
            share = share.view(-1, *([1] * (step.cond.ndim - 1)))
        before = base(step)
        return before + share * (own(step) - before)

    return follow
