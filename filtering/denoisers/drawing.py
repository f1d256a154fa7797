"""A family's parts as a diffusers pipeline: to draw images with, and to write to a folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import torch

from memsieve.filtering.denoisers.base import Call
from memsieve.filtering.denoisers.conditioning import Conditioning
from memsieve.filtering.denoisers.parts import NETWORKS
from memsieve.filtering.denoisers.spaces import NoiseSpace

__all__ = ["DrawsImages"]


class DrawsImages(ABC):
    """The half of an adapter that draws: the family's own pipeline of the parts that ``LatentDenoiser`` holds."""

    pipeline_class: ClassVar[Any]
    parts: ClassVar[dict[str, Any]]
    """Part -> class: the network (unet or transformer), vae, text encoders and tokenizers, as the pipeline names them.
    """
    guidance_name: ClassVar[str] = "guidance_scale"
    """The pipeline's argument that guides by the unconditional prediction."""
    unguided: ClassVar[float] = 1.0
    """The value of that argument that guides nothing; more guides so much more."""
    negative_prompt_guides: ClassVar[bool] = False
    """Whether the pipeline guides by ``guidance_name`` only where it is given a negative prompt."""
    mask_names: ClassVar[tuple[str, str] | None] = None
    """The pipeline's arguments for the masks of the prompt and of the negative prompt; None where it takes none."""
    separate_branches: ClassVar[bool] = False
    """Whether the pipeline calls the network once with and once without the prompt, not once with both in a row."""
    prompt_first: ClassVar[bool] = False
    """Where both are in a row: whether those with the prompt come first."""

    model: torch.nn.Module
    space: NoiseSpace
    noise_scheduler: Any
    settings: dict[str, Any]
    """Of the pipeline itself, as its folder has them."""
    _own_scheduler: Any

    @property
    @abstractmethod
    def distilled(self) -> str | None:
        """Why there is no unconditional prediction; None where there is one."""

    def sampler(self) -> Any:
        """A deterministic scheduler of its own to draw images with."""
        return self.space.sampler()

    def set_timesteps(self, scheduler: Any, steps: int, resolution: int, device: torch.device) -> None:
        """Prepare a sampling scheduler; most families' does not depend on the resolution."""
        scheduler.set_timesteps(steps, device=device)

    def pipeline(self, model: torch.nn.Module | None = None) -> Any:
        """The family's diffusers pipeline of the parts, its progress bar off."""
        given = {name: getattr(self, name, None) for name in self.parts if name not in NETWORKS}
        network = next(name for name in self.parts if name in NETWORKS)
        pipe = self.pipeline_class(
            **given,
            **{network: model if model is not None else self.model},
            scheduler=self.noise_scheduler,
            **self._pipeline_options(),
        )
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def own_pipeline(self, model: torch.nn.Module | None = None) -> Any:
        """As ``pipeline``, with the scheduler that the pipeline samples with."""
        pipe = self.pipeline(model)
        pipe.register_modules(scheduler=self._own_scheduler or self.noise_scheduler)
        return pipe

    def _pipeline_options(self) -> dict[str, Any]:
        return dict(self.settings)

    def call_arguments(
        self,
        cond: Conditioning,
        uncond: Conditioning | None,
        guidance_scale: float,
        latents: torch.Tensor | None = None,
    ) -> dict[str, Any]:
        """Arguments of the pipeline's call that draw from embeddings, and from initial noise ``latents``.

        A distilled network is told the scale as an input, which all pipelines call ``guidance_scale``.
        """
        given = {"prompt_embeds": self._prompt_argument(cond), "pooled_prompt_embeds": cond.pooled}
        if self.mask_names:
            given[self.mask_names[0]] = cond.attention_mask
        if uncond is not None and self.distilled is None:
            given["negative_prompt_embeds"] = self._prompt_argument(uncond)
            given["negative_pooled_prompt_embeds"] = uncond.pooled
            if self.mask_names:
                given[self.mask_names[1]] = uncond.attention_mask
        if latents is not None:
            given["latents"] = self._latents_argument(latents)
        scale = guidance_scale if uncond is not None or self.distilled else 1.0
        return {
            self.guidance_name if self.distilled is None else "guidance_scale": scale - 1.0 + self.unguided,
            **{name: value for name, value in given.items() if value is not None},
            **self._call_options(latents),
        }

    def _prompt_argument(self, states: Conditioning) -> Any:
        """The states in the form in which the pipeline takes them."""
        return states.encoder_hidden_states

    def _latents_argument(self, latents: torch.Tensor) -> torch.Tensor:
        """Initial noise [B, C, h, w] in the form in which the pipeline takes it."""
        return latents

    def _call_options(self, latents: torch.Tensor | None) -> dict[str, Any]:
        """What else the pipeline is told; ``latents`` say how large a picture is asked for."""
        return {}

    # -- guidance -------------------------------------------------------------------------------------------------

    def guided(self, cond: torch.Tensor, uncond: torch.Tensor, guidance_scale: float) -> torch.Tensor:
        """The prediction that the pipeline samples with, of both branches' [B, C, h, w]."""
        return uncond + guidance_scale * (cond - uncond)

    @classmethod
    def guidance(cls, pipe: Any, guidance_scale: float) -> dict[str, Any]:
        """Arguments of a call of ``pipe`` that guide a plain prompt."""
        if cls.negative_prompt_guides:
            return {cls.guidance_name: guidance_scale, "negative_prompt": ""} if guidance_scale > 1 else {}
        return {cls.guidance_name: guidance_scale - 1.0 + cls.unguided}

    # -- the network's output ---------------------------------------------------------------------------------------

    def output_rows(self, output: Any) -> torch.Tensor:
        """The predictions [rows, ...] in what the network returned."""
        rows: torch.Tensor = output[0] if isinstance(output, tuple) else output.sample
        return rows

    def as_output(self, rows: torch.Tensor, output: Any) -> Any:
        """``rows`` in the form of ``output``."""
        return (rows, *output[1:]) if isinstance(output, tuple) else type(output)(sample=rows)

    @abstractmethod
    def read_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """What the network was called with by the family's pipeline."""

    def export(self, folder: Path, model: torch.nn.Module) -> None:
        """Write a plain diffusers pipeline folder, safetensors; it samples as the pipeline that was fine-tuned."""
        self.own_pipeline(model).save_pretrained(folder, safe_serialization=True)
