"""Stable Diffusion 1.x and 2.x: a UNet2DConditionModel on VAE latents, one CLIP text encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import compute_snr
from transformers import CLIPTextModel, CLIPTokenizer

from filtering.denoisers.base import EpsilonSpace

__all__ = ["StableDiffusionDenoiser"]


class StableDiffusionDenoiser:
    """The parts of a Stable Diffusion pipeline, used as the diffusers text-to-image example uses them.

    Args:
        folder: a diffusers pipeline folder, or a hub id.
        prediction_type: overrides the scheduler's own.
        dtype: of the frozen parts (VAE, text encoder); the trained UNet stays float32.

    Raises:
        ValueError: a part is missing; the message names it.
    """

    def __init__(self, folder: str, prediction_type: str | None = None, dtype: torch.dtype = torch.float32) -> None:
        self.folder = folder
        self.model: torch.nn.Module = _part(UNet2DConditionModel, folder, "unet", torch.float32)
        self.vae = _part(AutoencoderKL, folder, "vae", dtype).requires_grad_(False).eval()
        self.text_encoder = _part(CLIPTextModel, folder, "text_encoder", dtype).requires_grad_(False).eval()
        self.tokenizer = _part(CLIPTokenizer, folder, "tokenizer", None)
        self.noise_scheduler = _part(DDPMScheduler, folder, "scheduler", None)
        if prediction_type is not None:
            self.noise_scheduler.register_to_config(prediction_type=prediction_type)
        self._settle()

    @classmethod
    def from_pipeline(cls, pipe: Any) -> StableDiffusionDenoiser:
        """The parts of a pipeline in memory, shared with it and left as they are (mode, dtype, device)."""
        denoiser = cls.__new__(cls)
        denoiser.folder = str(pipe.config.get("_name_or_path", "") or "")
        denoiser.model, denoiser.vae, denoiser.text_encoder = pipe.unet, pipe.vae, pipe.text_encoder
        denoiser.tokenizer = pipe.tokenizer
        # A copy: the pipeline's scheduler keeps the counters of its own sampling.
        denoiser.noise_scheduler = DDPMScheduler.from_config(dict(pipe.scheduler.config))
        denoiser._settle()
        denoiser.device = pipe.device
        return denoiser

    def _settle(self) -> None:
        """What follows from the parts."""
        self.prediction_type = str(self.noise_scheduler.config.prediction_type)
        self.num_train_timesteps = int(self.noise_scheduler.config.num_train_timesteps)
        self._space = EpsilonSpace(self.noise_scheduler.alphas_cumprod, self.prediction_type)
        self._unconditional: torch.Tensor | None = None
        self.device = torch.device("cpu")

    def to(self, device: torch.device) -> StableDiffusionDenoiser:
        """Move the frozen parts; the trained model is moved by whoever prepares it."""
        self.vae.to(device)
        self.text_encoder.to(device)
        self.device = device
        return self

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """(C, h, w) of one latent at ``resolution`` pixels."""
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        if resolution % factor:
            raise ValueError(f"data.resolution: {resolution} must be a multiple of {factor} for this model's VAE")
        return int(self.vae.config.latent_channels), resolution // factor, resolution // factor

    @torch.no_grad()
    def latents(self, pixels: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Scaled latents [B, C, h, w], float32, the posterior sampled with ``noise``."""
        return self.sample_latents(self.posterior(pixels), noise)

    @torch.no_grad()
    def posterior(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the unscaled latents, each [B, C, h, w] in the VAE's dtype."""
        posterior = self.vae.encode(pixels.to(self.device, self.vae.dtype)).latent_dist
        return posterior.mean, posterior.std

    def sample_latents(self, posterior: tuple[torch.Tensor, torch.Tensor], noise: torch.Tensor) -> torch.Tensor:
        """Scaled latents [B, C, h, w], float32: the ``posterior`` sampled with ``noise``."""
        mean, std = posterior
        sampled = mean + std * noise.to(self.device, self.vae.dtype)
        latents: torch.Tensor = (sampled * self.vae.config.scaling_factor).float()
        return latents

    @torch.no_grad()
    def conditioning(self, captions: list[str]) -> torch.Tensor:
        """encoder_hidden_states [B, L, D] of ``captions``, padded to the tokenizer's full length."""
        tokens = self.tokenizer(
            captions,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        states: torch.Tensor = self.text_encoder(tokens.input_ids.to(self.device), return_dict=False)[0]
        return states

    def unconditional(self, count: int) -> torch.Tensor:
        """The embedding of the empty caption, computed once, [count, L, D]."""
        if self._unconditional is None:
            self._unconditional = self.conditioning([""])
        return self._unconditional.expand(count, -1, -1)

    def text_layout(self) -> list[tuple[str, Any, int]]:
        """One encoder, whose positions are those of encoder_hidden_states."""
        return [("text_encoder", self.tokenizer, 0)]

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """x_t = alpha_t x_0 + sigma_t eps."""
        noisy: torch.Tensor = self.noise_scheduler.add_noise(latents, noise, timesteps)
        return noisy

    def predict(
        self, model: torch.nn.Module, noisy: torch.Tensor, timesteps: torch.Tensor, conditioning: torch.Tensor
    ) -> torch.Tensor:
        """The UNet's prediction, [B, C, h, w]."""
        prediction: torch.Tensor = model(noisy, timesteps, conditioning, return_dict=False)[0]
        return prediction

    def target(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """eps, v or x_0, as the prediction type says."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return latents
        velocity: torch.Tensor = self.noise_scheduler.get_velocity(latents, noise, timesteps)
        return velocity

    def to_epsilon(self, prediction: torch.Tensor, noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """The prediction as a noise estimate."""
        return self._space.to_epsilon(prediction, noisy, timesteps)

    def epsilon_factor(self, timesteps: torch.Tensor) -> torch.Tensor:
        """|d eps / d prediction| at each t."""
        return self._space.factor(timesteps)

    def snr(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Signal-to-noise ratio alpha_t^2 / sigma_t^2."""
        ratio: torch.Tensor = compute_snr(self.noise_scheduler, timesteps)
        return ratio

    def pipeline(self, model: torch.nn.Module | None = None) -> Any:
        """A StableDiffusionPipeline of the parts, without a safety checker, its progress bar off."""
        pipe = StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=model if model is not None else self.model,
            scheduler=self.noise_scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def export(self, folder: Path, model: torch.nn.Module) -> None:
        """Write a plain diffusers pipeline folder, safetensors."""
        self.pipeline(model).save_pretrained(folder, safe_serialization=True)


def _part(kind: Any, folder: str, name: str, dtype: torch.dtype | None) -> Any:
    """One part of a pipeline folder, weights as safetensors only."""
    local = Path(folder)
    if local.is_dir() and not (local / name).is_dir():
        raise ValueError(f"model.path: '{folder}' has no {name}/ folder; name a complete diffusers pipeline folder")
    options: dict[str, Any] = {} if dtype is None else {"torch_dtype": dtype, "use_safetensors": True}
    if kind is CLIPTextModel and dtype is not None:
        options = {"dtype": dtype, "use_safetensors": True}
    try:
        return kind.from_pretrained(folder, subfolder=name, **options)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"model.path: cannot load the {name} of '{folder}': {str(error).splitlines()[0]}. Name a local diffusers "
            "pipeline folder, or a hub id that this machine can reach"
        ) from error
