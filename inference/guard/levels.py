"""The ordinary prompts' magnitudes beside which a guarded call is judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memsieve.filtering.denoisers.base import Conditioning
from memsieve.inference.guided import GuidedModel
from memsieve.inference.progress import progress_bar
from memsieve.inference.step import Seen, Step

__all__ = ["OrdinaryLevels"]

TOGETHER = 8
"""Prompts that are measured at a time."""


class OrdinaryLevels:
    """First-step magnitudes of ``prompts``, or where the model before fine-tuning is known their drift, measured once
    for each first timestep, size and size conditioning.

    Args:
        space: as in detection.
        progress: whether a bar is shown.
    """

    def __init__(self, model: GuidedModel, prompts: Sequence[str], space: str, progress: bool) -> None:
        self.model, self.prompts, self.space, self.progress = model, list(prompts), space, progress
        self._known: dict[tuple[Any, ...], dict[str, np.ndarray]] = {}

    def at(self, seen: Seen, name: str) -> np.ndarray:
        """``magnitude`` or ``drift`` [N] float64 at what the network saw at a call's first step.

        Raises:
            ValueError: one of them is not finite.
        """
        told = [states.time_ids for states in (seen.cond, seen.uncond)]
        key = (
            round(float(seen.timestep), 3), tuple(seen.model_input.shape[1:]),
            *(None if ids is None else tuple(ids[0].tolist()) for ids in told),
        )  # fmt: skip
        if key not in self._known:
            self._known[key] = self._measured(seen)
        return self._known[key][name]

    @torch.no_grad()
    def _measured(self, seen: Seen) -> dict[str, np.ndarray]:
        names = ("magnitude",) if self.model.base is None else ("magnitude", "drift")
        found: list[list[Tensor]] = []
        timestep, model_input = seen.timestep, seen.model_input
        generator = torch.Generator("cpu").manual_seed(0)
        with progress_bar(self.progress) as bar:
            task = bar.add_task("the guard measures ordinary prompts", total=len(self.prompts))
            for start in range(0, len(self.prompts), TOGETHER):
                part = self.prompts[start : start + TOGETHER]
                # what any scheduler hands the network first: noise of unit variance
                noise = torch.randn(len(part), *model_input.shape[1:], generator=generator).to(model_input.device)
                cond = _told(self.model.encode(part), seen.cond)
                uncond = _told(self.model.unconditional(len(part)), seen.uncond)
                with_, without = self.model.predict(noise, timestep, cond, uncond)
                step = Step(0, timestep, noise, with_, without)
                if self.model.base is not None:
                    step.base_cond = self.model.base.predict(noise, timestep, cond)
                found.append([self.model.measured(step, name, self.space) for name in names])
                bar.advance(task, len(part))
        levels = {name: torch.cat(column).double().cpu().numpy() for name, column in
                  zip(names, zip(*found, strict=True), strict=True)}  # fmt: skip
        if not all(np.isfinite(values).all() for values in levels.values()):
            raise ValueError("the model gives values that are not finite for ordinary prompts; take another precision")
        return levels


def _told(prompts: Conditioning, seen: Conditioning) -> Conditioning:
    """``prompts`` with what the network was told in the call besides the prompt, the first image's for all."""
    ids = seen.time_ids
    return prompts if ids is None else replace(prompts, time_ids=ids[:1].expand(len(prompts), -1))
