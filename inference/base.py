"""The model before fine-tuning, beside a finished one: where it is found, and its predictions at the same (x_t, t)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import yaml
from torch import Tensor

from memsieve.filtering.denoisers.base import Conditioning, Denoiser
from memsieve.filtering.denoisers.lora import AdapterOff
from memsieve.filtering.denoisers.lora_files import base_of
from memsieve.filtering.denoisers.model_files import JOINED
from memsieve.filtering.denoisers.quantize import precision_of
from memsieve.filtering.denoisers.registry import denoiser_of, open_denoiser
from memsieve.inference.weights import weights_identity

__all__ = ["Base", "base_of_model", "open_base"]


_ANY_PROMPTS: Final = ("a photo of a cat, red and blue", "zxq")
_ROUNDING: Final = 3e-3
"""Of an encoding's norm: what half precision on one side comes to, and less than any fine-tuning that matters."""
_HUB_ID: Final = re.compile(r"[\w-][\w.-]*/[\w.-]+")


@dataclass(frozen=True, slots=True)
class Base:
    """A network before fine-tuning, and how it is told what is to be drawn.

    Attributes:
        name: the folder or hub id, for messages.
        network: frozen; the finished model itself with its LoRA switched off, or a model of its own.
        denoiser: the family's adapter with the base's own text encoders.
        same_text: whether these encode prompts as the model's own do. Where they were fine-tuned too, an embedding of
            the model's is none of the base's.
    """

    name: str
    network: torch.nn.Module
    denoiser: Denoiser
    same_text: bool = True

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """The conditioning of ``prompts`` by the base's own text encoders, without gradients."""
        with torch.no_grad():
            return self.denoiser.conditioning(list(prompts))

    def predict(self, model_input: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """The base's prediction [B, ...] float32, in its own parametrisation."""
        dtype = precision_of(self.network)
        times = timestep.to(model_input.device).expand(len(model_input))
        states = conditioning.to(dtype=dtype)
        with torch.no_grad():
            return self.denoiser.predict(self.network, model_input.to(dtype), times, states).float()


def base_of_model(model: str | Path) -> str | None:
    """What a finished model was fine-tuned from, as far as its folder says: a LoRA's ``base_model.json``, or the
    ``config.yaml`` of the run that wrote ``RUN/pipeline``; None where it says nothing."""
    named = base_of(str(model), "--model")
    if named is not None:
        return named
    config = Path(model).expanduser().resolve().parent / "config.yaml"
    if not config.is_file():
        return None
    try:
        settings = yaml.safe_load(config.read_text(encoding="utf-8"))
        path = settings["model"]["path"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return None
    if not isinstance(path, str):
        return None
    # A folder or file is named from where the run was started, which need not be here.
    there = Path(path.partition(JOINED)[0]).expanduser().exists()
    return path if there or _HUB_ID.fullmatch(path) else None


def open_base(base: Any, model: Denoiser, network: torch.nn.Module, dtype: torch.dtype) -> Base:
    """The base of a model that is open.

    Args:
        base: a pipeline folder, a hub id, a diffusers pipeline in memory, or ``AdapterOff`` of ``network``.
        model: the finished model's adapter.
        network: its network, whose device the base goes to.
        dtype: of the base.

    Raises:
        ValueError: it cannot be opened, or is of another family, parametrisation or latent size.
    """
    if isinstance(base, AdapterOff):
        return Base("its LoRA switched off", base, model)
    device = next(network.parameters()).device
    if isinstance(base, (str, Path)):
        opened = open_denoiser(str(base), model.prediction_type, dtype, model_dtype=dtype, option="--base")
        opened.to(device)
        opened.model.to(device)
        opened.model.requires_grad_(False).eval()
        name = str(base)
    else:
        opened, name = denoiser_of(base, "--base"), type(base).__name__
    _check(name, opened, model)
    return Base(name, opened.model, opened, _same_text(opened, model))


@torch.no_grad()
def _same_text(base: Denoiser, model: Denoiser) -> bool:
    """Whether both encode a prompt alike, to rounding: weights, tokenizer and what a pipeline does to a prompt."""
    for prompt in _ANY_PROMPTS:
        theirs, ours = (part.conditioning([prompt]).embeddings for part in (base, model))
        for name, value in ours.items():
            other = theirs[name].to(value.device, torch.float32)
            if other.shape != value.shape or not (other - value.float()).norm() <= _ROUNDING * value.float().norm():
                return False
    return True


def _check(name: str, base: Denoiser, model: Denoiser) -> None:
    """Refuse a base whose predictions cannot be put beside the model's."""
    pairs = {
        "family": (type(base).__name__.removesuffix("Denoiser"), type(model).__name__.removesuffix("Denoiser")),
        "prediction type": (base.prediction_type, model.prediction_type),
        "latent shape": (base.latent_shape(model.resolution), model.latent_shape(model.resolution)),
        "number of timesteps": (base.num_train_timesteps, model.num_train_timesteps),
    }
    for what, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise ValueError(
                f"--base: '{name}' has another {what} than the model ({theirs}, not {ours}); name the model that it "
                "was fine-tuned from"
            )
    vaes = [weights_identity(part.pipeline().components["vae"]) for part in (base, model)]
    if vaes[0] != vaes[1]:
        raise ValueError(
            f"--base: '{name}' has another VAE than the model, so that the same latents are other pictures; name the "
            "model that it was fine-tuned from"
        )
