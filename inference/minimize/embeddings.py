"""The core of minimisation: embeddings changed at one step until each image's value is at most the target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from memsieve.filtering.denoisers.base import Conditioning
from memsieve.inference.gradients import measured_and_gradient
from memsieve.inference.guided import GuidedModel
from memsieve.inference.minimize.settings import MinimizeSettings
from memsieve.inference.step import Compared, norm_of

__all__ = ["Fitted", "minimize_embeddings"]

AIM: Final = 0.98
"""Of the target: where ``closest`` aims."""


class Fitted(NamedTuple):
    """What ``minimize_embeddings`` found: ``cond`` of B rows, the values [B] before each update, and in the end."""

    cond: Conditioning
    trace: list[list[float]]
    value: list[float]


@torch.inference_mode(False)
def minimize_embeddings(
    model: GuidedModel,
    compared: Compared,
    target: float | Tensor,
    settings: MinimizeSettings,
    *,
    fixed: Sequence[int] | None = None,
    space: str = "auto",
) -> Fitted:
    """The core of ``minimize`` on what is compared at one step; pooled embeddings are fitted too, unless ``fixed``
    names positions of the sequence that stay as they are. ``settings.tokens`` is not looked at. ``target`` is one for
    all images or each image's own, [B].

    Raises:
        ValueError: the target is out of range, or values or gradients are not finite.
    """
    seen = compared.seen
    targets = torch.as_tensor(target, dtype=torch.float32, device=model.device).expand(len(seen.cond))
    if not (targets > 0).all():
        raise ValueError(f"--target = {float(targets.min()):g}: must be above 0")
    # A float32 master copy: in float16 AdamW's eps is zero, and the embedding NaN after one update.
    masters = {n: value.detach().float().clone().requires_grad_(True) for n, value in seen.cond.embeddings.items()}
    starts = {part.first for part in model.denoiser.text_layout() if part.has_start}
    still = sorted(starts | set(fixed or ()))
    optimizer = torch.optim.AdamW(list(masters.values()), lr=settings.learning_rate, weight_decay=0.0)
    best = {name: master.detach().clone() for name, master in masters.items()}
    best_value = torch.full((len(seen.cond),), float("inf"), device=model.device)
    trace: list[list[float]] = []
    for iteration in range(settings.iterations + 1):
        value, gradients = _measured(model, compared, masters, space)
        trace.append(value.tolist())
        better = (best_value > targets) & (value < best_value)
        best_value[better] = value[better]
        for name, master in masters.items():
            best[name][better] = master.detach()[better]
        running = best_value > targets
        if iteration == settings.iterations or not running.any():
            break
        _keep_still(masters, gradients, still, pooled=fixed is None)
        if settings.method == "closest":
            _closest(masters, value, targets, running, settings.learning_rate)
        else:
            _adamw(masters, optimizer, running, still)
    return Fitted(seen.cond.with_embeddings(best).to(dtype=model.dtype), trace, best_value.tolist())


def _measured(
    model: GuidedModel, compared: Compared, masters: dict[str, Tensor], space: str
) -> tuple[Tensor, dict[str, Tensor]]:
    """Values [B] and gradients through the network's dtype, as the pipeline will use it."""
    rounded = {name: master.detach().to(model.dtype).float() for name, master in masters.items()}
    value, gradients = measured_and_gradient(model, compared.at(rounded), space)
    if not all(bool(torch.isfinite(found).all()) for found in (value, *gradients.values())):
        raise ValueError(
            f"the {compared.measure} or its gradient is not finite in this precision; take --dtype bfloat16"
        )
    return value, gradients


def _keep_still(masters: dict[str, Tensor], gradients: dict[str, Tensor], still: list[int], *, pooled: bool) -> None:
    """Give the masters their gradients, none at the positions ``still`` and for embeddings that do not move."""
    for name, gradient in gradients.items():
        masters[name].grad = gradient.clone()
        if name == "encoder_hidden_states":
            masters[name].grad[:, still] = 0  # type: ignore[index]
        elif not pooled:
            masters[name].grad.zero_()  # type: ignore[union-attr]


def _adamw(masters: dict[str, Tensor], optimizer: torch.optim.Optimizer, running: Tensor, still: list[int]) -> None:
    """One update of the images ``running`` [B]; the positions ``still`` are left alone."""
    before = {name: master.detach().clone() for name, master in masters.items()}
    optimizer.step()
    with torch.no_grad():
        for name, master in masters.items():
            # Momentum would carry images on that have met the target; rounding could touch what is left alone.
            master[~running] = before[name][~running]
            if name == "encoder_hidden_states":
                master[:, still] = before[name][:, still]


@torch.no_grad()
def _closest(masters: dict[str, Tensor], value: Tensor, target: Tensor, running: Tensor, most: float) -> None:
    """e -= (d - target) grad d / ||grad d||^2 for the images ``running`` [B], at most ``most`` of ||e|| (Polyak, 1969).

    It aims a little below the target, which a curved function would else approach for ever.
    """
    gradients = {name: master.grad for name, master in masters.items() if master.grad is not None}
    square = torch.stack([norm_of(gradient) ** 2 for gradient in gradients.values()]).sum(0).clamp_min(1e-12)
    size = torch.stack([norm_of(master) ** 2 for master in masters.values()]).sum(0).sqrt()
    share = (value - AIM * target).clamp_min(0) / square
    share = torch.minimum(share, most * size / square.sqrt())
    share[~running] = 0
    for name, gradient in gradients.items():
        masters[name] -= share.view(-1, *([1] * (gradient.ndim - 1))) * gradient
