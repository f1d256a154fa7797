"""Both branches of each guided step, read out of a pipeline's own calls of its network.

Whether a step is guided is seen in the calls themselves, never in the arguments: pipelines have rules of their own, and
callbacks change them while they run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from memsieve.filtering.denoisers.base import Denoiser
from memsieve.inference.step import Seen

__all__ = ["BranchReader", "Branches", "halves", "in_a_row"]


@dataclass(frozen=True, slots=True)
class Branches:
    """A guided step: the network's predictions ``without`` and ``with_`` the prompt, and what it saw."""

    without: Tensor
    with_: Tensor
    seen: Seen

    @property
    def delta(self) -> Tensor:
        """with - without, float32, without a learned variance (PixArt)."""
        delta = self.with_.float() - self.without.float()
        latents = self.seen.model_input
        return delta[:, : latents.shape[1]] if delta.ndim == latents.ndim else delta


def halves(rows: Tensor, prompt_first: bool) -> tuple[Tensor, Tensor]:
    """(without, with) the prompt, of the predictions of one call of the network."""
    first, second = rows.chunk(2)
    return (second, first) if prompt_first else (first, second)


def in_a_row(without: Tensor, with_: Tensor, prompt_first: bool) -> Tensor:
    """``halves`` the other way round."""
    return torch.cat([with_, without] if prompt_first else [without, with_])


class BranchReader:
    """Reads one call of a pipeline, which draws ``images``; ``steps`` counts the guided steps.

    A network is called once a step with twice as many rows as images (without the prompt, then with it; the other way
    round in families with ``prompt_first``), or, in families with ``separate_branches``, with the prompt and then
    without it on the same latents. Other calls are steps without guidance.
    """

    def __init__(self, denoiser: Denoiser, images: int) -> None:
        self.denoiser, self.images, self.steps = denoiser, images, 0
        self._first: tuple[Tensor, Tensor, Seen] | None = None

    def read(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Branches | None:
        """The branches that this call of the network completes, or None.

        Raises:
            ValueError: the call's first step is not guided, or the number of rows fits neither way of calling.
        """
        prediction = self.denoiser.output_rows(output)
        model_input, timestep, states = self.denoiser.read_call(args, kwargs)
        if self.denoiser.separate_branches:
            return self._second(kwargs["hidden_states"], prediction, Seen(model_input, timestep, states, states))
        rows = len(model_input)
        if rows == self.images:
            self._unguided()
            return None
        if rows != 2 * self.images:
            raise ValueError(
                f"the pipeline called its network with {rows} rows for {self.images} images: the guard knows one row "
                "an image without guidance and two with it; give latents and embeddings of one row an image"
            )
        half = self.images
        first, second = states.rows(slice(half)), states.rows(slice(half, None))
        cond, uncond = (first, second) if self.denoiser.prompt_first else (second, first)
        without, with_ = halves(prediction, self.denoiser.prompt_first)
        return self._step(without, with_, Seen(model_input[half:], timestep, cond, uncond))

    def finish(self) -> None:
        """The pipeline's call has ended.

        Raises:
            ValueError: not one of its steps was guided.
        """
        if not self.steps:
            self._unguided()

    def _second(self, latents: Tensor, prediction: Tensor, now: Seen) -> Branches | None:
        """Pairs a call with the one before it where both have the same latents."""
        before, self._first = self._first, (latents, prediction, now)
        if before is None:
            return None
        earlier, with_, seen = before
        same = earlier is latents or (earlier.shape == latents.shape and torch.equal(earlier, latents))
        if not same or not torch.equal(seen.timestep, now.timestep):
            self._unguided()
            return None
        self._first = None
        # Flux's pipeline leaves one negative prompt for all images as one row.
        uncond = now.cond if len(now.cond) == len(seen.cond) else now.cond.expand(len(seen.cond))
        return self._step(prediction, with_, Seen(seen.model_input, seen.timestep, seen.cond, uncond))

    def _step(self, without: Tensor, with_: Tensor, seen: Seen) -> Branches:
        self.steps += 1
        detached = seen.model_input.detach()
        return Branches(without, with_, Seen(detached, seen.timestep.flatten()[0], seen.cond, seen.uncond))

    def _unguided(self) -> None:
        """A step without guidance: later ones may be, the first may not."""
        if not self.steps:
            raise ValueError(
                "the pipeline's first step is not guided, so that there is no unconditional branch to compare with: "
                f"the call needs {self.denoiser.guidance_name} above 1"
                + (' and a negative prompt, "" for none' if self.denoiser.separate_branches else "")
            )
