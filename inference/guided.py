"""A finished model, opened for measuring: its guided trajectory step by step, and both branches of each step.

Everything that checks a model (detect, explain, minimize) goes through here and through the family's denoiser adapter,
so that none of them knows a model family. Conditionings are handled as a whole (``each``), a single tensor or a dict of
tensors for families with several text encoders.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from filtering.denoisers.base import EPSILON_FLOOR, Denoiser
from filtering.denoisers.stable_diffusion import StableDiffusionDenoiser
from inference.generate import image_seed, sampling_scheduler

__all__ = ["SPACES", "Conditioning", "GuidedModel", "Step", "each", "norm_of", "open_model", "pipeline_resolution"]

Conditioning = Tensor | dict[str, Tensor]
"""What a denoiser conditions on: encoder_hidden_states [B, L, D], or several named tensors, first axis B each."""

SPACES: Final = ("auto", "epsilon", "native")
FAMILIES: Final[dict[str, type[StableDiffusionDenoiser]]] = {"StableDiffusionPipeline": StableDiffusionDenoiser}
"""Pipeline class -> adapter."""


def each(function: Callable[..., Tensor], *conditionings: Conditioning) -> Conditioning:
    """``function`` applied to the tensors of conditionings of one structure."""
    first = conditionings[0]
    if isinstance(first, Tensor):
        return function(*conditionings)
    named = [c for c in conditionings if isinstance(c, dict)]
    return {name: function(*(c[name] for c in named)) for name in first}


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


class GuidedModel:
    """A denoiser with a scheduler to sample with, in evaluation mode, its weights without gradients.

    Args:
        denoiser: the family's adapter; its ``model`` is used as it stands.
        pipe: the diffusers pipeline that gives the scheduler.
        scheduler: ``auto``, ``ddim`` or ``own``, as in ``inference.generate``.
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
        return pipeline_resolution(self.pipe)

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
            return each(lambda c: c.to(self.device), self.denoiser.conditioning(list(prompts)))

    def unconditional(self, count: int) -> Conditioning:
        """The family's own unconditional conditioning, ``count`` times."""
        with torch.no_grad():
            return each(lambda c: c.to(self.device), self.denoiser.unconditional(count))

    def timesteps(self, schedule_steps: int) -> Tensor:
        """The timesteps of a schedule of that many steps."""
        return self._prepared(schedule_steps).timesteps

    def predict(
        self, model_input: Tensor, timestep: Tensor, cond: Conditioning, uncond: Conditioning
    ) -> tuple[Tensor, Tensor]:
        """(conditional, unconditional) predictions [B, ...] float32, in one pass of the network over 2B rows."""
        both = each(lambda u, c: torch.cat([u.to(self.dtype), c.to(self.dtype)]), uncond, cond)
        doubled = torch.cat([model_input, model_input]).to(self.dtype)
        times = timestep.to(self.device).expand(len(doubled))
        predicted = self.denoiser.predict(self.model, doubled, times, both).float()  # type: ignore[arg-type]
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
        scheduler = self._prepared(schedule_steps)
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
                cond, uncond = (each(lambda c, rows=kept: c[rows], branch) for branch in (cond, uncond))
                if "generator" in extra:
                    extra["generator"] = [extra["generator"][row] for row in kept.tolist()]
            x = scheduler.step(guided, timestep, x, return_dict=False, **extra)[0]

    def _prepared(self, schedule_steps: int) -> Any:
        scheduler = type(self._scheduler).from_config(self._scheduler.config)
        scheduler.set_timesteps(schedule_steps, device=self.device)
        return scheduler


def pipeline_resolution(pipe: Any) -> int:
    """Pixels a side that a pipeline was made for."""
    network = getattr(pipe, "unet", None) or pipe.transformer
    size = network.config.sample_size
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


def open_model(
    model: Any, *, scheduler: str = "auto", device: str | None = None, dtype: torch.dtype | None = None
) -> GuidedModel:
    """A pipeline folder, or a diffusers pipeline in memory, opened for measuring; nothing is downloaded.

    A pipeline in memory is used as it stands: its parts are shared.

    Raises:
        ValueError: no such folder, a part is missing, guidance is distilled into the model, or an unknown family.
    """
    if isinstance(model, GuidedModel):
        return model
    if not isinstance(model, (str, Path)):
        return _open_pipeline(model, scheduler)
    folder = Path(model)
    index = folder / "model_index.json"
    if not index.is_file():
        raise ValueError(f"--model: '{folder}' holds no diffusers pipeline (no model_index.json); name a local folder")
    _refuse_distilled(str(folder), _config(folder / "unet") or _config(folder / "transformer"))
    denoiser = _family(_json(index).get("_class_name", ""), str(folder))(str(folder), dtype=dtype or torch.float32)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    denoiser.to(place)
    denoiser.model.to(place)
    if dtype not in (None, torch.float32):
        denoiser.model.to(dtype)
    denoiser.model.requires_grad_(False).eval()
    return GuidedModel(denoiser, denoiser.pipeline(), scheduler)


def _open_pipeline(pipe: Any, scheduler: str) -> GuidedModel:
    network = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
    _refuse_distilled(type(pipe).__name__, dict(getattr(network, "config", {})))
    return GuidedModel(_family(type(pipe).__name__, "the pipeline").from_pipeline(pipe), pipe, scheduler)


def _family(name: str, what: str) -> type[StableDiffusionDenoiser]:
    if name not in FAMILIES:
        raise ValueError(
            f"--model: '{what}' is a {name or 'pipeline of no named class'}, a family that is not known here; known: "
            f"{', '.join(FAMILIES)}"
        )
    return FAMILIES[name]


def _refuse_distilled(what: str, config: dict[str, Any]) -> None:
    if config.get("time_cond_proj_dim") is not None or config.get("guidance_embeds"):
        raise ValueError(
            f"--model: '{what}' is guidance-distilled: it has no unconditional branch, so the magnitude, and with it "
            "detect, explain, minimize and the guard, cannot work; verify, and probe without --attack, which look at "
            "images, can"
        )


def _config(folder: Path) -> dict[str, Any]:
    return _json(folder / "config.json") if (folder / "config.json").is_file() else {}


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"--model: '{path}' is not JSON: {error}") from None
    return value if isinstance(value, dict) else {}
