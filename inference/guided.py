"""A finished model, opened for measuring: its guided trajectory step by step, and both branches of each step.

Everything that checks a model (detect, explain, minimize) goes through here and through the family's denoiser adapter,
so that none of them knows a model family.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch
from torch import Tensor

from memsieve.filtering.denoisers.base import EPSILON_FLOOR, Conditioning, Denoiser
from memsieve.filtering.denoisers.quantize import precision_of
from memsieve.inference.base import Base
from memsieve.inference.generate import image_seed, sampling_scheduler
from memsieve.inference.step import Against, Compared, Seen, Step, norm_of

__all__ = ["Combine", "GuidedModel", "pipeline_resolution"]

Combine = Callable[[Step], Tensor]
"""The prediction [B, ...] that a sampler follows at a step."""


class GuidedModel:
    """A denoiser with a scheduler to sample with, in evaluation mode, its weights without gradients.

    Args:
        denoiser: the family's adapter; its ``model`` is used as it stands.
        pipe: the diffusers pipeline that gives the scheduler.
        scheduler: ``auto``, ``ddim`` or ``own``, as in ``memsieve.inference.generate``.
        base: the model before fine-tuning, where it is known.
    """

    def __init__(self, denoiser: Denoiser, pipe: Any, scheduler: str = "auto", base: Base | None = None) -> None:
        self.denoiser, self.pipe, self.scheduler_name, self.base = denoiser, pipe, scheduler, base
        self.model = denoiser.model
        self._scheduler = sampling_scheduler(pipe, scheduler)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return precision_of(self.model)

    @property
    def resolution(self) -> int:
        """Pixels a side that the model was made for."""
        return self.denoiser.resolution

    def noise(self, prompts: Sequence[str], images: Sequence[int], seed: int, resolution: int | None = None) -> Tensor:
        """Initial noise [B, C, h, w] float32, fixed by (seed, prompt, image number): not by the order of a list."""
        shape = self.denoiser.latent_shape(resolution or self.resolution)
        drawn = [
            torch.randn(shape, generator=torch.Generator("cpu").manual_seed(image_seed(seed, prompt, j)))
            for prompt, j in zip(prompts, images, strict=True)
        ]
        return torch.stack(drawn).to(self.device)

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """The conditioning of ``prompts``, without gradients."""
        with torch.no_grad():
            return self.denoiser.conditioning(list(prompts)).to(self.device)

    def unconditional(self, count: int) -> Conditioning:
        """The family's own unconditional conditioning, ``count`` times."""
        with torch.no_grad():
            return self.denoiser.unconditional(count).to(self.device)

    def timesteps(self, schedule_steps: int, resolution: int | None = None) -> Tensor:
        """The timesteps of a schedule of that many steps."""
        return self._prepared(schedule_steps, resolution or self.resolution).timesteps

    def predict(
        self, model_input: Tensor, timestep: Tensor, cond: Conditioning, uncond: Conditioning
    ) -> tuple[Tensor, Tensor]:
        """(conditional, unconditional) predictions [B, ...] float32, in one pass of the network over 2B rows."""
        both = Conditioning.cat([uncond.to(dtype=self.dtype), cond.to(dtype=self.dtype)])
        without, with_ = self.predict_one(torch.cat([model_input, model_input]), timestep, both).chunk(2)
        return with_, without

    def predict_one(self, model_input: Tensor, timestep: Tensor, states: Conditioning) -> Tensor:
        """The prediction [B, ...] float32 of one branch."""
        times = timestep.to(self.device).expand(len(model_input))
        states = states.to(dtype=self.dtype)
        return self.denoiser.predict(self.model, model_input.to(self.dtype), times, states).float()

    def factor(self, timestep: Tensor, space: str = "auto") -> float:
        """What ||cond - uncond|| is multiplied by at this timestep.

        In epsilon space d eps / d prediction; 1 in the native space, and in ``auto`` wherever epsilon space says
        nothing (a flow sampler's first step, a zero-terminal-SNR model's).
        """
        if space == "native":
            return 1.0
        value = float(self.denoiser.epsilon_factor(timestep.reshape(1))[0])
        return 1.0 if space == "auto" and value < EPSILON_FLOOR else value

    def magnitude(self, step: Step, space: str = "auto") -> Tensor:
        """||Delta||_2 of each image [B] float32 (Wen et al., Eq. 3).

        Delta is scaled rather than both predictions converted and subtracted: x_t cancels exactly instead of to
        rounding, which a small Delta would drown in.
        """
        return self.measured(step, "magnitude", space)

    def measured(self, step: Step, name: str, space: str = "auto") -> Tensor:
        """One of ``MEASURES`` of each image at a step, [B] float32.

        ``magnitude``: see there. ``drift``: ||eps_c - eps_c^base|| / sqrt(n). ``anchored_magnitude``: ||eps_c -
        eps_0^base|| / sqrt(n). x_t cancels as it does in the magnitude.
        """
        return self.norm(step.cond - step.other(name), step.timestep, name, space)

    def norm(self, delta: Tensor, timestep: Tensor, name: str, space: str = "auto") -> Tensor:
        """The size of a difference of predictions [B, ...] as the measure ``name`` has it, [B] float32."""
        scale = self.factor(timestep, space)
        return norm_of(delta) * (scale if name == "magnitude" else scale / float(delta[0].numel()) ** 0.5)

    def compared(self, step: Step, cond: Conditioning, uncond: Conditioning, name: str) -> Compared:
        """A measure at ``step``, which was reached with these conditionings, as a function of the first."""
        seen = Seen(step.model_input.detach(), step.timestep, cond, uncond)
        return Compared(seen, name, step.other(name).detach())

    def against(self, prompts: Sequence[str], measures: Sequence[str]) -> Against | None:
        """What the base is to be asked about ``prompts`` for these measures; None where it is not needed.

        Raises:
            ValueError: it is needed and not there.
        """
        asked = [name for name in measures if name != "magnitude"]
        if not asked:
            return None
        if self.base is None:
            raise ValueError(f"{asked[0]} compares with the model before fine-tuning: name it with --base")
        if "anchored_magnitude" in asked and self.denoiser.distilled is not None:
            raise ValueError(
                "anchored_magnitude: a guidance-distilled model has no unconditional prediction; take drift"
            )
        with torch.no_grad():
            uncond = self.base.denoiser.unconditional(len(prompts)) if "anchored_magnitude" in asked else None
            cond = self.base.encode(prompts) if "drift" in asked else None
        return Against(*(part.to(self.device) if part is not None else None for part in (cond, uncond)))

    def trajectory(
        self,
        noise: Tensor,
        cond: Conditioning,
        uncond: Conditioning | None,
        *,
        steps: int,
        schedule_steps: int,
        guidance_scale: float,
        generators: list[torch.Generator] | None = None,
        against: Against | None = None,
        combine: Combine | None = None,
    ) -> Generator[Step, Tensor | None, Tensor]:
        """The first ``steps`` of the sampler's own guided trajectory of ``schedule_steps``, from ``noise`` [B, ...].

        A generator: nothing beyond the last step asked for is computed, and nothing is decoded. Row numbers [B'] sent
        back for a step are the images that go on; the others leave the batch. It returns the latents after the last
        step. A guidance-distilled model follows its conditional prediction, with an embedded scale of 1.

        Args:
            uncond: None where ``combine`` needs no unconditional prediction, which is then not made.
            against: what the base is asked at each step.
            combine: what the sampler follows in place of the guided prediction.
        """
        scheduler = self._prepared(schedule_steps, self.pixels(noise))
        x = noise * float(getattr(scheduler, "init_noise_sigma", 1.0))
        extra: dict[str, Any] = {}
        if generators is not None and "generator" in inspect.signature(scheduler.step).parameters:
            extra["generator"] = generators
        scale = getattr(scheduler, "scale_model_input", None)
        for index, timestep in enumerate(scheduler.timesteps[:steps]):
            model_input = x if scale is None else scale(x, timestep)
            with torch.no_grad():
                step = self._asked(index, timestep, model_input, cond, uncond)
                if against is not None:
                    self._ask_base(step, against)
            kept = yield step
            guided = self.guided(step, guidance_scale) if combine is None else combine(step)
            if kept is not None:
                keep_rows(scheduler, kept, x.shape)
                x, guided = x[kept], guided[kept]
                cond, uncond = cond.rows(kept), uncond.rows(kept) if uncond is not None else None
                against = against.rows(kept) if against is not None else None
                if "generator" in extra:
                    extra["generator"] = [extra["generator"][row] for row in kept.tolist()]
            x = scheduler.step(guided, timestep, x, return_dict=False, **extra)[0]
        return x

    def guided(self, step: Step, scale: float) -> Tensor:
        """What the family's pipeline samples with; of a guidance-distilled model its one prediction."""
        return step.cond if step.uncond is None else self.denoiser.guided(step.cond, step.uncond, scale)

    def _asked(
        self, index: int, timestep: Tensor, model_input: Tensor, cond: Conditioning, uncond: Conditioning | None
    ) -> Step:
        """The model's own predictions: both branches, of a guidance-distilled model the one there is."""
        if self.denoiser.distilled is not None or uncond is None:
            return Step(index, timestep, model_input, self.predict_one(model_input, timestep, cond), None)
        return Step(index, timestep, model_input, *self.predict(model_input, timestep, cond, uncond))

    def _ask_base(self, step: Step, against: Against) -> None:
        """The base's predictions at the same input."""
        assert self.base is not None
        if against.cond is not None:
            step.base_cond = self.base.predict(step.model_input, step.timestep, against.cond)
        if against.uncond is not None:
            step.base_uncond = self.base.predict(step.model_input, step.timestep, against.uncond)

    def _prepared(self, schedule_steps: int, resolution: int) -> Any:
        scheduler = type(self._scheduler).from_config(self._scheduler.config)
        self.denoiser.set_timesteps(scheduler, schedule_steps, resolution, self.device)
        return scheduler

    def pixels(self, latents: Tensor) -> int:
        """Pixels a side of the image that ``latents`` [B, C, h, w] are decoded to."""
        own = self.resolution
        return own * int(latents.shape[-1]) // self.denoiser.latent_shape(own)[-1]


def keep_rows(scheduler: Any, rows: Tensor, shape: torch.Size) -> None:
    """Leave only ``rows`` of the predictions and latents, of this shape, that a multistep scheduler remembers."""

    def kept(value: Any) -> Any:
        if isinstance(value, Tensor) and value.shape == shape:
            return value[rows]
        return [kept(entry) for entry in value] if isinstance(value, list) else value

    for name, value in vars(scheduler).items():
        if isinstance(value, (Tensor, list)):
            setattr(scheduler, name, kept(value))


def pipeline_resolution(pipe: Any) -> int:
    """Pixels a side that a pipeline was made for."""
    network = getattr(pipe, "unet", None) or pipe.transformer
    size = network.config.get("sample_size") or pipe.default_sample_size
    return int((size if isinstance(size, int) else size[0]) * pipe.vae_scale_factor)
