"""The model before fine-tuning in the calls of a guarded pipeline: what it predicts in the finished model's place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from memsieve.filtering.denoisers.quantize import precision_of
from memsieve.inference.base import Base
from memsieve.inference.guard.branches import Branches, halves, in_a_row
from memsieve.inference.step import norm_of

__all__ = ["BaseCalls"]

Call = tuple[tuple[Any, ...], dict[str, Any]]


class BaseCalls:
    """Calls the base as a pipeline calls its network: with the same arguments, so that its output has the same form.

    Args:
        base: its network takes the pipeline's own embeddings.
    """

    def __init__(self, base: Base) -> None:
        self.base, self.separate = base, base.denoiser.separate_branches
        self._before: Call = ((), {})
        self._now: Call = ((), {})
        self._known: tuple[Tensor, Tensor] | None = None

    def note(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The pipeline calls its network."""
        self._before, self._now = self._now, (args, kwargs)
        self._known = None

    @torch.no_grad()
    def branches(self) -> tuple[Tensor, Tensor]:
        """(without, with) the prompt, of the step that the last call has completed, in the form of the network's own
        output; asked for twice, it is computed once."""
        if self._known is None and self.separate:
            with_, without = (self._predicted(call) for call in (self._before, self._now))
            self._known = without, with_
        elif self._known is None:
            self._known = halves(self._predicted(self._now), self.base.denoiser.prompt_first)
        return self._known

    def _predicted(self, call: Call) -> Tensor:
        args, kwargs = call
        kind = precision_of(self.base.network)
        output = self.base.network(*(_as(value, kind) for value in args), **_as(kwargs, kind))
        return self.base.denoiser.output_rows(output)

    @torch.no_grad()
    def drift(self, both: Branches, factor: float) -> Tensor:
        """||eps_c - eps_c^base|| / sqrt(n) of each image at a step, [B] float32."""
        _, with_ = self.branches()
        latents = both.seen.model_input
        delta = both.with_.float() - with_.float()
        if delta.ndim == latents.ndim:  # without a learned variance (PixArt)
            delta = delta[:, : latents.shape[1]]
        return norm_of(delta) * (factor / float(latents[0].numel()) ** 0.5)

    @torch.no_grad()
    def instead(self, both: Branches, held: Tensor, scale: float) -> Tensor:
        """What the network returns so that the guided prediction of the images that are ``held`` [B] is the base's.

        A pipeline that scales it afterwards (Qwen-Image, Lumina 2) gives it the length of the model's own conditional
        prediction: the base's direction, not its length.
        """
        without, with_ = self.branches()
        own = (both.without, both.with_)
        keep = held.to(own[0].device).view(-1, *([1] * (own[0].ndim - 1)))
        if not self.separate:
            pairs = zip((without, with_), own, strict=True)
            first, second = (torch.where(keep, base.to(mine.dtype), mine) for base, mine in pairs)
            return in_a_row(first, second, self.base.denoiser.prompt_first)
        # cond has been returned already: uncond := u' with u' + scale (cond - u') = what the base is guided to
        guided = without + scale * (with_ - without)
        instead = (scale * own[1] - guided.to(own[1].dtype)) / (scale - 1.0)
        return torch.where(keep, instead, own[0])


def _as(value: Any, kind: torch.dtype) -> Any:
    """Arguments in the base's precision; numbers that are no weights' (timesteps, ids) stay as they are."""
    if isinstance(value, list):
        return [_as(one, kind) for one in value]
    if isinstance(value, dict):
        return {name: _as(one, kind) for name, one in value.items()}
    if isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1:
        return value.to(kind)
    return value
