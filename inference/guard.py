"""A diffusers pipeline that notices a memorised prompt while it samples, and does what its user chose.

    guarded = MemorizationGuard(pipe, action="minimize")
    image = guarded("a prompt").images[0]
    guarded.report.flagged

Guided sampling computes both branches anyway, so measuring costs nothing: a forward hook on the denoising network reads
them. The pipeline is called as it is, with its own arguments.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from filtering.denoisers.base import Conditioning
from inference.detect import check_rate, progress_bar
from inference.guard_report import (
    GuardReport,
    MemorizationRefused,
    MemorizationWarning,
    random_state,
    restore_random_state,
)
from inference.guided import norm_of, open_model
from inference.minimize import TARGET_QUANTILE, minimize_embeddings
from inference.prompts import ordinary_prompts

__all__ = ["ACTIONS", "GuardReport", "MemorizationGuard", "MemorizationRefused", "MemorizationWarning"]

ACTIONS: Final = ("warn", "refuse", "minimize", "delay")
PROMPTS: Final = ("prompt", "negative_prompt", "pooled_prompt", "negative_pooled_prompt")
"""How the names of a call's arguments begin that say what is drawn."""


class _Stop(Exception):
    """Ends a pipeline's call at its first step, with what the network saw there."""

    def __init__(self, seen: _Seen) -> None:
        super().__init__()
        self.seen = seen


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the network saw at a step: its input [B, C, h, w], the timestep [], and both branches' conditioning."""

    model_input: Tensor
    timestep: Tensor
    cond: Conditioning
    uncond: Conditioning


class MemorizationGuard:
    """Wrap ``pipe``; call the guard as the pipeline would be called.

    Args:
        action: ``warn``; ``refuse`` raises ``MemorizationRefused`` before an image exists; ``minimize`` changes the
            embeddings of flagged images (Wen et al., 2024) and samples from the same noise; ``delay`` leaves guidance
            off for flagged images until the magnitude has fallen and passes a local minimum (Jain et al., CVPR 2025).
        threshold: magnitude at the first step above which an image is flagged. Left out, it is the level that
            ``false_positive_rate`` of ``ordinary`` prompts exceed, measured once for each first timestep and size.
        ordinary: prompts known not to be memorised; the shipped list if left out.
        target: for ``minimize``; a low quantile of the ordinary prompts if left out, or half of a given
            ``threshold``.
        iterations, lr, method: of ``minimize``.
        fall: for ``delay``, the share of its peak below which the magnitude counts as fallen.
        space: as in detection.

    Raises:
        ValueError: a setting out of range, or a model that cannot be guarded (guidance-distilled, unknown family).
    """

    def __init__(
        self,
        pipe: Any,
        action: str = "warn",
        *,
        threshold: float | None = None,
        false_positive_rate: float = 0.01,
        ordinary: Sequence[str] | None = None,
        target: float | None = None,
        iterations: int = 30,
        lr: float | None = None,
        method: str = "adamw",
        fall: float = 0.7,
        space: str = "auto",
        progress: bool = True,
    ) -> None:
        if action not in ACTIONS:
            raise ValueError(f"action = '{action}': must be one of {', '.join(ACTIONS)}")
        if threshold is not None and not threshold > 0:
            raise ValueError(f"threshold = {threshold:g}: must be above 0")
        if not 0 < fall <= 1:
            raise ValueError(f"fall = {fall:g}: must be above 0 and at most 1")
        self.ordinary = list(dict.fromkeys(ordinary_prompts() if ordinary is None else ordinary))
        if threshold is None:
            check_rate(false_positive_rate, len(self.ordinary))
        self.pipe, self.action, self.space, self.progress = pipe, action, space, progress
        self.threshold, self.false_positive_rate, self.target = threshold, false_positive_rate, target
        self.iterations, self.lr, self.method, self.fall = iterations, lr, method, fall
        self.report = GuardReport()
        self._model = open_model(pipe, scheduler="own")
        self._levels: dict[tuple[int, tuple[int, ...]], np.ndarray] = {}
        self._off, self._may_stop, self._scale = False, False, 1.0
        self._first: tuple[Tensor, Conditioning] | None = None
        self._held = torch.zeros(0, dtype=torch.bool)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The pipeline's own result.

        Raises:
            MemorizationRefused: a prompt is flagged and the action is ``refuse``.
            ValueError: guidance of 1 or less, with which there is nothing to measure.
        """
        call = self._bound(args, kwargs)
        self.report, self._first = GuardReport(), None
        before = random_state(call.get("generator"))
        self._may_stop = self.action == "minimize"
        hook = self._model.model.register_forward_hook(self._hook, with_kwargs=True)
        try:
            try:
                output = self.pipe(**call)
            except _Stop as stop:
                restore_random_state(before, call.get("generator"))
                self._may_stop = False
                again = self._minimized(call, stop.seen)
                first, self.report, self._first = self.report, GuardReport(), None
                output = self.pipe(**again)
                first.magnitudes += self.report.magnitudes[1:]
                self.report = first
        finally:
            hook.remove()
        if self.action == "warn" and any(self.report.flagged):
            warnings.warn(self._sentence(), MemorizationWarning, stacklevel=2)
        return output

    def _bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The call's arguments by name; refuses what cannot be measured."""
        signature = inspect.signature(type(self.pipe).__call__)
        call = dict(signature.bind_partial(self.pipe, *args, **kwargs).arguments)
        call.pop("self", None)
        call.update(call.pop("kwargs", {}))
        name = self._model.denoiser.guidance_name
        self._scale = float(call.get(name, signature.parameters[name].default))
        if not self._scale > 1:
            raise ValueError(
                f"{name} = {self._scale:g}: must be above 1; without guidance the pipeline never computes the "
                "unconditional branch that the guard compares with"
            )
        if call.get("skip_guidance_layers") is not None:
            raise ValueError(
                "skip_guidance_layers: must be left out; it adds calls of the network that the guard cannot tell from "
                "those that it measures"
            )
        given = call.get("negative_prompt_embeds") is not None
        if self._model.denoiser.separate_branches and not given:
            call.setdefault("negative_prompt", "")  # without one such a pipeline does not guide at all
        if call.get("negative_prompt") or given:
            warnings.warn(
                "with a negative prompt the magnitude is measured against it, not against the empty prompt: the "
                "threshold then holds only roughly",
                stacklevel=3,
            )
        return call

    def _hook(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Measure one step of the pipeline; for ``delay`` the network's output with guidance taken out."""
        if self._off:
            return None
        prediction = output[0] if isinstance(output, tuple) else output.sample
        model_input, timestep, states = self._model.denoiser.read_call(args, kwargs)
        both = self._branches(prediction, states)
        if both is None:
            return None
        without, with_, uncond, cond = both
        seen = _Seen(model_input[: len(cond)].detach(), timestep.flatten()[0], cond, uncond)
        delta = with_.float() - without.float()
        if delta.ndim == model_input.ndim:
            delta = delta[:, : model_input.shape[1]]  # without a learned variance (PixArt)
        measured = norm_of(delta) * self._model.factor(seen.timestep, self.space)
        if not self.report.magnitudes:
            self._judge(measured, seen)
        elif self.action == "delay":
            self._release(measured)
        self.report.magnitudes.append(measured.tolist())
        if self.action != "delay" or not self._held.any():
            return None
        changed = self._unguided(without, with_)
        return (changed, *output[1:]) if isinstance(output, tuple) else type(output)(sample=changed)

    def _branches(
        self, prediction: Tensor, states: Conditioning
    ) -> tuple[Tensor, Tensor, Conditioning, Conditioning] | None:
        """(unconditional, conditional) predictions and conditionings of a step; None after the first of two calls."""
        if not self._model.denoiser.separate_branches:
            half = len(states) // 2
            return *prediction.chunk(2), states.rows(slice(half)), states.rows(slice(half, None))  # type: ignore[return-value]
        if self._first is None:
            self._first = prediction, states
            return None
        (with_, cond), self._first = self._first, None
        # Flux's pipeline leaves one negative prompt for all images as one row.
        return prediction, with_, states if len(states) == len(cond) else states.expand(len(cond)), cond

    def _unguided(self, without: Tensor, with_: Tensor) -> Tensor:
        """What the network returns so that the guided prediction of the images that are held is the unconditional."""
        keep = self._held.to(with_.device).view(-1, *([1] * (with_.ndim - 1)))
        if not self._model.denoiser.separate_branches:
            # cond := uncond makes uncond + scale (cond - uncond) the unguided prediction
            return torch.cat([without, torch.where(keep, without, with_)])
        # cond has been returned already: uncond := u' with u' + scale (cond - u') = uncond
        instead = (self._scale * with_ - without) / (self._scale - 1.0)
        return torch.where(keep, instead, without)

    def _judge(self, measured: Tensor, seen: _Seen) -> None:
        """The first step: who is flagged, and what follows at once."""
        self.report.threshold = self._threshold(seen.timestep, seen.model_input)
        flags = measured > self.report.threshold
        self.report.flagged = flags.tolist()
        self.report.minimized = [math.nan] * len(flags)
        self._held = flags.cpu().clone()
        self.report.released = [None if held else 0 for held in self.report.flagged]
        if not flags.any():
            return
        if self.action == "refuse":
            self.report.magnitudes.append(measured.tolist())
            raise MemorizationRefused(self._sentence() + "; the guard refuses to draw it", self.report)
        if self.action == "minimize" and self._may_stop:
            self.report.magnitudes.append(measured.tolist())
            raise _Stop(seen)

    def _release(self, measured: Tensor) -> None:
        """Guidance comes back where the magnitude has fallen from its peak and now rises again."""
        past = np.asarray(self.report.magnitudes)
        now = measured.cpu().numpy()
        fallen = past[-1] <= self.fall * past.max(axis=0)
        for image in np.flatnonzero(self._held.numpy() & fallen & (now > past[-1])):
            self._held[image] = False
            self.report.released[image] = len(past)

    def _minimized(self, call: dict[str, Any], seen: _Seen) -> dict[str, Any]:
        """The same call with the flagged images' embeddings minimised."""
        flagged, model = self.report.flagged, self._model
        rows = torch.tensor(flagged, device=seen.model_input.device).nonzero().flatten()
        self._off = True
        try:
            fitted = minimize_embeddings(
                model, seen.model_input[rows], seen.timestep, seen.cond.rows(rows), seen.uncond.rows(rows),
                self._target(seen.timestep, seen.model_input), iterations=self.iterations, lr=self.lr,
                method=self.method, space=self.space,
            )  # fmt: skip
        finally:
            self._off = False
        states = seen.cond.map(torch.Tensor.clone)
        for name, value in states.embeddings.items():
            value[rows] = fitted.cond.embeddings[name].to(value.dtype)
        for row, magnitude in zip(rows.tolist(), fitted.magnitude, strict=True):
            self.report.minimized[row] = magnitude
        again = {key: value for key, value in call.items() if not key.startswith(PROMPTS)}
        return {**again, **model.denoiser.call_arguments(states, seen.uncond, self._scale), "num_images_per_prompt": 1}

    def _threshold(self, timestep: Tensor, model_input: Tensor) -> float:
        if self.threshold is not None:
            return self.threshold
        ordered = np.sort(self._ordinary_levels(timestep, model_input))
        allowed = math.floor(self.false_positive_rate * (len(ordered) + 1) + 1e-9) - 1
        return float(ordered[len(ordered) - 1 - max(allowed, 0)])

    def _target(self, timestep: Tensor, model_input: Tensor) -> float:
        if self.target is not None:
            return self.target
        if self.threshold is not None:
            return self.threshold / 2
        return float(np.quantile(self._ordinary_levels(timestep, model_input), TARGET_QUANTILE))

    def _ordinary_levels(self, timestep: Tensor, model_input: Tensor) -> np.ndarray:
        """First-step magnitudes of the ordinary prompts at this timestep and size, measured once."""
        key = (int(timestep), tuple(model_input.shape[1:]))
        if key not in self._levels:
            self._off = True
            try:
                self._levels[key] = self._measure_ordinary(timestep, model_input)
            finally:
                self._off = False
        return self._levels[key]

    @torch.no_grad()
    def _measure_ordinary(self, timestep: Tensor, model_input: Tensor) -> np.ndarray:
        found = []
        generator = torch.Generator("cpu").manual_seed(0)
        with progress_bar(self.progress) as bar:
            task = bar.add_task("the guard measures ordinary prompts", total=len(self.ordinary))
            for start in range(0, len(self.ordinary), 8):
                part = self.ordinary[start : start + 8]
                # what any scheduler hands the network first: noise of unit variance
                noise = torch.randn(len(part), *model_input.shape[1:], generator=generator).to(model_input.device)
                cond, uncond = self._model.encode(part), self._model.unconditional(len(part))
                with_, without = self._model.predict(noise, timestep, cond, uncond)
                found.append(norm_of(with_ - without) * self._model.factor(timestep, self.space))
                bar.advance(task, len(part))
        levels = torch.cat(found).double().cpu().numpy()
        if not np.isfinite(levels).all():
            raise ValueError("the model gives values that are not finite for ordinary prompts; take another precision")
        return levels

    def _sentence(self) -> str:
        first, flagged = self.report.magnitudes[0], self.report.flagged
        worst = max(value for value, flag in zip(first, flagged, strict=True) if flag)
        return (
            f"{sum(flagged)} of {len(flagged)} images come from a prompt that this model seems to have memorised: "
            f"magnitude {worst:.3g} at the first step, above {self.report.threshold:.3g}"
        )
