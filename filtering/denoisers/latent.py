"""What all families share: parts from a folder or a pipeline, a VAE, frozen text encoders, and one way of noising."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Self

import torch

from memsieve.filtering.denoisers.conditioning import Conditioning, TextPart
from memsieve.filtering.denoisers.drawing import DrawsImages
from memsieve.filtering.denoisers.hub import read_index
from memsieve.filtering.denoisers.model_files import named_file
from memsieve.filtering.denoisers.normalise import Normalisation, denormalised, normalised
from memsieve.filtering.denoisers.parts import NETWORKS, Dtypes, load_parts, own_scheduler, scheduler_config
from memsieve.filtering.denoisers.single_file import load_checkpoint, told_scheduler
from memsieve.filtering.denoisers.spaces import NoiseSpace, VariancePreserving
from memsieve.filtering.denoisers.supported import (
    check_classes,
    check_diffusion,
    check_flow,
    check_sides,
    check_vae_channels,
)

__all__ = ["LatentDenoiser"]


class LatentDenoiser(DrawsImages):
    """A family's parts, used as diffusers' own training examples use them.

    A family names its parts and says how prompts are encoded and the network is called; the rest is here.

    Args:
        folder: a diffusers pipeline folder (``memsieve.filtering.denoisers.registry`` finds it for a hub id), or
            ``CHECKPOINT.safetensors::FOLDER``, a single file with the folder of its configs.
        prediction_type: overrides the scheduler's own.
        dtypes: of the network, the VAE and the text encoders, and how many bits frozen weights are held in.
        option: named in messages.

    Raises:
        ValueError: a part is missing, or the model is not made as the family's are; the message says how.
    """

    optional: ClassVar[tuple[str, ...]] = ()
    """Parts that a pipeline may lack."""
    options: ClassVar[tuple[str, ...]] = ()
    """Settings of the pipeline itself that decide something."""
    space_class: ClassVar[type[NoiseSpace]] = VariancePreserving
    lora_targets: ClassVar[tuple[str, ...]] = ("to_k", "to_q", "to_v", "to_out.0")
    """Ends of the names of the layers that a LoRA adapts by default: those of diffusers' LoRA example."""
    patch: ClassVar[int] = 1
    """Latent sides must be multiples of it."""
    packed: ClassVar[int] = 1
    """Latent values that the network takes as one of its channels."""
    normalised: ClassVar[Normalisation] = "scale"
    """What the family's pipeline undoes before it decodes."""

    vae: Any

    def __init__(
        self,
        folder: str,
        prediction_type: str | None = None,
        dtypes: Dtypes = Dtypes(),  # noqa: B008  (immutable)
        option: str = "model.path",
    ) -> None:
        file = named_file(str(folder), option)
        self.folder = str(folder) if file is None else str(file.beside)
        index, what = read_index(Path(self.folder), option), f"'{folder}'"
        check_classes(self.parts, index, NETWORKS, what, option)
        scheduler = scheduler_config(self.folder, option)
        if file is None:
            parts = load_parts(self.parts, self.optional, self.folder, index, dtypes, option)
        else:
            scheduler = told_scheduler(file, scheduler, option)
            parts = load_checkpoint(type(self), file, index, dtypes, option)
        for name, part in parts.items():
            self._keep(name, part)
        self.settings = {name: index[name] for name in self.options if name in index}
        self._settle(scheduler, prediction_type, what, option)

    @classmethod
    def from_pipeline(cls, pipe: Any, option: str = "--model") -> Self:
        """The parts of a pipeline in memory, shared with it and left as they are (mode, dtype, device)."""
        denoiser = cls.__new__(cls)
        denoiser.folder = str(pipe.config.get("_name_or_path", "") or "")
        for name in cls.parts:
            denoiser._keep(name, getattr(pipe, name))
        denoiser.settings = {name: pipe.config[name] for name in cls.options if name in pipe.config}
        # A copy: the pipeline's scheduler keeps the counters of its own sampling.
        config = {"_class_name": type(pipe.scheduler).__name__, **dict(pipe.scheduler.config)}
        denoiser._settle(config, None, "the pipeline", option)
        denoiser.device = pipe.device
        return denoiser

    @classmethod
    def check_pipeline(cls, pipe: Any, option: str = "--model") -> None:
        """Refuse a pipeline whose network takes something else than a prompt, where it is only drawn with.

        Raises:
            ValueError: says what such a network is.
        """
        denoiser = cls.__new__(cls)
        for name in cls.parts:
            denoiser._keep(name, getattr(pipe, name))
        denoiser._check_network("the pipeline", option)

    def _keep(self, name: str, part: Any) -> None:
        setattr(self, "model" if name in NETWORKS else name, part)

    def _settle(self, scheduler: dict[str, Any], prediction_type: str | None, what: str, option: str) -> None:
        """What follows from the parts; refuses those that the adapter would be wrong for."""
        noised = self._noised_as(scheduler)
        if self.space_class is VariancePreserving:
            check_diffusion(own_scheduler(noised, None), what, option)
        else:
            check_flow(noised, what, option)
        self._check_network(what, option)
        self.space = self.space_class(noised, prediction_type)
        self.noise_scheduler = self.space.noise_scheduler
        self._own_scheduler = own_scheduler(scheduler, None if prediction_type == "flow" else prediction_type)
        self.prediction_type, self.num_train_timesteps = self.space.prediction_type, self.space.num_train_timesteps
        self._unconditional: Conditioning | None = None
        self.device = torch.device("cpu")

    def _noised_as(self, scheduler: dict[str, Any]) -> dict[str, Any]:
        """The config of the scheduler that noise is drawn by: the pipeline's own, unless the family samples by another
        kind."""
        return scheduler

    def _check_network(self, what: str, option: str) -> None:
        """Refuse a network that takes something else than this family gives it."""
        takes = int(self.config.in_channels) // self.packed
        check_vae_channels(takes, self.latent_channels, what, option)

    @property
    def config(self) -> Any:
        """The denoising network's."""
        return self.model.config

    @property
    def distilled(self) -> str | None:
        """A network that embeds the guidance scale (time_cond_proj_dim: LCM; guidance_embeds: Flux dev)."""
        if self.config.get("time_cond_proj_dim") is None and not self.config.get("guidance_embeds"):
            return None
        return "guidance is distilled into it, so that it has no unconditional prediction to compare with"

    @property
    def idle_layers(self) -> tuple[str, ...]:
        """Beginnings of the names of parameters that nothing the network predicts depends on; most families' none."""
        return ()

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        return int(self.vae.config.latent_channels)

    @property
    def vae_factor(self) -> int:
        """Pixels a side of one latent."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def resolution(self) -> int:
        """Pixels a side that the model was made for."""
        side = self.config.sample_size
        return int(side[0] if isinstance(side, list | tuple) else side) * self.vae_factor

    def to(self, device: torch.device) -> Self:
        """Move the frozen parts; the trained model is moved by whoever prepares it."""
        for name in self.parts:
            part = getattr(self, name, None) if name not in NETWORKS else None
            if isinstance(part, torch.nn.Module):
                part.to(device)
        self.device = device
        return self

    # -- images ---------------------------------------------------------------------------------------------------

    def latent_shape(self, height: int, width: int | None = None) -> tuple[int, int, int]:
        """(C, h, w) of one latent of ``height`` x ``width`` pixels, square without ``width``.

        Raises:
            ValueError: the family has no latent of that shape; names the option and the reason.
        """
        width = check_sides(height, width, self.vae_factor * self.patch, "this model's VAE")
        return self.latent_channels, height // self.vae_factor, width // self.vae_factor

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
        """Latents [B, C, h, w], float32: the posterior, sampled, and normalised as the family's pipeline undoes it."""
        mean, std = posterior
        return normalised(mean + std * noise.to(self.device, self.vae.dtype), self.vae.config, self.normalised).float()

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Images [B, 3, H, W] in [-1, 1], float32, of the network's latents [B, C, h, w]."""
        if self.vae.dtype == torch.float16 and self.vae.config.get("force_upcast"):
            self.vae.to(torch.float32)  # as SDXL's pipeline: in half precision its VAE overflows
        images: torch.Tensor = self.vae.decode(self._unscaled(latents).to(self.vae.dtype), return_dict=False)[0]
        return images.float().clamp(-1, 1)

    def _unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        """The VAE's latents of the network's."""
        return denormalised(latents, self.vae.config, self.normalised)

    # -- prompts --------------------------------------------------------------------------------------------------

    @abstractmethod
    def encode(self, captions: list[str]) -> Conditioning:
        """The text encoders' outputs, as the family's pipeline puts them together."""

    @torch.no_grad()
    def conditioning(self, captions: list[str]) -> Conditioning:
        """The encoded ``captions``; an empty caption is the family's own unconditional one."""
        encoded = self.encode(captions)
        empty = [not caption for caption in captions]
        return encoded.where(empty, self.unconditional(1)) if any(empty) else encoded

    def unconditional(self, count: int) -> Conditioning:
        """What the family's pipeline guides away from where no negative prompt is given, ``count`` times."""
        if self._unconditional is None:
            # It is kept, and tensors made in inference mode take part in no gradient later.
            with torch.inference_mode(False), torch.no_grad():
                self._unconditional = self._without_prompt()
        return self._unconditional.expand(count)

    def _without_prompt(self) -> Conditioning:
        """One unconditional row: the empty caption, unless the family has another."""
        return self.encode([""])

    @abstractmethod
    def text_layout(self) -> list[TextPart]:
        """Where each text encoder stands in the sequence."""

    # -- noise ----------------------------------------------------------------------------------------------------

    def timesteps_at(self, positions: torch.Tensor) -> torch.Tensor:
        """The timesteps [B] of ``positions`` drawn uniformly from [0, num_train_timesteps)."""
        return self.space.timesteps_at(positions)

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Noised latents, as the family's scheduler has it."""
        return self.space.add_noise(latents, noise, timesteps)

    def target(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """eps, v or x_0 as the prediction type says; eps - x_0 of flow models."""
        return self.space.target(latents, noise, timesteps)

    def to_epsilon(self, prediction: torch.Tensor, noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """The prediction as a noise estimate."""
        return self.space.to_epsilon(prediction, noisy, timesteps)

    def epsilon_factor(self, timesteps: torch.Tensor) -> torch.Tensor:
        """|d eps / d prediction| at each t."""
        return self.space.factor(timesteps)

    def snr(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Signal-to-noise ratio alpha_t^2 / sigma_t^2; refused by flow models."""
        return self.space.snr(timesteps)
