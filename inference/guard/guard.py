"""A diffusers pipeline that notices a memorised prompt while it samples, and does what its user chose.

    guarded = MemorizationGuard(pipe, action="minimize")
    image = guarded("a prompt").images[0]
    guarded.report.flagged

Guided sampling computes both branches anyway, so measuring costs nothing: a forward hook on the denoising network reads
them. The pipeline is called as it is, with its own arguments. Steps without guidance, after a callback has switched it
off, are not measured.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from memsieve.filtering.conformal import critical_value
from memsieve.filtering.denoisers.lora import AdapterOff, adapter_off, has_adapter
from memsieve.inference.detect.detect import check_rate
from memsieve.inference.gradients import check_differentiable
from memsieve.inference.guard.branches import Branches, BranchReader, in_a_row
from memsieve.inference.guard.by_base import BaseCalls
from memsieve.inference.guard.call import bound, guided_by, images_of, refuse_unmeasured
from memsieve.inference.guard.levels import OrdinaryLevels
from memsieve.inference.guard.minimized import minimized_call
from memsieve.inference.guard.report import (
    GuardReport,
    MemorizationRefused,
    MemorizationWarning,
    random_state,
    restore_random_state,
)
from memsieve.inference.guard.settings import GuardSettings
from memsieve.inference.guided import GuidedModel
from memsieve.inference.minimize.minimize import TARGET_QUANTILE
from memsieve.inference.opened import open_model
from memsieve.inference.prompts.lists import ordinary_prompts
from memsieve.inference.step import Seen, norm_of

__all__ = ["ACTIONS", "GuardReport", "GuardSettings", "MemorizationGuard", "MemorizationRefused", "MemorizationWarning"]

ACTIONS: Final = ("warn", "refuse", "minimize", "delay", "base")


class _Stop(Exception):
    """Ends a pipeline's call at its first step, with what the network saw there."""

    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self.seen = seen


class MemorizationGuard:
    """Wrap ``pipe``; call the guard as the pipeline would be called.

    What the call gives the network besides the prompt (SDXL's sizes) is given to it in measuring and minimising too.
    Flux is guided only where a negative prompt is given; the guard gives it the empty one where it is left out.

    Args:
        action: ``warn``; ``refuse`` raises ``MemorizationRefused`` before an image exists; ``minimize`` changes the
            embeddings of flagged images (Wen et al., 2024) and samples from the same noise; ``delay`` leaves guidance
            off for flagged images until the magnitude has fallen and passes a local minimum (Jain et al., CVPR 2025);
            ``base`` lets the model before fine-tuning draw the first steps of flagged images. Beside a base
            ``minimize`` brings the drift down, not the magnitude.
        base: the model before fine-tuning: a pipeline, its folder, or ``"lora"``, which is the pipeline's own network
            with its adapters switched off. What is compared is then the drift ||eps_c - eps_c^base|| / sqrt(n), at one
            forward more in a call, and not the magnitude.
        threshold: magnitude, or drift, at the first step above which an image is flagged. Left out, the level that
            ``false_positive_rate`` of ``ordinary`` prompts exceed, measured once for each first timestep and size.
        ordinary: prompts known not to be memorised; the shipped list if left out.
        settings: of ``minimize`` and ``delay``, and the space that is measured in.

    Raises:
        ValueError: a setting out of range, a model that cannot be guarded (guidance-distilled, unknown family), or a
            base with other text encoders: a call's embeddings are none of its own.
    """

    def __init__(
        self,
        pipe: Any,
        action: str = "warn",
        *,
        base: Any = None,
        threshold: float | None = None,
        false_positive_rate: float = 0.01,
        ordinary: Sequence[str] | None = None,
        settings: GuardSettings | None = None,
        progress: bool = True,
    ) -> None:
        if action not in ACTIONS:
            raise ValueError(f"action = '{action}': must be one of {', '.join(ACTIONS)}")
        if threshold is not None and not threshold > 0:
            raise ValueError(f"threshold = {threshold:g}: must be above 0")
        known = list(dict.fromkeys(ordinary_prompts() if ordinary is None else ordinary))
        if threshold is None:
            check_rate(false_positive_rate, len(known))
        self.pipe, self.action, self.settings = pipe, action, settings or GuardSettings()
        self.threshold, self.false_positive_rate = threshold, false_positive_rate
        self.report = GuardReport()
        if action == "base" and base is None:
            raise ValueError("action = 'base' draws with the model before fine-tuning: give it with base=...")
        self._model = open_model(pipe, scheduler="own", base=_base_of(pipe) if base == "lora" else base)
        _check_base(self._model)
        if action == "minimize":
            check_differentiable(self._model.model)
        self._levels = OrdinaryLevels(self._model, known, self.settings.space, progress)
        self._off, self._may_stop, self._scale = False, False, 1.0
        self._reader = BranchReader(self._model.denoiser, 1)
        beside = self._model.base
        self._by_base = None if beside is None else BaseCalls(beside)
        self._held = torch.zeros(0, dtype=torch.bool)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The pipeline's own result.

        Raises:
            MemorizationRefused: a prompt is flagged and the action is ``refuse``.
            ValueError: the call is not guided, so that there is nothing to measure, or has an argument that would
                make the measurement wrong.
        """
        call = bound(self.pipe, args, kwargs)
        self._scale = guided_by(self._model.denoiser, type(self.pipe), call)
        refuse_unmeasured(type(self.pipe), call, self.threshold is not None)
        if call.get("negative_prompt") or call.get("negative_prompt_embeds") is not None:
            warnings.warn(
                "with a negative prompt the magnitude is measured against it, not against the empty prompt: the "
                "threshold then holds only roughly",
                stacklevel=2,
            )
        before = random_state(call.get("generator"))
        self._may_stop = self.action == "minimize"
        hook = self._model.model.register_forward_hook(self._hook, with_kwargs=True)
        try:
            try:
                output = self._run(call)
            except _Stop as stop:
                restore_random_state(before, call.get("generator"))
                self._may_stop = False
                again = self._minimized(call, stop.seen)
                first = self.report
                output = self._run(again)
                first.magnitudes += self.report.magnitudes[1:]
                self.report = first
        finally:
            hook.remove()
        if self.action == "warn" and any(self.report.flagged):
            warnings.warn(self._sentence(), MemorizationWarning, stacklevel=2)
        return output

    def _run(self, call: dict[str, Any]) -> Any:
        """The pipeline, with a new report."""
        self.report = GuardReport()
        self._reader = BranchReader(self._model.denoiser, images_of(call))
        output = self.pipe(**call)
        self._reader.finish()
        return output

    def _hook(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Measure one step of the pipeline; for ``delay`` the network's output with guidance taken out, for ``base``
        the base's."""
        if self._off:
            return None
        if self._by_base is not None:
            self._by_base.note(args, kwargs)
        both = self._reader.read(args, kwargs, output)
        if both is None:
            return None
        factor = self._model.factor(both.seen.timestep, self.settings.space)
        measured = norm_of(both.delta) * factor
        if not self.report.magnitudes:
            self._judge(measured, self._drift(both, factor), both.seen)
        elif self.action == "delay":
            self._release(measured)
        self.report.magnitudes.append(measured.tolist())
        changed = self._changed(both)
        if changed is None:
            return None
        return self._model.denoiser.as_output(changed, output)

    def _drift(self, both: Branches, factor: float) -> Tensor | None:
        """How far each image's prediction lies from the base's; None where that is not known."""
        if self._by_base is None:
            return None
        self._off = True  # the base may be the same network
        try:
            return self._by_base.drift(both, factor)
        finally:
            self._off = False

    def _changed(self, both: Branches) -> Tensor | None:
        """What the network returns in the place of its output; None leaves it."""
        if not self._held.any():
            return None
        if self.action == "delay":
            return self._unguided(both)
        steps = math.ceil(self.settings.base_share * len(self.pipe.scheduler.timesteps))
        if self.action != "base" or len(self.report.magnitudes) > steps:
            return None
        assert self._by_base is not None
        self._off = True
        try:
            return self._by_base.instead(both, self._held, self._scale)
        finally:
            self._off = False

    def _unguided(self, both: Branches) -> Tensor:
        """What the network returns so that the guided prediction of the images that are held is the unconditional."""
        without, with_ = both.without, both.with_
        keep = self._held.to(with_.device).view(-1, *([1] * (with_.ndim - 1)))
        if not self._model.denoiser.separate_branches:
            # cond := uncond makes uncond + scale (cond - uncond) the unguided prediction
            return in_a_row(without, torch.where(keep, without, with_), self._model.denoiser.prompt_first)
        # cond has been returned already: uncond := u' with u' + scale (cond - u') = uncond
        instead = (self._scale * with_ - without) / (self._scale - 1.0)
        return torch.where(keep, instead, without)

    def _judge(self, measured: Tensor, drift: Tensor | None, seen: Seen) -> None:
        """The first step: who is flagged, and what follows at once."""
        self.report.threshold = self._threshold(seen)
        self.report.drift = [] if drift is None else drift.tolist()
        flags = (measured if drift is None else drift) > self.report.threshold
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
        fallen = past[-1] <= self.settings.fall * past.max(axis=0)
        for image in np.flatnonzero(self._held.numpy() & fallen & (now > past[-1])):
            self._held[image] = False
            self.report.released[image] = len(past)

    def _minimized(self, call: dict[str, Any], seen: Seen) -> dict[str, Any]:
        """The same call with the flagged images' embeddings minimised."""
        target = self._target(seen)
        self._off = True
        try:
            return minimized_call(self._model, call, seen, self.report, (target, self._scale), self.settings)
        finally:
            self._off = False

    def _threshold(self, seen: Seen) -> float:
        if self.threshold is not None:
            return self.threshold
        name = "magnitude" if self._by_base is None else "drift"
        return critical_value(self._ordinary(seen, name), self.false_positive_rate)

    def _target(self, seen: Seen) -> float:
        if self.settings.target is not None:
            return self.settings.target
        if self.threshold is not None:
            return self.threshold / 2
        name = "magnitude" if self._by_base is None else "drift"
        return float(np.quantile(self._ordinary(seen, name), TARGET_QUANTILE))

    def _ordinary(self, seen: Seen, name: str) -> np.ndarray:
        self._off = True
        try:
            return self._levels.at(seen, name)
        finally:
            self._off = False

    def _sentence(self) -> str:
        flagged, name = self.report.flagged, "drift" if self.report.drift else "magnitude"
        first = self.report.drift or self.report.magnitudes[0]
        worst = max(value for value, flag in zip(first, flagged, strict=True) if flag)
        return (
            f"{sum(flagged)} of {len(flagged)} images come from a prompt that stands out as memorised ones do: "
            f"{name} {worst:.3g} at the first step, above {self.report.threshold:.3g}"
        )


def _base_of(pipe: Any) -> AdapterOff:
    """The pipeline's network with its adapters switched off.

    Raises:
        ValueError: it has none, or a text encoder has some too.
    """
    network = getattr(pipe, "unet", None) or pipe.transformer
    with adapter_off(network):
        pass
    for name, part in pipe.components.items():
        if name.startswith("text_encoder") and has_adapter(part):
            raise ValueError(
                f"base = 'lora': the pipeline's {name} has an adapter too, and a call's embeddings would still be the "
                "fine-tuned encoder's; take the LoRA of the text encoders out, or do without base"
            )
    return AdapterOff(network)


def _check_base(model: GuidedModel) -> None:
    """Refuse a base that calls cannot be handed on to.

    Raises:
        ValueError: says why, and what can be done instead.
    """
    if model.base is None:
        return
    if model.denoiser.distilled is not None:
        raise ValueError(
            f"the pipeline is guidance-distilled: {model.denoiser.distilled}. The guard reads both branches of a call; "
            "detect, explain and minimize, which need the conditional one alone, work beside its base"
        )
    if not model.base.same_text:
        raise ValueError(
            f"base = '{model.base.name}': its text encoders are not the pipeline's (they were fine-tuned too), so that "
            "the embeddings of a call mean something else to it. detect and minimize, which encode a prompt by each "
            "model's own, can compare the two; the guard works without base"
        )
