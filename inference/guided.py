"""A finished model, opened for measuring: its guided trajectory step by step, and both branches of each step.

Everything that checks a model (detect, explain, minimize) goes through here and through the family's denoiser adapter,
so that none of them knows a model family.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from memsieve.filtering.denoisers.base import EPSILON_FLOOR, Conditioning, Denoiser
from memsieve.filtering.denoisers.registry import denoiser_of, open_denoiser
from memsieve.inference.generate import image_seed, sampling_scheduler

__all__ = ["SPACES", "GuidedModel", "Seen", "Step", "norm_of", "open_model", "pipeline_resolution"]

SPACES: Final = ("auto", "epsilon", "native")


@dataclass(slots=True)
class Step:
    """One step of a guided trajectory, before the scheduler moves on.

    ``model_input`` [B, ...] is what the network sees (the latents as the scheduler scales them), ``cond`` and
    ``uncond`` its predictions, float32, in the model's own parametrisation.
    """

    index: int
    timestep: Tensor
    model_input: Tensor
    cond: Tensor
    uncond: Tensor


@dataclass(frozen=True, slots=True)
class Seen:
    """What the network saw at a step: its input [B, C, h, w], the timestep [], and both branches' conditioning."""

    model_input: Tensor
    timestep: Tensor
    cond: Conditioning
    uncond: Conditioning


class GuidedModel:
    """A denoiser with a scheduler to sample with, in evaluation mode, its weights without gradients.

    Args:
        denoiser: the family's adapter; its ``model`` is used as it stands.
        pipe: the diffusers pipeline that gives the scheduler.
        scheduler: ``auto``, ``ddim`` or ``own``, as in ``memsieve.inference.generate``.
    """

    def __init__(self, denoiser: Denoiser, pipe: Any, scheduler: str = "auto") -> None:
        self.denoiser, self.pipe, self.scheduler_name = denoiser, pipe, scheduler
        self.model = denoiser.model
        self._scheduler = sampling_scheduler(pipe, scheduler)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

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
        doubled = torch.cat([model_input, model_input]).to(self.dtype)
        times = timestep.to(self.device).expand(len(doubled))
        predicted = self.denoiser.predict(self.model, doubled, times, both).float()
        without, with_ = predicted.chunk(2)
        return with_, without

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
        return norm_of(step.cond - step.uncond) * self.factor(step.timestep, space)

    def trajectory(
        self,
        noise: Tensor,
        cond: Conditioning,
        uncond: Conditioning,
        *,
        steps: int,
        schedule_steps: int,
        guidance_scale: float,
        generators: list[torch.Generator] | None = None,
    ) -> Generator[Step, Tensor | None, None]:
        """The first ``steps`` of the sampler's own guided trajectory of ``schedule_steps``, from ``noise`` [B, ...].

        A generator: nothing beyond the last step asked for is computed, and nothing is decoded. Row numbers [B'] sent
        back for a step are the images that go on; the others leave the batch.
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
                step = Step(index, timestep, model_input, *self.predict(model_input, timestep, cond, uncond))
            kept = yield step
            guided = step.uncond + guidance_scale * (step.cond - step.uncond)
            if kept is not None:
                keep_rows(scheduler, kept, x.shape)
                x, guided = x[kept], guided[kept]
                cond, uncond = cond.rows(kept), uncond.rows(kept)
                if "generator" in extra:
                    extra["generator"] = [extra["generator"][row] for row in kept.tolist()]
            x = scheduler.step(guided, timestep, x, return_dict=False, **extra)[0]

    def _prepared(self, schedule_steps: int, resolution: int) -> Any:
        scheduler = type(self._scheduler).from_config(self._scheduler.config)
        self.denoiser.set_timesteps(scheduler, schedule_steps, resolution, self.device)
        return scheduler

    def pixels(self, latents: Tensor) -> int:
        """Pixels a side of the image that ``latents`` [B, C, h, w] are decoded to."""
        own = self.resolution
        return own * int(latents.shape[-1]) // self.denoiser.latent_shape(own)[-1]


def pipeline_resolution(pipe: Any) -> int:
    """Pixels a side that a pipeline was made for."""
    network = getattr(pipe, "unet", None) or pipe.transformer
    size = network.config.get("sample_size") or pipe.default_sample_size
    return int((size if isinstance(size, int) else size[0]) * pipe.vae_scale_factor)


def keep_rows(scheduler: Any, rows: Tensor, shape: torch.Size) -> None:
    """Leave only ``rows`` of the predictions and latents, of this shape, that a multistep scheduler remembers."""

    def kept(value: Any) -> Any:
        if isinstance(value, Tensor) and value.shape == shape:
            return value[rows]
        return [kept(entry) for entry in value] if isinstance(value, list) else value

    for name, value in vars(scheduler).items():
        if isinstance(value, (Tensor, list)):
            setattr(scheduler, name, kept(value))


def norm_of(delta: Tensor) -> Tensor:
    """L2 norm of each row, [B] float32."""
    return torch.linalg.vector_norm(delta.float().flatten(1), dim=1)


@torch.inference_mode(False)  # weights that are loaded here may be needed for gradients
def open_model(
    model: Any, *, scheduler: str = "auto", device: str | None = None, dtype: torch.dtype | None = None
) -> GuidedModel:
    """A pipeline folder, a hub id, or a diffusers pipeline in memory, opened for measuring.

    A pipeline in memory is used as it stands: its parts are shared.

    Raises:
        ValueError: no such folder, a part is missing, guidance is distilled into the model, or an unknown family.
    """
    if isinstance(model, GuidedModel):
        return model
    if not isinstance(model, (str, Path)):
        shared = denoiser_of(model)
        _refuse_distilled(type(model).__name__, shared)
        return GuidedModel(shared, model, scheduler)
    kind = dtype or torch.float32
    denoiser = open_denoiser(str(model), dtype=kind, model_dtype=kind, option="--model")
    _refuse_distilled(str(model), denoiser)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    denoiser.to(place)
    denoiser.model.to(place)
    denoiser.model.requires_grad_(False).eval()
    return GuidedModel(denoiser, denoiser.pipeline(), scheduler)


def _refuse_distilled(what: str, denoiser: Denoiser) -> None:
    if denoiser.distilled is not None:
        raise ValueError(
            f"--model: '{what}' is guidance-distilled: {denoiser.distilled}. So the magnitude, and with it detect, "
            "explain, minimize, the guard and the attack, cannot work; verify, and probe without --attack, which look "
            "at images, can, as can training on reference_residual and audits on loss and reference_ratio"
        )
